"""Hyperparameters and step counts as scalars: a number where one can be read, else a 0-d float64 tensor."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor
from typing_extensions import Self

from funcnet._context import tensors_are_real, under_forward_mode
from funcnet._torch import is_batched_by_vmap, is_wrapped_by_transform, unwrap_once

Scalar: TypeAlias = "float | Tensor"
"""A number, or a 0-d tensor that is batched, traced or differentiated: one in float64,
or a :class:`TensorScalar`, which type checkers know as a tensor."""


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


class _TypedScalar:
    """A hyperparameter from a 0-d tensor: arithmetic with it rounds to the dtype of the tensor, as in torch.optim.

    Other scalars, as counts of steps, have no say in the dtype, even where they are float64 tensors under vmap.
    """

    __slots__ = ()
    tensor: Tensor

    def _combine(self, function: Callable[[Any, Any], Any], left: Any, right: Any) -> TensorNumber | TensorScalar:
        return _typed_scalar(function(self._as_operand(left), self._as_operand(right)))

    def _as_operand(self, value: Any) -> Any:
        if isinstance(value, _TypedScalar):
            return value.tensor
        return value.to(self.tensor.dtype) if isinstance(value, Tensor) else value

    def __neg__(self) -> Any:
        return _typed_scalar(-self.tensor)

    def __add__(self, other: Any) -> Any:
        return self._combine(operator.add, self, other)

    def __radd__(self, other: Any) -> Any:
        return self._combine(operator.add, other, self)

    def __sub__(self, other: Any) -> Any:
        return self._combine(operator.sub, self, other)

    def __rsub__(self, other: Any) -> Any:
        return self._combine(operator.sub, other, self)

    def __mul__(self, other: Any) -> Any:
        return self._combine(operator.mul, self, other)

    def __rmul__(self, other: Any) -> Any:
        return self._combine(operator.mul, other, self)

    def __truediv__(self, other: Any) -> Any:
        return self._combine(operator.truediv, self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return self._combine(operator.truediv, other, self)

    def __pow__(self, other: Any, modulus: None = None) -> Any:
        return self._combine(operator.pow, self, other)

    def __rpow__(self, other: Any, modulus: None = None) -> Any:
        return self._combine(operator.pow, other, self)


class TensorNumber(_TypedScalar, float):
    """A number that was read from a tensor.

    >>> TensorNumber(torch.tensor(0.1)) / 3, 0.1 / 3
    (0.03333333507180214, 0.03333333333333333)
    """

    def __new__(cls, tensor: Tensor) -> Self:
        number = super().__new__(cls, tensor.item())
        number.tensor = tensor
        return number


class TensorScalar(_TypedScalar):
    """A tensor whose number cannot be read: it is batched, traced or differentiated."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def to(self, *arguments: Any) -> Tensor:
        """The tensor on another device or in another dtype."""
        return self.tensor.to(*arguments)

    def is_complex(self) -> bool:
        """Whether it is complex: never, as a hyperparameter."""
        return False


TENSORS = (Tensor, TensorScalar)
"""The classes of scalars that are no numbers."""


def _typed_scalar(tensor: Tensor) -> TensorNumber | TensorScalar:
    return TensorNumber(tensor) if is_readable(tensor) else TensorScalar(tensor)


def as_hyperparameter(value: Any) -> Any:
    """A hyperparameter as a scalar, which remembers the dtype if it was a tensor; in compiled code as in float64."""
    if isinstance(value, tuple):
        return tuple(as_hyperparameter(item) for item in value)
    if not isinstance(value, Tensor) or not value.is_floating_point() or torch.compiler.is_compiling():
        return as_scalar(value)  # the compiler cannot trace the operators of a class beside a tensor
    if not is_readable(value):
        return TensorScalar(value.reshape(()))
    while is_wrapped_by_transform(value):
        value = unwrap_once(value)
    return TensorNumber(value.detach().reshape(()).to("cpu"))


def widen_scalar(value: Any, dtype: torch.dtype) -> Any:
    """A hyperparameter for a param of this dtype: from a tensor of fewer bits, it is a float64 scalar without a dtype.

    torch computes with such a tensor in its own dtype, and so makes rough steps of fine params.
    """
    if isinstance(value, tuple):
        return tuple(widen_scalar(item, dtype) for item in value)
    if not isinstance(value, _TypedScalar) or torch.finfo(value.tensor.dtype).bits >= torch.finfo(dtype).bits:
        return value
    return float(value) if isinstance(value, TensorNumber) else value.tensor.to(torch.float64)


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
    return not isinstance(value, TENSORS) and value == 0


def larger(left: Scalar, right: Scalar) -> Scalar:
    """The larger of two scalars."""
    if isinstance(left, TENSORS) or isinstance(right, TENSORS):
        return _compare(torch.maximum, left, right)
    return max(left, right)


def smaller(left: Scalar, right: Scalar) -> Scalar:
    """The smaller of two scalars."""
    if isinstance(left, TENSORS) or isinstance(right, TENSORS):
        return _compare(torch.minimum, left, right)
    return min(left, right)


def _compare(function: Callable[[Tensor, Tensor], Tensor], left: Any, right: Any) -> Any:
    """One of two scalars; it has the dtype of a hyperparameter if one of the two has one."""
    typed = next((value for value in (left, right) if isinstance(value, TensorScalar)), None)
    tensors = [value.tensor if isinstance(value, TensorScalar) else value for value in (left, right)]
    like: Any = next(tensor for tensor in tensors if isinstance(tensor, Tensor)) if typed is None else typed.tensor
    operands = [
        tensor.to(like.dtype) if isinstance(tensor, Tensor) else torch.full_like(like, tensor) for tensor in tensors
    ]
    result = function(*operands)
    return result if typed is None else TensorScalar(result)
