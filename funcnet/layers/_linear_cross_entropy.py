"""Cross entropy of a linear map, from torch/nn/modules/loss.py. Axes: N batch, I in, C class, * of targets."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import KW_ONLY
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.types import Device

from funcnet._context import beyond_one_gradient, under_transform, under_vmap
from funcnet.core import View
from funcnet.layers._classification_loss import weighted_mean_with_smoothing
from funcnet.layers._linear import Linear
from funcnet.layers._loss import Loss, NestedNumbers


class LinearCrossEntropyLoss(Loss):
    """:class:`CrossEntropyLoss` of the scores that a linear map computes.

    With ``options`` it does not hold all scores at once.

    Args:
        in_features: size I of the last axis of ``input``.
        num_classes: number of classes C.
        out_features: sizes * of the further axes of the target; each class has one score for each of their elements.
        bias: whether the linear map has a bias.
        device, dtype: the defaults of :meth:`init`.
        reduction: "none", "mean" (weighted, over targets not ignored) or "sum".
        weight: a number for each class, as a tensor or a list; becomes a buffer.
        ignore_index: a target class that adds nothing to the loss; None for -100.
        label_smoothing: the share of the target that is spread evenly over all classes, in [0, 1].
        options: a ``torch.nn.LinearCrossEntropyOptions``, with which the scores are computed and reduced in chunks of
            the batch. Chunks support backward only: under torch.func transforms all scores are computed at once.

    Params: linear.weight (C prod(*), I), linear.bias (C prod(*),).  Buffers: weight (C,), if given.  Draws: none.
    Shape:  input (N, I) or (I,), target (N, *) or () of ints, or (N, C, *) or (C,) of probabilities -> y (), or (N, *).
    Raises: ShapeError for other shapes.
    Source: torch.nn.functional.linear_cross_entropy.

    >>> loss = LinearCrossEntropyLoss(3, 5)
    >>> params, buffers = loss.init(0)
    >>> {name: tuple(leaf.shape) for name, leaf in params["linear"].items()}
    {'weight': (5, 3)}
    >>> loss(params, torch.zeros(2, 3), torch.tensor([0, 4]))
    tensor(1.6094)
    """

    reductions = ("none", "mean", "sum")
    in_features: int
    num_classes: int
    _: KW_ONLY
    out_features: tuple[int, ...] = ()
    bias: bool = False
    device: Device = None
    dtype: torch.dtype | None = None
    reduction: str = "mean"
    weight: NestedNumbers = None
    ignore_index: int | None = None
    label_smoothing: float = 0.0
    options: Any = None

    @classmethod
    def fields_from_module(cls, module: nn.Module) -> dict[str, Any]:
        names = ("num_classes", "reduction", "ignore_index", "label_smoothing", "options")
        fields = {name: getattr(module, name) for name in names} | cls.weights_from_module(module)
        loss: Any = module  # a type checker knows no attributes of modules
        return fields | {
            "in_features": loss.linear.in_features,
            "out_features": tuple(loss.out_features),
            "bias": loss.linear.bias is not None,
        }

    def parts(self) -> dict[str, Any]:
        size = math.prod(self.out_features, start=self.num_classes)
        linear = Linear(self.in_features, size, bias=self.bias, device=self.device, dtype=self.dtype)
        return {**super().parts(), "linear": linear, "scores": (self.num_classes, *self.out_features)}

    def expects(self) -> str:
        extra = "".join(f", {size}" for size in self.out_features)
        return (
            f"input (N, {self.in_features}) or ({self.in_features},), target (N{extra}) or () of ints in "
            f"[0, {self.num_classes}), or (N, {self.num_classes}{extra}) or ({self.num_classes},) of probabilities"
        )

    @staticmethod
    def forward(p: View, input: Tensor, target: Tensor) -> Tensor:
        linear, options = p.linear, p.options
        if p.weight is not None and p.label_smoothing and p.reduction == "mean" and under_vmap():
            scores = linear(input).reshape(*input.shape[:-1], *p.scores)
            return weighted_mean_with_smoothing(p, scores, target, -100 if p.ignore_index is None else p.ignore_index)
        if options is not None:
            if torch.compiler.is_compiling():
                options = dataclasses.replace(options, allow_retain_graph=True)  # F would do it too, with a warning
            elif under_transform() or beyond_one_gradient():
                options = None
        return F.linear_cross_entropy(
            input,
            linear.weight.reshape(*p.scores, linear.in_features),
            target,
            linear_bias=None if linear.bias is None else linear.bias.reshape(p.scores),
            weight=p.weight,
            reduction=p.reduction,
            ignore_index=p.ignore_index,
            label_smoothing=p.label_smoothing,
            options=options,
        )
