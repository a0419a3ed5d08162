"""Tensors of a module that share memory though they are different objects.

In a module, a step of an optimizer writes in place, so a buffer that is a view of a parameter follows it. In a net the
two are entries of trees, and a step makes a new tensor for one of them: what was one would part in silence.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor, nn

from funcnet._errors import ConversionError, bullet_list
from funcnet._tensors import iter_tensors
from funcnet._torch import is_wrapped_by_transform
from funcnet.foreign.internals import named_modules, named_tensors
from funcnet.tree import join


class _Place(NamedTuple):
    path: str
    kind: str  # "parameter", "buffer" or "attribute"
    tensor: Tensor


def refuse_shared_memory(module: nn.Module) -> None:
    """Refuse parameters that share memory with another tensor, and warn of other tensors that do.

    One tensor at several paths is a tie, which a net has too.

    Raises:
        ConversionError: names both tensors.
    """
    problems: list[str] = []
    notes: list[str] = []
    for first, second in _iter_overlaps(_list_places(module)):
        relation = "is the same memory as" if _same_view(first.tensor, second.tensor) else "overlaps"
        line = f"the {second.kind} {second.path!r} {relation} the {first.kind} {first.path!r}"
        is_refused = first.kind == "parameter" and second.kind != "attribute"
        (problems if is_refused else notes).append(line)
    title = type(module).__name__
    if problems:
        raise ConversionError(
            f"{title} has tensors that share memory and are different objects, so a step in place changes both, and a "
            f"step of a net only one{bullet_list(problems)}\n"
            f"To tie parameters, assign one object: module.head.weight = module.embedding.weight. Else give the second "
            f"its own memory, tensor.data = tensor.data.clone(), or compute it from the first in forward."
        )
    if notes:
        warnings.warn(
            f"{title} has tensors that share memory; each has its own in the net, so none follows what is written to "
            f"another:{bullet_list(notes)}",
            stacklevel=3,
        )


def _list_places(module: nn.Module) -> list[_Place]:
    """The params, buffers and tensors in attributes that have memory, each object once, in this order."""
    places = [_Place(path, "parameter", tensor) for path, tensor in named_tensors(module, "_parameters")]
    places += [_Place(path, "buffer", tensor) for path, tensor in named_tensors(module, "_buffers")]
    places += [_Place(path, "attribute", tensor) for path, tensor in _iter_attribute_tensors(module)]
    places_by_id: dict[int, _Place] = {}
    for place in places:
        if _has_memory(place.tensor):
            places_by_id.setdefault(id(place.tensor), place)
    return list(places_by_id.values())


def _iter_attribute_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for path, submodule in named_modules(module):
        recomputed = {getattr(hook, "name", "") for hook in submodule._forward_pre_hooks.values()}
        if isinstance(submodule, nn.RNNBase):
            recomputed.add("_flat_weights")
        for name, value in vars(submodule).items():
            if name not in ("_parameters", "_buffers", "_modules", *recomputed):
                yield from ((join(path, name), tensor) for tensor in iter_tensors(value))


def _has_memory(tensor: Tensor) -> bool:
    if is_wrapped_by_transform(tensor):  # kept from a call within a transform, which has ended
        return False
    is_plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided and not tensor.is_nested
    return is_plain and tensor.device.type != "meta" and not tensor.is_quantized and tensor.numel() > 0


def _iter_overlaps(places: list[_Place]) -> Iterator[tuple[_Place, _Place]]:
    """The pairs of places that have an element in common, in the order of the places."""
    places_by_storage: dict[int, list[_Place]] = {}
    for place in places:
        places_by_storage.setdefault(place.tensor.untyped_storage().data_ptr(), []).append(place)
    for group in places_by_storage.values():
        yield from (
            (first, second) for first, second in combinations(group, 2) if _overlap(first.tensor, second.tensor)
        )


def _overlap(first: Tensor, second: Tensor) -> bool:
    (first_start, first_end), (second_start, second_end) = _byte_range(first), _byte_range(second)
    if first_start >= second_end or second_start >= first_end:
        return False
    if first.is_contiguous() or second.is_contiguous() or first.element_size() != second.element_size():
        return True
    start = min(first.storage_offset(), second.storage_offset())
    marks = torch.zeros((max(first_end, second_end) - min(first_start, second_start)) // first.element_size())
    marks.as_strided(first.shape, first.stride(), first.storage_offset() - start).fill_(1.0)
    return bool(marks.as_strided(second.shape, second.stride(), second.storage_offset() - start).any())


def _byte_range(tensor: Tensor) -> tuple[int, int]:
    """Where the memory of a tensor starts and ends."""
    span = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    return tensor.data_ptr(), tensor.data_ptr() + span * tensor.element_size()


def _same_view(first: Tensor, second: Tensor) -> bool:
    return (first.data_ptr(), first.shape, first.stride(), first.dtype) == (
        second.data_ptr(),
        second.shape,
        second.stride(),
        second.dtype,
    )
