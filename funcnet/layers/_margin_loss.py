"""Losses with a margin, from torch/nn/modules/loss.py. Axes: N batch, C class, D of a vector, * any.

None has params or draws. ``size_average`` and ``reduce`` are torch's old names for ``reduction``. When they are passed,
torch warns and derives ``reduction`` from them; in the record they are None.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from funcnet._context import under_vmap
from funcnet.core import View
from funcnet.kernels import multi_margin_loss, multilabel_margin_loss
from funcnet.kernels.internals import reduce_loss
from funcnet.layers._loss import Loss, NestedNumbers, PlainLoss


class HingeEmbeddingLoss(Loss):
    """``input``, a distance, where the target is 1, and ``max(0, margin - input)`` where it is -1.

    Args:
        margin: the distance from which on pairs with target -1 add nothing to the loss.
        size_average, reduce: torch's old names for ``reduction``; None in the record.
        reduction: "none", "mean" or "sum" over all elements.

    Params, Buffers, Draws: none.
    Shape:  input (*), target (*) of 1 and -1 -> y (), or (*) where not reduced.
    Source: torch.nn.functional.hinge_embedding_loss.

    >>> import torch
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
        margin: the cosine below which pairs with target -1 add nothing to the loss.
        size_average, reduce, reduction: as for :class:`HingeEmbeddingLoss`, over N.

    Params, Buffers, Draws: none.
    Shape:  input1, input2 (N, D) or (D,), target (N,) or () of 1 and -1 -> y (), or as target where not reduced.
    Source: torch.nn.functional.cosine_embedding_loss.

    >>> import torch
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
    """``max(0, margin - target * (input1 - input2))``: input1 should be the greater one where the target is 1.

    Args:
        margin: by how much it should be greater.
        size_average, reduce, reduction: as for :class:`HingeEmbeddingLoss`.

    Params, Buffers, Draws: none.
    Shape:  input1, input2, target (*) of as many axes -> y (), or (*) where not reduced.
    Source: torch.nn.functional.margin_ranking_loss.

    >>> import torch
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
        margin: by how much the score of the target should exceed the others.
        weight: a number for each class, as a tensor or a list; becomes a buffer.
        size_average, reduce, reduction: as for :class:`HingeEmbeddingLoss`, over N.

    Params: none.  Buffers: weight (C,), if given.  Draws: none.
    Shape:  input (N, C) or (C,), target (N,) or () of ints -> y (), or as target where not reduced.
    Raises: ShapeError for a class out of range. Under vmap, jvp, second derivatives, compile and export, which cannot
        branch on values, the loss is NaN instead.
    Source: torch.nn.functional.multi_margin_loss. Its kernel has no vmap, jvp or second derivative, and torch.compile
        gives its result another shape: under these the formula above is computed.

    >>> import torch
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
        return multi_margin_loss(input, target, p.p, p.margin, p.weight, reduction=p.reduction)


class MultiLabelMarginLoss(PlainLoss):
    """Hinge loss of several target classes: each should exceed each other class by 1. The sum is divided by C.

    Args:
        size_average, reduce, reduction: as for :class:`HingeEmbeddingLoss`, over N.

    Params, Buffers, Draws: none.
    Shape:  input (N, C) or (C,), target of that shape: the classes, and -1 after the last one -> y (), or (N,).
    Source: torch.nn.functional.multilabel_margin_loss. Its kernel has no vmap, jvp or second derivative, and
        torch.compile computes other numbers (it also counts classes that follow -1): under these all pairs of classes
        are compared, which takes C times the memory.

    >>> import torch
    >>> MultiLabelMarginLoss()({}, torch.tensor([0.25, 0.5, 0.0]), torch.tensor([1, -1, 0]))
    tensor(0.4167)
    """

    def expects(self) -> str:
        return "input (N, C) or (C,), target of that shape, of ints in [-1, C)"

    @staticmethod
    def forward(p: View, input: Tensor, target: Tensor) -> Tensor:
        return multilabel_margin_loss(input, target, reduction=p.reduction)
