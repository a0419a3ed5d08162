"""Every private name of torch that funcnet relies on, in one place, so that a new torch is checked here first."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

import torch
from torch._C._functorch import TransformType
from torch._functorch.pyfunctorch import (
    retrieve_all_functorch_interpreters,
    temporarily_clear_interpreter_stack,
)

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
    if torch._C._functorch.peek_interpreter_stack() is None:
        return torch.default_generator.get_state().view(torch.int64)
    with outside_transforms():  # where a state would become a tensor of the transform, which has no storage
        return torch.default_generator.get_state().view(torch.int64)


def set_global_state(state: torch.Tensor) -> None:
    """Put torch's global CPU generator back to what :func:`global_state` returned."""
    with outside_transforms():
        torch.default_generator.set_state(state.view(torch.uint8))


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


def plainly_eager() -> bool:
    """Whether operators run as they are called: no torch.func transform, no compiler, no mode that traces or fakes."""
    return (
        torch._C._functorch.peek_interpreter_stack() is None
        and not torch._C._len_torch_dispatch_stack()
        and not torch.compiler.is_compiling()
    )


def under_transform() -> bool:
    """Whether the caller runs inside any torch.func transform."""
    return bool(retrieve_all_functorch_interpreters())


def lazy_shapes(module: torch.nn.Module, *inputs: torch.Tensor) -> type[torch.nn.Module]:
    """Give a lazy module on the meta device the shapes that fit its inputs; the class it then is."""
    module.initialize_parameters(*inputs)  # type: ignore[operator]
    return module.cls_to_become  # type: ignore[return-value]


def checkpoint_offset(tensor: torch.Tensor) -> int | None:
    """Where in its file the storage of a tensor lies that ``torch.load(..., map_location="meta")`` made."""
    return getattr(tensor.untyped_storage(), "_checkpoint_offset", None)


def storage_class(dtype: torch.dtype) -> type | None:
    """The class by which torch.save names a storage of this dtype; None where it goes by bytes and the dtype."""
    name = torch.storage._dtype_to_storage_type_map().get(dtype)
    return getattr(torch, name) if name else None


rebuild_tensor_v2 = torch._utils._rebuild_tensor_v2
"""What a pickled tensor calls to be made of a storage of its dtype."""

rebuild_tensor_v3 = torch._utils._rebuild_tensor_v3
"""The same for dtypes that have no storage class of their own."""
