"""Every private name of torch that funcnet relies on, in one place, so that a new torch is checked here first."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

import torch
from torch._C._functorch import TransformType
from torch._functorch.pyfunctorch import (
    retrieve_all_functorch_interpreters,
    temporarily_clear_interpreter_stack,
)
from torch.nn.modules import _functions as functions

_P = ParamSpec("_P")
_R = TypeVar("_R")

parse_to = torch._C._nn._parse_to
"""``nn.Module.to``'s reading of its arguments: (device, dtype, non_blocking, memory_format)."""


def constant_result(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """What torch.compiler.assume_constant_result does, without importing the compiler (a second) to do it."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@contextlib.contextmanager
def outside_transforms() -> Iterator[None]:
    """Run a block as if no torch.func transform were active, for what does not concern the tensors of the call."""
    with temporarily_clear_interpreter_stack():
        yield


register_constant = torch.utils._pytree.register_constant
"""Declares a class of immutable, hashable values that compiled code may treat as constants."""


def global_state() -> torch.Tensor:
    """The state of torch's global CPU generator, as int64: four times as fast to compare as the bytes."""
    return torch.default_generator.get_state().view(torch.int64)


def under_vmap() -> bool:
    """Whether the caller runs inside ``torch.vmap``, at any depth."""
    if torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is None:
        return False  # the compiler traces the batching itself
    return any(level.key() == TransformType.Vmap for level in retrieve_all_functorch_interpreters())


def levels_of(tensor: torch.Tensor) -> set[tuple[str, int]]:
    """The active transforms that a tensor takes part in: pairs of "vmap", "grad" or "jvp" and the level of nesting."""
    kinds = {level.level(): _KINDS.get(level.key(), "") for level in retrieve_all_functorch_interpreters()}
    found = set()
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        level = torch._C._functorch.maybe_get_level(tensor)
        if level in kinds:
            found.add((kinds[level], level))
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return found


_KINDS = {TransformType.Vmap: "vmap", TransformType.Grad: "grad", TransformType.Jvp: "jvp"}


def under_transform() -> bool:
    """Whether the caller runs inside any torch.func transform."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def beyond_backward() -> bool:
    """Whether more than one backward pass may be asked of the caller: inside ``torch.func.jvp``, or two derivatives."""
    if torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is None:
        return False
    kinds = [level.key() for level in retrieve_all_functorch_interpreters()]
    return TransformType.Jvp in kinds or kinds.count(TransformType.Grad) > 1


def sync_batch_norm(*arguments: Any) -> torch.Tensor:
    """(input, weight, bias, running mean and var, written to, eps, momentum, process group, its size) -> y."""
    return functions.SyncBatchNorm.apply(*arguments)


def cross_map_lrn(*arguments: Any) -> torch.Tensor:
    """(input, size, alpha, beta, k) -> y; its gradient is written by hand, and knows no transforms."""
    return functions.CrossMapLRN2d.apply(*arguments)


def private_backend() -> str:
    """The name of the device that an extension of torch may have registered."""
    return torch._C._get_privateuse1_backend_name()


unpool_output_size: Callable[..., Any] = getattr(torch.nn.functional, "_unpool_output_size")
"""The size a max_unpool function gives: (input, kernel_size, stride, padding, output_size)."""

fractional_max_pool2d = torch._C._nn.fractional_max_pool2d
fractional_max_pool3d = torch._C._nn.fractional_max_pool3d
"""(input, kernel_size, output_size, random_samples) -> (y, indices): the kernels, which draw nothing themselves."""
