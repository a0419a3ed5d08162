"""Questions about the context of a call: transforms of torch.func, the compiler, or plain eager code."""

from __future__ import annotations

import contextlib
import logging
import threading
import warnings
from collections.abc import Iterator

import torch
from torch.autograd import forward_ad

from funcnet._torch import (
    TransformType,
    active_transforms,
    assume_constant_result,
    count_dispatch_modes,
    is_wrapped_by_transform,
    peek_transform,
    read_forward_mode_state,
    unwrap_once,
    without_transforms,
    wrapping_level,
)


def under_forward_mode() -> bool:
    """Whether the caller differentiates in forward mode, by ``torch.func.jvp`` or ``torch.autograd.forward_ad``."""
    return read_forward_mode_state("_current_level") >= 0


def has_tangent(tensor: torch.Tensor) -> bool:
    """Whether a tensor depends on what the innermost forward-mode derivative is taken by."""
    return forward_ad.unpack_dual(tensor).tangent is not None


@assume_constant_result
def under_transform() -> bool:
    """Whether the caller runs inside any torch.func transform.

    The compiler enters the transforms that it traces. So this function runs while the compiler traces, and its result
    is a constant of the compiled code. If the function itself were traced, the result would always be True.
    """
    return peek_transform() is not None


def under_vmap() -> bool:
    """Whether the caller runs inside ``torch.vmap``, at any depth."""
    if torch.compiler.is_compiling() or peek_transform() is None:
        return False  # the compiler traces the batching itself
    return any(level.key() == TransformType.Vmap for level in active_transforms())


def beyond_one_gradient(*tensors: torch.Tensor) -> bool:
    """Whether the derivatives that may be taken of a call are more than a single gradient.

    Under a single gradient of torch.func, the tensors of the call are asked too. Where autograd itself records them
    beneath that transform, as in a ``value_and_grad`` around it, the gradient may be differentiated once more.
    """
    if torch.compiler.is_compiling():
        return under_transform()  # which derivatives the compiler takes of the code around is not known while it traces
    if _planned.is_second or _planned.is_mapped:
        return True
    if peek_transform() is None:
        return under_forward_mode()
    kinds = [level.key() for level in active_transforms()]
    return kinds != [TransformType.Grad] or any(unwrap_transforms(tensor).requires_grad for tensor in tensors)


class _PlannedDerivatives(threading.local):
    """What the caller of a function, which this thread runs, will do with its result.

    Attributes:
        is_second: whether it is differentiated twice.
        is_mapped: whether the last derivative is taken in many directions at once, by vmap.
    """

    is_second = False
    is_mapped = False


_planned = _PlannedDerivatives()


@contextlib.contextmanager
def derivatives_planned(is_second: bool, is_mapped: bool) -> Iterator[None]:
    """Run a block whose result autograd itself differentiates twice, or in many directions at once.

    Autograd records a call without knowing what derivatives will be taken. The caller who knows says so, and then
    :func:`beyond_one_gradient` is true in the block.

    Args:
        is_second: whether the result is differentiated twice.
        is_mapped: whether the last derivative is taken in many directions at once, by vmap.
    """
    before = _planned.is_second, _planned.is_mapped
    _planned.is_second, _planned.is_mapped = is_second, is_mapped
    try:
        yield
    finally:
        _planned.is_second, _planned.is_mapped = before


def planned_derivatives() -> tuple[bool, bool]:
    """What :func:`derivatives_planned` says in the caller's block: ``is_second`` and ``is_mapped``."""
    return _planned.is_second, _planned.is_mapped


def calls_are_mapped() -> bool:
    """Whether vmap runs the kernels of a call, or will run those of its backward pass."""
    return "Vmap" in transform_kinds() or (_planned.is_mapped and not torch.compiler.is_compiling())


