"""Losses of continuous values, from torch/nn/modules/loss.py. Axes: * any.

None has params, buffers or draws. With ``reduction`` "none" a loss has the shape of its inputs, otherwise it is a
scalar. ``size_average`` and ``reduce`` are torch's old names for ``reduction``: when they are passed, torch warns and
derives ``reduction`` from them.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY

import torch
import torch.nn.functional as F
from torch import Tensor

from funcnet._context import beyond_backward
from funcnet.core import View
from funcnet.kernels import huber_loss, mse_loss
from funcnet.kernels.internals import reduce_loss
from funcnet.layers._loss import Loss, PlainLoss

_EQUAL_SHAPES = "input and target of equal shape"


class L1Loss(PlainLoss):
    """Absolute difference, ``|input - target|``.

    Args:
        size_average, reduce: torch's old names for ``reduction``; None in the record.
        reduction: "none", "mean" or "sum" over all elements.

    Shape:  input (*), target (*) -> y (), or (*) where not reduced. Other shapes are broadcast, with torch's warning.
    Source: torch.nn.functional.l1_loss.

    >>> L1Loss()({}, torch.tensor([1.0, 4.0]), torch.tensor([1.0, 2.0]))
    tensor(1.)
    """

    def expects(self) -> str:
        return _EQUAL_SHAPES

    @staticmethod
    def forward(p: View, input: Tensor, target: Tensor) -> Tensor:
        return F.l1_loss(input, target, reduction=p.reduction)


class MSELoss(PlainLoss):
    """Squared difference, ``(input - target) ** 2``. Arguments and shapes as for :class:`L1Loss`.

    Source: torch.nn.functional.mse_loss.

    >>> MSELoss()({}, torch.tensor([1.0, 4.0]), torch.tensor([1.0, 2.0]))
    tensor(2.)
    """

    def expects(self) -> str:
        return _EQUAL_SHAPES

    @staticmethod
    def forward(p: View, input: Tensor, target: Tensor) -> Tensor:
        return mse_loss(input, target, reduction=p.reduction)


class SmoothL1Loss(Loss):
    """``d ** 2 / (2 * beta)`` where the absolute difference d is below ``beta``, else ``d - beta / 2``.

    Args:
        beta: the difference at which the two formulas meet, at least 0.
        size_average, reduce, reduction: as for :class:`L1Loss`.

    Shape:  as for :class:`L1Loss`.
    Source: torch.nn.functional.smooth_l1_loss.

    >>> SmoothL1Loss()({}, torch.tensor([1.0, 4.0]), torch.tensor([1.0, 2.0]))
    tensor(0.7500)
    """

    size_average: bool | None = None
    reduce: bool | None = None
    reduction: str = "mean"
    beta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta < 0:
            raise ValueError(f"SmoothL1Loss: beta is at least 0, got {self.beta}.")

    def expects(self) -> str:
        return _EQUAL_SHAPES

    @staticmethod
    def forward(p: View, input: Tensor, target: Tensor) -> Tensor:
        return F.smooth_l1_loss(input, target, reduction=p.reduction, beta=p.beta)


class HuberLoss(Loss):
    """:class:`SmoothL1Loss` times ``delta``: half the squared difference below ``delta``, linear above.

    Args:
        reduction: as for :class:`L1Loss`.
        delta: the difference at which the two formulas meet, above 0.

    Shape:  as for :class:`L1Loss`.
    Source: torch.nn.functional.huber_loss.

    >>> HuberLoss(delta=2.0)({}, torch.tensor([1.0, 5.0]), torch.tensor([1.0, 2.0]))
    tensor(2.)
    """

    reduction: str = "mean"
    delta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.delta <= 0:
            raise ValueError(f"HuberLoss: delta is above 0, got {self.delta}.")

    def expects(self) -> str:
        return _EQUAL_SHAPES

    @staticmethod
    def forward(p: View, input: Tensor, target: Tensor) -> Tensor:
        return huber_loss(input, target, p.reduction, p.delta)


class PoissonNLLLoss(Loss):
    """Negative log likelihood of counts under a Poisson distribution whose rate is the input.

    Args:
        log_input: whether the input x is the log of the rate, for ``exp(x) - target * x``; otherwise the rate, for
            ``x - target * log(x + eps)``.
        full: add Stirling's approximation of ``log(target!)`` where the target is above 1.
        eps: keeps the argument of the log above zero.
        size_average, reduce, reduction: as for :class:`L1Loss`.

    Shape:  log_input (*), target (*) -> y (), or (*) where not reduced.
    Source: torch.nn.functional.poisson_nll_loss.

    >>> PoissonNLLLoss()({}, torch.tensor([0.0, 0.0]), torch.tensor([1.0, 3.0]))
    tensor(1.)
    """

    reductions = ("none", "mean", "sum")
    log_input: bool = True
    full: bool = False
    size_average: bool | None = None
    eps: float = 1e-8
    reduce: bool | None = None
    reduction: str = "mean"

    def expects(self) -> str:
        return "log_input and target of shapes that broadcast"

    @staticmethod
    def forward(p: View, log_input: Tensor, target: Tensor) -> Tensor:
        return F.poisson_nll_loss(
            log_input, target, log_input=p.log_input, full=p.full, eps=p.eps, reduction=p.reduction
        )


class GaussianNLLLoss(Loss):
    """Negative log likelihood under a normal distribution with mean ``input`` and variance ``var``.

    Args:
        full: add the constant ``log(2 pi) / 2``.
        eps: smaller variances are replaced by this one; the gradient passes as if they were not.
        reduction: as for :class:`L1Loss`.

    Shape:  input (*), target (*), var (*), or (*) with last size 1 or without last axis, or a float -> y () or (*).
    Raises: ShapeError for other shapes and for a negative variance. Under vmap, jvp, second derivatives, compile and
        export, which cannot branch on values, the loss is NaN instead.
    Source: torch.nn.functional.gaussian_nll_loss.

    >>> GaussianNLLLoss()({}, torch.zeros(2), torch.tensor([1.0, 3.0]), torch.ones(2))
    tensor(2.5000)
    """

    reductions = ("none", "mean", "sum")
    _: KW_ONLY
    full: bool = False
    eps: float = 1e-6
    reduction: str = "mean"

    def expects(self) -> str:
        return "input and target of equal shape, var (not negative) of that shape, with last size 1, or without it"

    @staticmethod
    def forward(p: View, input: Tensor, target: Tensor, var: Tensor | float) -> Tensor:
        if beyond_backward(input, target):
            return _gaussian_nll_branchless(p, input, target, var)
        return F.gaussian_nll_loss(input, target, var, full=p.full, eps=p.eps, reduction=p.reduction)


def _gaussian_nll_branchless(p: View, input: Tensor, target: Tensor, var: Tensor | float) -> Tensor:
    """The loss without a branch on values, and without the clamp in place of F, which jvp does not see."""
    if isinstance(var, float):
        var = var * torch.ones_like(input)
    elif input.shape[:-1] == var.shape:
        var = var.unsqueeze(-1)
    elif input.shape != var.shape and not _differs_in_one_axis(input, var):
        raise ValueError("var is of incorrect size")
    negative = (var < 0).any()
    var = torch.where(var < p.eps, var - var.detach() + p.eps, var)
    loss = 0.5 * (var.log() + (input - target) ** 2 / var)
    if p.full:
        loss = loss + 0.5 * math.log(2 * math.pi)
    return reduce_loss(torch.where(negative, math.nan, loss), p.reduction)


def _differs_in_one_axis(input: Tensor, var: Tensor) -> bool:
    """Whether ``var`` has the shape of ``input`` except in one axis, where its size is 1."""
    return var.dim() == input.dim() and sum(v for v, x in zip(var.shape, input.shape, strict=True) if v != x) == 1
