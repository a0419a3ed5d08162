"""The arithmetic of an update: one body for steps that may write over memory and for steps that may not.

Where all scalars are numbers these are torch's own kernels. Where one is a tensor (a learning rate under vmap, a step
count in compiled code) they are forms that take tensors and have the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from funcnet.optim._scalars import TENSORS, Scalar, TensorNumber, as_scalar

_HALF_DTYPES = (torch.float16, torch.bfloat16)
_REAL_DTYPES = {torch.complex32: torch.float16, torch.complex64: torch.float32, torch.complex128: torch.float64}
_ONE = torch.ones((), dtype=torch.float32)
_OPERANDS: dict[torch.dtype, dict[float, Tensor]] = {torch.float32: {}, torch.float64: {}}


@dataclass(frozen=True)
class Memory:
    """What a step may write over. The operations of a body take one of these flags as ``over``.

    Args:
        donates: params and tensors of the state.
        reuses: tensors that the step itself made. Nobody differentiates through such a step.
    """

    donates: bool = False
    reuses: bool = False

    def next_step(self, step: Tensor) -> tuple[Scalar, Tensor]:
        """The count of this step, from 1 on, as a scalar and as the entry of the next state."""
        if not self.reuses:
            step = step + 1
            return as_scalar(step), step
        increment = _ONE if step.dtype == torch.float32 else 1  # a tensor is added more quickly
        step = step.add_(increment) if self.donates else step.add(increment)
        return step.item(), step

    def mul(self, x: Tensor, factor: Scalar, over: bool = False) -> Tensor:
        """``x * factor``; written over ``x`` if ``over`` is true."""
        if isinstance(factor, TENSORS):
            return _in_compute_dtype(torch.mul, x, factor)
        if type(factor) is TensorNumber and not x.dim():  # of two tensors without axes, the finer dtype computes
            return x.mul_(factor.tensor) if over else torch.mul(x, factor.tensor).to(x.dtype)
        operand = self._as_operand(x, factor)
        return x.mul_(operand) if over else torch.mul(x, operand)

    def div(self, x: Tensor, divisor: Scalar, over: bool = False) -> Tensor:
        """``x / divisor``; written over ``x`` if ``over`` is true."""
        if isinstance(divisor, TENSORS):
            return _in_compute_dtype(torch.div, x, divisor)
        operand = self._as_operand(x, divisor)
        return x.div_(operand) if over else torch.div(x, operand)

    def add_scalar(self, x: Tensor, value: Scalar, over: bool = False) -> Tensor:
        """``x + value``; written over ``x`` if ``over`` is true."""
        if isinstance(value, TENSORS):
            return torch.add(x, value.to(x.device, real_dtype(x)))  # this kernel rounds a number to the dtype of x
        operand = self._as_operand(x, value)
        return x.add_(operand) if over else torch.add(x, operand)

    def _as_operand(self, x: Tensor, number: float) -> Any:
        """The number, or where a kernel takes that more quickly, a tensor of it that is made once."""
        dtype = x.dtype
        if not (self.reuses and number and x.is_cpu and x.dim() and dtype in _OPERANDS):
            return number
        operands = _OPERANDS[dtype]
        tensor = operands.get(number)
        if tensor is None:
            if len(operands) >= 256:
                operands.clear()
            tensor = operands[number] = torch.tensor(number, dtype=dtype)
        return tensor

    def sqrt(self, x: Tensor, over: bool = False) -> Tensor:
        """The square root; its derivative at 0 is 0, where torch's is infinite and makes NaN of a gradient of zero."""
        if self.reuses:
            return x.sqrt_() if over else x.sqrt()
        is_zero = x == 0
        return torch.where(is_zero, 0, torch.where(is_zero, 1, x).sqrt())


NOTHING, TEMPORARIES, DONATIONS = Memory(), Memory(reuses=True), Memory(donates=True, reuses=True)


def add(x: Tensor, y: Tensor, alpha: Scalar, over: bool = False) -> Tensor:
    """``x + alpha * y``; written over ``x`` if ``over`` is true."""
    if isinstance(alpha, TENSORS):
        if y.is_sparse:
            return x + y * alpha.to(real_dtype(y))
        return torch.addcmul(x, y.to(x.dtype), alpha.to(x.device, real_dtype(x)))  # and so does this one
    return x.add_(y, alpha=alpha) if over else torch.add(x, y, alpha=alpha)


def lerp(x: Tensor, y: Tensor, weight: Scalar, over: bool = False) -> Tensor:
    """``x + weight * (y - x)``; written over ``x`` if ``over`` is true."""
    if isinstance(weight, TENSORS):
        return _in_compute_dtype(torch.lerp, x, y, weight)
    return x.lerp_(y, weight) if over else torch.lerp(x, y, weight)


def addcmul(x: Tensor, y: Tensor, z: Tensor, value: Scalar = 1, over: bool = False) -> Tensor:
    """``x + value * y * z``; written over ``x`` if ``over`` is true."""
    if isinstance(value, TENSORS):
        return _in_compute_dtype(lambda x, y, z, value: torch.addcmul(x, value * y, z), x, y, z, value)
    return x.addcmul_(y, z, value=value) if over else torch.addcmul(x, y, z, value=value)


def addcdiv(x: Tensor, y: Tensor, z: Tensor, value: Scalar = 1, over: bool = False) -> Tensor:
    """``x + value * y / z``; written over ``x`` if ``over`` is true."""
    if isinstance(value, TENSORS):
        return _in_compute_dtype(lambda x, y, z, value: torch.addcdiv(x, value * y, z), x, y, z, value)
    return x.addcdiv_(y, z, value=value) if over else torch.addcdiv(x, y, z, value=value)


def maximum(x: Tensor, y: Tensor, over: bool = False) -> Tensor:
    """The larger of ``x`` and ``y``, element by element; written over ``x`` if ``over`` is true."""
    return torch.maximum(x, y, out=x) if over else torch.maximum(x, y)


def _in_compute_dtype(function: Callable[..., Tensor], x: Tensor, *scalars: Tensor) -> Tensor:
    """The function of tensors and 0-d float64 scalars, rounded as by a kernel that takes the scalars as numbers.

    Kernels compute half dtypes in float32, and round numbers to the dtype in which they compute.
    """
    if x.dtype in _HALF_DTYPES:
        return function(*[tensor.to(x.device, torch.float32) for tensor in (x, *scalars)]).to(x.dtype)
    dtype = real_dtype(x)
    return function(x, *[tensor if tensor.is_complex() else tensor.to(x.device, dtype) for tensor in scalars])


def real_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype of the real numbers in a tensor."""
    return _REAL_DTYPES.get(tensor.dtype, tensor.dtype)


def as_real(tensor: Tensor) -> Tensor:
    """A view of a complex tensor as pairs of real numbers; a real tensor as it is."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def as_dtype_of(tensor: Tensor, like: Tensor) -> Tensor:
    """Pairs of real numbers as a complex tensor, where ``like`` is complex; the inverse of :func:`as_real`."""
    return torch.view_as_complex(tensor) if like.is_complex() else tensor
