"""Copies of what a foreign forward is called with, which it may write to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from funcnet.foreign._isolated_copies import private, reached

_PLAIN = (int, float, complex, str, bytes, bool, type(None), torch.dtype, torch.device, type, nn.Module)


def copy_inputs(inputs: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Copies of all inputs; a tensor given twice stays one."""
    if len(inputs) == 1 and not kwargs and isinstance(inputs[0], Tensor):  # the common case, without a detour
        return (_copied(inputs[0]),), {}
    copied: tuple[tuple[Any, ...], dict[str, Any]] = _private((inputs, dict(kwargs)), [], {})
    return copied


def _private(value: Any, seen: list[tuple[Tensor, Tensor]], copies: dict[int, Any]) -> Any:
    if isinstance(value, Tensor):
        for given, copied in seen:  # not by id: to the compiler that is a constant, and each tensor another graph
            if given is value:
                return copied
        seen.append((value, _copied(value)))
        return seen[-1][1]
    kind = type(value)
    if kind is dict:
        return {key: _private(item, seen, copies) for key, item in value.items()}
    if kind is list or kind is tuple:
        return kind([_private(item, seen, copies) for item in value])
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return kind(*[_private(item, seen, copies) for item in value])
    if isinstance(value, _PLAIN) or callable(value):
        return value
    for one in reached(value).values():  # a cache, an output of another model: copied with all it holds
        if isinstance(one, Tensor):
            copies[id(one)] = _private(one, seen, copies)
        elif isinstance(one, nn.Module):
            copies[id(one)] = one
    return private(value, copies)


def _copied(tensor: Tensor) -> Tensor:
    if tensor.layout == torch.strided and not tensor.is_nested and 0 in tensor.stride():
        return tensor  # expanded: it cannot be written to
    return tensor.clone()


def tensors_in(given: Any) -> list[Tensor]:
    """The tensors in nested dicts, lists and tuples."""
    if isinstance(given, Tensor):
        return [given]
    items = given.values() if isinstance(given, Mapping) else given if isinstance(given, (list, tuple)) else ()
    return [tensor for item in items for tensor in tensors_in(item)]
