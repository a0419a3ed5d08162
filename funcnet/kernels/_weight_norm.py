"""Weight normalisation for every derivative."""

from __future__ import annotations

import torch
from torch import Tensor

from funcnet._context import beyond_backward, under_vmap
from funcnet._torch import weight_norm as weight_norm_kernel
from funcnet.kernels._second_derivatives import allow_second_derivative


def weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """``g * v / |v|``, with one length for each slice along ``dim``, or a single one for -1.

    Torch's kernel has no rule for jvp or vmap, and a second derivative that is wrong.

    Source: torch._weight_norm.

    >>> weight_norm(torch.tensor([[3.0, 4.0]]), torch.tensor([[10.0]]))
    tensor([[6., 8.]])
    """
    if beyond_backward(v, g):
        return compose_weight_norm(v, g, dim)
    return allow_second_derivative(weight_norm_kernel(v, g, dim))


def compose_weight_norm(v: Tensor, g: Tensor, dim: int) -> Tensor:
    """The same in operations that have all derivatives."""
    return v * (g / slice_lengths(v, dim))


def slice_lengths(v: Tensor, dim: int) -> Tensor:
    """The length of each slice of a weight along an axis, with the axes of the weight."""
    if dim == -1:
        return v.norm()  # the function below fails in forward mode there
    if not under_vmap():
        return torch.norm_except_dim(v, 2, dim)
    # The steps below have batching rules.
    if dim != 0:
        return slice_lengths(v.transpose(0, dim), 0).transpose(0, dim)
    return v.reshape(v.shape[0], -1).norm(2, 1).view(-1, *[1] * (v.dim() - 1))
