"""Losses for every transform: in torch's kernels, a derivative or batching rule is missing. Axes: N batch, C class."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from funcnet._context import beyond_backward, beyond_one_gradient
from funcnet.kernels._second_derivatives import allow_second_derivative


def reduce_loss(loss: Tensor, reduction: str) -> Tensor:
    """The loss of each element, reduced by "none", "sum", or else the mean."""
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.mean()


def mse_loss(input: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """Torch.nn.functional.mse_loss; composed, with the same bits, for more than one gradient.

    >>> mse_loss(torch.tensor([1.0, 4.0]), torch.tensor([1.0, 2.0]))
    tensor(2.)
    """
    if beyond_one_gradient(input, target) and input.shape == target.shape:
        return reduce_loss((input - target).square(), reduction)
    return F.mse_loss(input, target, reduction=reduction)


def huber_loss(input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0) -> Tensor:
    """Torch.nn.functional.huber_loss; by smooth_l1_loss, which has all derivatives, for more than one gradient.

    >>> huber_loss(torch.tensor([1.0, 5.0]), torch.tensor([1.0, 2.0]), delta=2.0)
    tensor(2.)
    """
    if beyond_one_gradient(input, target):
        return F.smooth_l1_loss(input, target, reduction=reduction, beta=delta) * delta
    return F.huber_loss(input, target, reduction=reduction, delta=delta)


def soft_margin_loss(input: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """Torch.nn.functional.soft_margin_loss; composed for more than one gradient.

    >>> soft_margin_loss(torch.tensor([0.0, 0.0]), torch.tensor([1.0, -1.0]))
    tensor(0.6931)
    """
    if beyond_one_gradient(input, target):
        return reduce_loss(-F.logsigmoid(target * input), reduction)
    return F.soft_margin_loss(input, target, reduction=reduction)


def multi_margin_loss(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    *,
    reduction: str = "mean",
) -> Tensor:
    """Torch.nn.functional.multi_margin_loss; composed for what its kernel has no rule for.

    >>> multi_margin_loss(torch.tensor([[0.0, 2.0, 0.5]]), torch.tensor([1]))
    tensor(0.)
    """
    if not beyond_backward(input):
        y = F.multi_margin_loss(input, target, p=p, margin=margin, weight=weight, reduction=reduction)
        return allow_second_derivative(y)
    return compose_multi_margin_loss(input, target, p, margin, weight, reduction)


def compose_multi_margin_loss(
    input: Tensor, target: Tensor, p: int, margin: float, weight: Tensor | None, reduction: str
) -> Tensor:
    """The same in operations that have all derivatives."""
    classes = input.shape[-1]
    rows, target = input.reshape(-1, classes), target.reshape(-1)
    is_target = target[:, None] == torch.arange(classes, device=input.device)
    target_score = torch.where(is_target, rows, 0).sum(1, keepdim=True)
    excess = torch.where(is_target, 0, (margin - target_score + rows).relu() ** p)
    if weight is not None:
        excess = excess * torch.where(is_target, weight, 0).sum(1, keepdim=True)
    loss = torch.where(is_target.any(1), excess.sum(1) / classes, torch.nan)
    return reduce_loss(loss if input.dim() == 2 else loss.squeeze(0), reduction)


def multilabel_margin_loss(input: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """Torch.nn.functional.multilabel_margin_loss; composed for what its kernel has no rule for.

    >>> multilabel_margin_loss(torch.tensor([0.25, 0.5, 0.0]), torch.tensor([1, -1, 0]))
    tensor(0.4167)
    """
    if not beyond_backward(input):
        return allow_second_derivative(F.multilabel_margin_loss(input, target, reduction=reduction))
    return compose_multilabel_margin_loss(input, target, reduction)


def compose_multilabel_margin_loss(input: Tensor, target: Tensor, reduction: str) -> Tensor:
    """The same in operations that have all derivatives."""
    if input.shape != target.shape:
        raise RuntimeError(f"inconsistent target size: {tuple(target.shape)} for {tuple(input.shape)}")
    classes = input.shape[-1]
    rows, target = input.reshape(-1, classes), target.reshape(-1, classes)
    is_listed = (target >= 0).to(input.dtype).cumprod(1)  # 1 for the entries before the first -1
    one_hot = (target[:, :, None] == torch.arange(classes, device=input.device)) & (is_listed[:, :, None] > 0)
    target_scores = torch.where(one_hot, rows[:, None], 0).sum(2)
    excess = (1 - target_scores[:, :, None] + rows[:, None]).relu() * is_listed[:, :, None]
    loss = torch.where(one_hot.any(1)[:, None], 0, excess).sum((1, 2)) / classes
    loss = torch.where((target < classes).all(1), loss, torch.nan)
    return reduce_loss(loss if input.dim() == 2 else loss.squeeze(0), reduction)
