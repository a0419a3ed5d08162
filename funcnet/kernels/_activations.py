"""Activations whose kernels lack a derivative of some order."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from funcnet._context import beyond_one_gradient, under_vmap
from funcnet.kernels._second_derivatives import allow_second_derivative


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """Torch.nn.functional.hardsigmoid; by relu6, which has a second derivative, for more than one gradient.

    >>> hardsigmoid(torch.tensor([-3.0, 0.0, 3.0]))
    tensor([0.0000, 0.5000, 1.0000])
    """
    if not beyond_one_gradient(input):
        return allow_second_derivative(F.hardsigmoid(input, inplace))
    y = F.relu6(input + 3) / 6
    return input.copy_(y) if inplace else y


def glu(input: Tensor, dim: int = -1) -> Tensor:
    """Torch.nn.functional.glu; composed for more than one gradient, because its rule for jvp has no derivative.

    >>> glu(torch.tensor([2.0, 0.0]))
    tensor([1.])
    """
    if (under_vmap() or beyond_one_gradient(input)) and input.dim() and input.shape[dim] % 2 == 0:
        value, gate = input.chunk(2, dim)
        return value * torch.sigmoid(gate)
    return F.glu(input, dim)
