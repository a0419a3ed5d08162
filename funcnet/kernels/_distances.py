"""Distances between all pairs of vectors, for every derivative. Axes: P, R vectors, D features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from funcnet._context import beyond_one_gradient
from funcnet.kernels._second_derivatives import allow_second_derivatives_within


def cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: str = "use_mm_for_euclid_dist_if_necessary") -> Tensor:
    """``torch.cdist``; composed for forward mode and more than one gradient. Shape: (*, P, D), (*, R, D) -> (*, P, R).

    >>> cdist(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]))
    tensor([[5.]])
    """
    if not beyond_one_gradient(x1, x2):
        return allow_second_derivatives_within(torch.cdist(x1, x2, p, compute_mode))
    return compose_cdist(x1, x2, p)


def compose_cdist(x1: Tensor, x2: Tensor, p: float) -> Tensor:
    """The same in operations that have all derivatives."""
    return torch.linalg.vector_norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p, -1)


def pdist(input: Tensor, p: float = 2.0) -> Tensor:
    """Torch.nn.functional.pdist, likewise. Shape: (P, D) -> (P * (P - 1) / 2,).

    >>> pdist(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
    tensor([5.])
    """
    if not beyond_one_gradient(input):
        return allow_second_derivatives_within(F.pdist(input, p))
    return compose_pdist(input, p)


def compose_pdist(input: Tensor, p: float) -> Tensor:
    """The same in operations that have all derivatives."""
    first, second = torch.triu_indices(len(input), len(input), 1, device=input.device)
    return torch.linalg.vector_norm(input[first] - input[second], p, -1)
