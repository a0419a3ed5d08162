"""First values of the entries of a state, as torch.optim makes them."""

from __future__ import annotations

import torch
from torch import Tensor

from funcnet.optim._scalars import TENSORS, Scalar
from funcnet.optim._update_operations import as_dtype_of, as_real, real_dtype


def scalar_dtype() -> torch.dtype:
    """The dtype of step counts and other numbers in a state: float32, or float64 where that is the default dtype."""
    return torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32


def zero_step(param: Tensor, on_device: bool = False, dtype: torch.dtype | None = None) -> Tensor:
    """A step count of 0; in host memory, or on the device of the param."""
    return torch.zeros((), dtype=dtype or scalar_dtype(), device=param.device if on_device else "cpu")


def zeros_like(param: Tensor) -> Tensor:
    """Zeros with the shape, dtype, device and strides of a param."""
    return torch.zeros_like(param, memory_format=torch.preserve_format)


def full_like(param: Tensor, value: Scalar) -> Tensor:
    """A tensor like a param that has one value everywhere; also in the imaginary part of complex numbers."""
    if isinstance(value, TENSORS):
        real = as_real(torch.zeros_like(param)) + value.to(param.device, real_dtype(param))
        return as_dtype_of(real, param)
    return torch.full_like(param, complex(value, value) if param.is_complex() else value)
