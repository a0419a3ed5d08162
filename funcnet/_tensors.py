"""Questions about tensors that every package asks: their dtype, their bits, and which of them a value contains."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


def is_inexact(tensor_or_dtype: Tensor | torch.dtype) -> bool:
    """Whether a tensor or dtype holds floating or complex numbers, which are the ones that can be differentiated.

    >>> is_inexact(torch.bfloat16), is_inexact(torch.ones(2)), is_inexact(torch.int64)
    (True, True, False)
    """
    dtype = tensor_or_dtype.dtype if isinstance(tensor_or_dtype, Tensor) else tensor_or_dtype
    return dtype.is_floating_point or dtype.is_complex


def is_tensordict(value: object) -> bool:
    """Whether a value is a TensorDict, or a tensorclass: a mapping of tensors whose length and items are its batch's.

    >>> is_tensordict({"a": torch.ones(2)})
    False
    """
    cls = type(value)  # which is asked in words that torch.compile knows
    return hasattr(cls, "_is_tensorclass") or (hasattr(cls, "flatten_keys") and hasattr(cls, "batch_size"))


def same_bits(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors have the same shape, dtype and values; a NaN equals any other NaN.

    >>> same_bits(torch.tensor([1.0, float("nan")]), torch.tensor([1.0, float("nan")]))
    True
    >>> same_bits(torch.ones(2), torch.ones(2, dtype=torch.float64))
    False
    """
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    if torch.equal(left, right):
        return True
    if not is_inexact(left):
        return False
    is_nan = left.isnan()
    return torch.equal(is_nan, right.isnan()) and torch.equal(left[~is_nan], right[~is_nan])


def iter_tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in a value: itself, or those in nested mappings, lists, tuples and dataclasses, in order.

    >>> [tensor.item() for tensor in iter_tensors({"a": torch.tensor(1), "b": [torch.tensor(2), "text"]})]
    [1, 2]
    """
    return (tensor for _, tensor in iter_named_tensors("", value))


def iter_named_tensors(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors in a value, each with the expression that reads it when ``value`` is called ``name``.

    >>> [name for name, _ in iter_named_tensors("x", {"a": [torch.tensor(1), torch.tensor(2)]})]
    ["x['a'][0]", "x['a'][1]"]
    """
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from iter_named_tensors(f"{name}[{key!r}]", item)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from iter_named_tensors(f"{name}[{index}]", item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from iter_named_tensors(f"{name}.{field.name}", getattr(value, field.name))
