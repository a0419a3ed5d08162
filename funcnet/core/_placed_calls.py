"""Calls of nets on DTensors, outside of ``funcnet.distributed``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor

from funcnet._errors import TreeError, bullet_list
from funcnet._tensors import iter_named_tensors, iter_tensors
from funcnet._typing import TreeLike
from funcnet.tree import flatten


def placed_tensor_context(params: TreeLike, inputs: Any, kwargs: Any) -> AbstractContextManager[Any]:
    """A context in which functions that torch computes wrongly on DTensors are right, or refused by name.

    It changes nothing where there is no DTensor among the arguments of the call.
    """
    from torch.distributed.tensor import DTensor

    from funcnet.kernels.placed import PlacedTensorInterceptor

    is_placed = any(isinstance(tensor, DTensor) for tensor in iter_tensors((params, inputs, kwargs)))
    return PlacedTensorInterceptor() if is_placed else nullcontext()


def mixed_placement_error(
    title: str, params: TreeLike, inputs: Any, kwargs: Mapping[str, Any], error: Exception
) -> Exception:
    """The error for a call in which plain tensors meet DTensors: says which are which."""
    from torch.distributed.tensor import DTensor

    placed: list[str] = []
    plain: list[str] = []
    for name, tensor in _iter_named(params, inputs, kwargs):
        (placed if isinstance(tensor, DTensor) else plain).append(name)
    if not placed or not plain:
        plain.append("a tensor that the body makes or holds")
    lines = [
        f"{kind}: {', '.join(names[:5])}{', ...' * (len(names) > 5)}"
        for kind, names in (("on a mesh", placed), ("plain", plain))
        if names
    ]
    return TreeError(
        f"{title} computes with tensors that lie on a mesh and with plain ones:{bullet_list(lines)}\n"
        f"Run the loss by funcnet.distributed.value_and_grad, within which all are plain; or place all of them, by "
        f"funcnet.distributed.shard. Torch says: {str(error).strip().partition(chr(10))[0]}"
    )


def _iter_named(params: TreeLike, inputs: Any, kwargs: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    for path, leaf in flatten(params).items():
        if isinstance(leaf, Tensor):
            yield f"params {path!r}", leaf
    for index, value in enumerate(inputs):
        yield from iter_named_tensors(f"input {index}", value)
    for name, value in kwargs.items():
        yield from iter_named_tensors(f"input {name!r}", value)
