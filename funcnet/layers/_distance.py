"""Distances and similarities of vectors, from torch/nn/modules/distance.py. Axes: D of a vector, * any."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from funcnet.core import View
from funcnet.layers._layer import Layer


class PairwiseDistance(Layer):
    """Length of the difference of vectors, ``norm(x1 - x2 + eps)``.

    Args:
        p: the power of the norm, any number or infinity.
        eps: keeps the difference away from zero, where a norm has no gradient.
        keepdim: keep the last axis, with size 1.

    Params, Buffers, Draws: none.
    Shape:  x1 (*, D), x2 (*, D) -> y (*), or (*, 1) with ``keepdim``; shapes are broadcast.
    Source: torch.nn.functional.pairwise_distance.

    >>> import torch
    >>> PairwiseDistance(p=1, eps=0.0)({}, torch.zeros(2), torch.tensor([3.0, 4.0]))
    tensor(7.)
    """

    p: float = 2.0
    eps: float = 1e-6
    keepdim: bool = False

    @classmethod
    def fields_from_module(cls, module: nn.Module) -> dict[str, Any]:
        return {"p": module.norm, "eps": module.eps, "keepdim": module.keepdim}

    def expects(self) -> str:
        return "x1 and x2 (*, D) of shapes that broadcast"

    @staticmethod
    def forward(p: View, x1: Tensor, x2: Tensor) -> Tensor:
        return F.pairwise_distance(x1, x2, p.p, p.eps, p.keepdim)


class CosineSimilarity(Layer):
    """Cosine of the angle between vectors, ``x1 @ x2 / (norm(x1) * norm(x2))``.

    Args:
        dim: axis of the vectors.
        eps: the lower bound of the norms that are divided by.

    Params, Buffers, Draws: none.
    Shape:  x1, x2 of shapes that broadcast -> y of that shape without axis ``dim``.
    Source: torch.nn.functional.cosine_similarity.

    >>> import torch
    >>> CosineSimilarity(dim=0)({}, torch.tensor([1.0, 0.0]), torch.tensor([3.0, 4.0]))
    tensor(0.6000)
    """

    dim: int = 1
    eps: float = 1e-8

    def expects(self) -> str:
        return f"x1 and x2 of shapes that broadcast, with axis {self.dim}"

    @staticmethod
    def forward(p: View, x1: Tensor, x2: Tensor) -> Tensor:
        return F.cosine_similarity(x1, x2, p.dim, p.eps)
