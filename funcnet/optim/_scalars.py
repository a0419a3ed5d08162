"""Hyperparameters and step counts as scalars: a number where one can be read, else a 0-d float64 tensor."""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import Tensor

from funcnet._context import tensors_are_real, under_forward_mode
from funcnet._torch import is_batched_by_vmap, is_wrapped_by_transform, unwrap_once

Scalar: TypeAlias = "float | Tensor"
"""A number, or a 0-d float64 tensor that is batched, traced or differentiated."""


def as_scalar(value: Any) -> Any:
    """The number in a tensor of one element; the tensor in float64 where a transform or autograd follows it.

    To read the number would cut its derivative, and cannot be done under vmap or in compiled code. Numbers of Python
    are float64 too, so both have the same bits. Tuples are converted item by item; everything else stays as it is.

    >>> as_scalar(torch.tensor([0.5])), as_scalar((0.9, None))
    (0.5, (0.9, None))
    >>> as_scalar(torch.tensor(0.5, requires_grad=True))
    tensor(0.5000, dtype=torch.float64, grad_fn=<ToCopyBackward0>)
    """
    if isinstance(value, tuple):
        return tuple(as_scalar(item) for item in value)
    if not isinstance(value, Tensor):
        return value
    return read_number(value) if is_readable(value) else value.reshape(()).to(torch.float64)


def read_number(tensor: Tensor) -> float:
    """The number in a readable tensor of one element."""
    while is_wrapped_by_transform(tensor):
        tensor = unwrap_once(tensor)
    return tensor.item()


def is_readable(tensor: Tensor) -> bool:
    """Whether a tensor has one number that does not depend on the example, and nobody differentiates by it."""
    if not tensors_are_real() or under_forward_mode():
        return False
    while is_wrapped_by_transform(tensor):
        if is_batched_by_vmap(tensor) or tensor.requires_grad:
            return False
        tensor = unwrap_once(tensor)
    return not (tensor.requires_grad and torch.is_grad_enabled())


def is_zero(value: Scalar) -> bool:
    """Whether a scalar is known to be 0, so that its term can be left out."""
    return not isinstance(value, Tensor) and value == 0


def larger(left: Scalar, right: Scalar) -> Scalar:
    """The larger of two scalars."""
    if isinstance(left, Tensor) or isinstance(right, Tensor):
        return torch.maximum(*_as_tensors(left, right))
    return max(left, right)


def smaller(left: Scalar, right: Scalar) -> Scalar:
    """The smaller of two scalars."""
    if isinstance(left, Tensor) or isinstance(right, Tensor):
        return torch.minimum(*_as_tensors(left, right))
    return min(left, right)


def _as_tensors(left: Scalar, right: Scalar) -> tuple[Tensor, Tensor]:
    tensor = left if isinstance(left, Tensor) else right
    assert isinstance(tensor, Tensor)
    return (
        left if isinstance(left, Tensor) else torch.full_like(tensor, left),
        right if isinstance(right, Tensor) else torch.full_like(tensor, right),
    )