def is_differentiated_twice(*tensors: torch.Tensor | None) -> bool:
    """Whether two derivatives or more are taken of a call by what some tensors depend on, one around the other.

    Autograd's own second backward pass is seen around forward mode, and where :func:`derivatives_planned` says
    that it is mapped; one by ``create_graph=True`` alone is not.
    """
    if torch.compiler.is_compiling():
        return sum(kind != "Vmap" for kind in transform_kinds()) > 1
    if peek_transform() is None:
        is_planned = _planned.is_second and _planned.is_mapped
        return is_planned or (under_forward_mode() and any(_requires_grad(tensor) for tensor in tensors))
    levels: set[tuple[str, int]] = set()
    for tensor in tensors:
        if tensor is not None:
            levels |= transform_levels(tensor)
            if unwrap_transforms(tensor).requires_grad:
                levels.add(("grad", 0))  # by autograd itself, around the transforms
    return sum(kind != "vmap" for kind, _ in levels) > 1


def _requires_grad(tensor: torch.Tensor | None) -> bool:
    return tensor is not None and tensor.requires_grad


@assume_constant_result
def transform_kinds() -> tuple[str, ...]:
    """The names of the active transforms, outermost first; in compiled code those that the compiler has entered."""
    return () if peek_transform() is None else tuple(level.key().name for level in active_transforms())


def unwrap_transforms(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor that the active transforms wrap, as autograd itself sees it."""
    while is_wrapped_by_transform(tensor):
        tensor = unwrap_once(tensor)
    return tensor


def beyond_backward(*tensors: torch.Tensor) -> bool:
    """Whether a call needs more than itself and its backward: a batch, a tangent, a second derivative or a trace."""
    return torch.compiler.is_compiling() or beyond_one_gradient(*tensors)


def is_plainly_eager() -> bool:
    """Whether operators run as they are called: no torch.func transform, no compiler, no mode that traces or fakes."""
    return peek_transform() is None and not count_dispatch_modes() and not torch.compiler.is_compiling()


def tensors_are_real() -> bool:
    """Whether operators run: no compiler, no mode that traces or fakes."""
    return not torch.compiler.is_compiling() and not count_dispatch_modes()


def can_read_numbers() -> bool:
    """Whether a tensor's numbers can be read: it is real, and no batch of them."""
    return tensors_are_real() and not under_vmap()


_KINDS = {TransformType.Vmap: "vmap", TransformType.Grad: "grad", TransformType.Jvp: "jvp"}


def transform_levels(tensor: torch.Tensor) -> set[tuple[str, int]]:
    """The active transforms that a tensor takes part in: pairs of "vmap", "grad" or "jvp" and the level of nesting."""
    kinds = {level.level(): _KINDS.get(level.key(), "") for level in active_transforms()}
    levels = set()
    while is_wrapped_by_transform(tensor):
        level = wrapping_level(tensor)
        if level in kinds:
            levels.add((kinds[level], level))
        tensor = unwrap_once(tensor)
    return levels


def count_derivatives(tensor: torch.Tensor) -> int:
    """How many derivatives a tensor takes part in; known within transforms of torch.func, 0 elsewhere."""
    if torch.compiler.is_compiling() or peek_transform() is None:
        return 0
    count = sum(kind != "vmap" for kind, _ in transform_levels(tensor))
    return count + unwrap_transforms(tensor).requires_grad  # by autograd itself, around the transforms


def warn_caller(message: str, stacklevel: int) -> None:
    """Warn the caller, but not from compiled code, which cannot trace a warning."""
    if not torch.compiler.is_compiling():
        warnings.warn(message, stacklevel=stacklevel + 1)


@contextlib.contextmanager
def outside_transforms() -> Iterator[None]:
    """Run a block as if no torch.func transform were active: for work that does not concern the tensors of the call."""
    with without_transforms():
        yield


@contextlib.contextmanager
def torch_silenced() -> Iterator[None]:
    """Run a block in which torch neither warns nor logs in this thread; other threads are not touched."""
    this_thread = threading.get_ident()
    loggers = [
        logging.getLogger(name) for name in list(logging.Logger.manager.loggerDict) if name.split(".")[0] == "torch"
    ]
    handlers = [handler for logger in loggers for handler in logger.handlers]

    def is_from_another_thread(record: logging.LogRecord) -> bool:
        return record.thread != this_thread

    for handler in handlers:
        handler.addFilter(is_from_another_thread)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for handler in handlers:
            handler.removeFilter(is_from_another_thread)
