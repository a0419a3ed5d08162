"""Losses with a margin, of torch/nn/modules/loss.py. Axes: N batch, C class, D of a vector, * any.

None has params or draws. ``size_average`` and ``reduce`` are torch's old way to say ``reduction``: given, they warn and
decide it, and read None in the record.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from funcnet._context import beyond_backward, under_vmap
from funcnet.core import View
from funcnet.layers._loss import Loss, NestedNumbers, PlainLoss, reduce_loss


class HingeEmbeddingLoss(Loss):
    """``input`` where the target is 1, and ``max(0, margin - input)`` where it is -1, for input a distance.

    Args:
        margin: distance beyond which unlike pairs count nothing.
        size_average, reduce: torch's old names for ``reduction``; None in the record.
        reduction: "none", "mean" or "sum" over all elements.

    Params, Buffers, Draws: none.
    Shape:  input (*), target (*) of 1 and -1 -> y (), or (*) where not reduced.
    Source: torch.nn.functional.hinge_embedding_loss.

    >>> HingeEmbeddingLoss()({}, torch.tensor([0.5, 0.25]), torch.tensor([1, -1]))
    tensor(0.6250)
    """

    margin: float = 1.0
    size_average: bool | None = None
    reduce: bool | None = None
    reduction: str = "mean"

    def expects(self) -> str:
        return "input and target (1 or -1) of shapes that broadcast"

    @staticmethod
    def forward(p: View, input: Tensor, target: Tensor) -> Tensor:
        return F.hinge_embedding_loss(input, target, margin=p.margin, reduction=p.reduction)


class CosineEmbeddingLoss(Loss):
    """``1 - cos`` of pairs whose target is 1, and ``max(0, cos - margin)`` of pairs whose target is -1.

    Args:
        margin: cosine below which unlike pairs count nothing.
        size_average, reduce, reduction: as for :class:`HingeEmbeddingLoss`, over N.

    Params, Buffers, Draws: none.
    Shape:  input1, input2 (N, D) or (D,), target (N,) or () of 1 and -1 -> y (), or as target where not reduced.
    Source: torch.nn.functional.cosine_embedding_loss.

    >>> CosineEmbeddingLoss()({}, torch.tensor([1.0, 0.0]), torch.tensor([3.0, 4.0]), torch.tensor(1))
    tensor(0.4000)
    """

    margin: float = 0.0
    size_average: bool | None = None
    reduce: bool | None = None
    reduction: str = "mean"

    def expects(self) -> str:
        return "input1 and input2 (N, D) with target (N,), or (D,) with target ()"

    @staticmethod
    def forward(p: View, input1: Tensor, input2: Tensor, target: Tensor) -> Tensor:
        return F.cosine_embedding_loss(input1, input2, target, margin=p.margin, reduction=p.reduction)


class MarginRankingLoss(Loss):
    """``max(0, margin - target * (input1 - input2))``: the first is to be above the second where the target is 1.

    Args:
        margin: how far above.
        size_average, reduce, reduction: as for :class:`HingeEmbeddingLoss`.

    Params, Buffers, Draws: none.
    Shape:  input1, input2, target (*) of as many axes -> y (), or (*) where not reduced.
    Source: torch.nn.functional.margin_ranking_loss.

    >>> MarginRankingLoss()({}, torch.tensor([1.0, 1.0]), torch.tensor([3.0, 0.0]), torch.tensor([1, 1]))
    tensor(1.)
    """

    margin: float = 0.0
    size_average: bool | None = None
    reduce: bool | None = None
    reduction: str = "mean"

    def expects(self) -> str:
        return "input1, input2 and target (1 or -1) of as many axes, of shapes that broadcast"

    @staticmethod
    def forward(p: View, input1: Tensor, input2: Tensor, target: Tensor) -> Tensor:
        if not under_vmap():
            return F.margin_ranking_loss(input1, input2, target, margin=p.margin, reduction=p.reduction)
        if not input1.dim() == input2.dim() == target.dim():
            raise RuntimeError("input1, input2 and target have unequal numbers of axes")
        return reduce_loss((p.margin - target * (input1 - input2)).clamp(min=0), p.reduction)


class MultiMarginLoss(Loss):
    """Hinge loss of classes: ``sum_i max(0, margin - input[target] + input[i]) ** p / C`` over classes not the target.

    Args:
        p: the power, 1 or 2.
        margin: by how much the target is to be above the others.
        weight: a number for each class, as a tensor or a list; becomes a buffer.
        size_average, reduce, reduction: as for :class:`HingeEmbeddingLoss`, over N.

    Params: none.  Buffers: weight (C,), if given.  Draws: none.
    Shape:  input (N, C) or (C,), target (N,) or () of ints -> y (), or as target where not reduced.
    Raises: ShapeError for a class out of range; under vmap, jvp, second derivatives, compile and export, where no
        value can be looked at, the loss is NaN then.
    Source: torch.nn.functional.multi_margin_loss, whose kernel knows no vmap, jvp or second derivative, and which
        torch.compile turns into something of another shape: under these the formula above is computed.

    >>> MultiMarginLoss()({}, torch.tensor([[0.0, 2.0, 0.5]]), torch.tensor([1]))
    tensor(0.)
    """

    p: int = 1
    margin: float = 1.0
    weight: NestedNumbers = None
    size_average: bool | None = None
    reduce: bool | None = None
    reduction: str = "mean"

    def expects(self) -> str:
        classes = "C" if self.weight is None else len(self.weight)
        return f"input (N, {classes}) with target (N,), or ({classes},) with target (), of ints in [0, {classes})"

    @staticmethod
    def forward(p: View, input: Tensor, target: Tensor) -> Tensor:
        if not beyond_backward():
            return F.multi_margin_loss(input, target, p=p.p, margin=p.margin, weight=p.weight, reduction=p.reduction)
        classes = input.shape[-1]
        rows, target = input.reshape(-1, classes), target.reshape(-1)
        right = target[:, None] == torch.arange(classes, device=input.device)
        at_target = torch.where(right, rows, 0).sum(1, keepdim=True)
        wrong = torch.where(right, 0, (p.margin - at_target + rows).relu() ** p.p)
        if p.weight is not None:
            wrong = wrong * torch.where(right, p.weight, 0).sum(1, keepdim=True)
        loss = torch.where(right.any(1), wrong.sum(1) / classes, torch.nan)
        return reduce_loss(loss if input.dim() == 2 else loss.squeeze(0), p.reduction)


class MultiLabelMarginLoss(PlainLoss):
    """Hinge loss of several classes: each target class is to be above each other class by 1; summed and over C.

    Args:
        size_average, reduce, reduction: as for :class:`HingeEmbeddingLoss`, over N.

    Params, Buffers, Draws: none.
    Shape:  input (N, C) or (C,), target of that shape: classes, and after the last one -1 -> y (), or (N,).
    Source: torch.nn.functional.multilabel_margin_loss, whose kernel knows no vmap, jvp or second derivative, and of
        which torch.compile makes other numbers (its own form counts what comes after -1): under these all pairs of
        classes are compared, which takes C times the memory.

    >>> MultiLabelMarginLoss()({}, torch.tensor([0.25, 0.5, 0.0]), torch.tensor([1, -1, 0]))
    tensor(0.4167)
    """

    def expects(self) -> str:
        return "input (N, C) or (C,), target of that shape, of ints in [-1, C)"

    @staticmethod
    def forward(p: View, input: Tensor, target: Tensor) -> Tensor:
        if not beyond_backward():
            return F.multilabel_margin_loss(input, target, reduction=p.reduction)
        if input.shape != target.shape:
            raise RuntimeError(f"inconsistent target size: {tuple(target.shape)} for {tuple(input.shape)}")
        classes = input.shape[-1]
        rows, target = input.reshape(-1, classes), target.reshape(-1, classes)
        named = (target >= 0).to(input.dtype).cumprod(1)
        hot = (target[:, :, None] == torch.arange(classes, device=input.device)) & (named[:, :, None] > 0)
        at_target = torch.where(hot, rows[:, None], 0).sum(2)
        below = (1 - at_target[:, :, None] + rows[:, None]).relu() * named[:, :, None]
        loss = torch.where(hot.any(1)[:, None], 0, below).sum((1, 2)) / classes
        loss = torch.where((target < classes).all(1), loss, torch.nan)
        return reduce_loss(loss if input.dim() == 2 else loss.squeeze(0), p.reduction)
