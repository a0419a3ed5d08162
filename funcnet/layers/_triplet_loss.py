"""Losses of triplets, from torch/nn/modules/loss.py: an anchor should be nearer to a positive than to a negative."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from funcnet._context import under_vmap
from funcnet.core import Body, Function, FunctionModule, Net, View
from funcnet.kernels.internals import reduce_loss
from funcnet.layers._distance import PairwiseDistance
from funcnet.layers._layer import COUNTERPARTS
from funcnet.layers._loss import Loss

Distance = Callable[[Tensor, Tensor], Tensor]


class TripletMarginLoss(Loss):
    """``max(0, d(anchor, positive) - d(anchor, negative) + margin)``, where d is a norm of the difference.

    Args:
        margin: by how much the positive should be nearer, above 0.
        p: the power of the norm.
        eps: added to each difference, as in :class:`PairwiseDistance`.
        swap: use the distance between positive and negative where it is smaller than that of anchor and negative.
        size_average, reduce: torch's old names for ``reduction``; None in the record.
        reduction: "none", "mean" or "sum" over N.

    Params, Buffers, Draws: none.
    Shape:  anchor, positive, negative (N, D) or (D,) -> y (), or (N,) where not reduced.
    Raises: ValueError for a margin of 0 or less.
    Source: torch.nn.functional.triplet_margin_loss.

    >>> TripletMarginLoss(eps=0.0)({}, torch.zeros(2), torch.tensor([3.0, 4.0]), torch.tensor([0.0, 1.0]))
    tensor(5.)
    """

    margin: float = 1.0
    p: float = 2.0
    eps: float = 1e-6
    swap: bool = False
    size_average: bool | None = None
    reduce: bool | None = None
    reduction: str = "mean"

    def expects(self) -> str:
        return "anchor, positive and negative (N, D) or (D,), of as many axes"

    @staticmethod
    def forward(p: View, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        if not under_vmap():
            return F.triplet_margin_loss(
                anchor, positive, negative, margin=p.margin, p=p.p, eps=p.eps, swap=p.swap, reduction=p.reduction
            )
        return _triplet_hinge(p, lambda x1, x2: F.pairwise_distance(x1, x2, p.p, p.eps), anchor, positive, negative)


class TripletMarginWithDistanceLoss(Loss):
    """:class:`TripletMarginLoss` with any function as the distance.

    Args:
        distance_function: computes the distances (*) of two tensors. It is a pure function, or a net, whose params and
            buffers are those of the loss under "distance_function". Default :class:`PairwiseDistance`.
        margin: by how much the positive should be nearer, above 0.
        swap: use the distance between positive and negative where it is smaller than that of anchor and negative.
        reduction: "none", "mean" or "sum" over all distances.

    Params, Buffers, Draws: those of the distance.
    Shape:  anchor, positive, negative as the distance takes them, of as many axes -> y (), or as the distance.
    Raises: ValueError for a margin of 0 or less; TypeError for a distance that is a module with tensors.
    Source: torch.nn.functional.triplet_margin_with_distance_loss.

    >>> def city_block(x1, x2):
    ...     return (x1 - x2).abs().sum(-1)
    >>> loss = TripletMarginWithDistanceLoss(distance_function=city_block)
    >>> loss({}, torch.zeros(2), torch.tensor([3.0, 4.0]), torch.tensor([0.0, 1.0]))
    tensor(7.)
    """

    reductions = ("none", "mean", "sum")
    _: KW_ONLY
    distance_function: Distance | None = None
    margin: float = 1.0
    swap: bool = False
    reduction: str = "mean"

    def __post_init__(self) -> None:
        argument = PairwiseDistance() if self.distance_function is None else self.distance_function
        distance = _as_pure_distance(argument)
        if distance is None or (isinstance(argument, nn.Module) and argument.state_dict()):
            raise TypeError(
                f"TripletMarginWithDistanceLoss: distance_function is the module {type(argument).__name__}. Give a "
                f"function or a net; funcnet.from_module converts a module of this loss with its distance."
            )
        object.__setattr__(self, "distance_function", distance)
        super().__post_init__()
        object.__setattr__(self, "distance_function", distance)

    def twin_arguments(self) -> dict[str, Any]:
        distance = self.distance_function
        return super().twin_arguments() | {
            "distance_function": distance.as_module() if isinstance(distance, Net) else distance
        }

    @classmethod
    def fields_from_module(cls, module: nn.Module) -> dict[str, Any]:
        return super().fields_from_module(module) | {"distance_function": _as_pure_distance(module.distance_function)}

    def calls_unknown_code(self) -> bool:
        return not isinstance(self.distance_function, Net)

    def parts(self) -> dict[str, Any]:
        return {"distance_function": self.distance_function}

    def expects(self) -> str:
        return "anchor, positive and negative of as many axes, as the distance takes them"

    @staticmethod
    def forward(p: View, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        return _triplet_hinge(p, p.distance_function, anchor, positive, negative)


def _triplet_hinge(p: View, distance: Distance, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """The loss in plain operations: inside the function of F, draws of the distance could not be redirected."""
    if not anchor.dim() == positive.dim() == negative.dim():
        raise RuntimeError("anchor, positive and negative have unequal numbers of axes")
    to_positive, to_negative = distance(anchor, positive), distance(anchor, negative)
    if p.swap:
        to_negative = torch.minimum(to_negative, distance(positive, negative))
    return reduce_loss(torch.clamp_min(p.margin + to_positive - to_negative, 0), p.reduction)


def _as_pure_distance(distance: object) -> Any:
    """The net of a module, or None if it is not known what the module computes. Other values are returned unchanged."""
    if isinstance(distance, Body):
        return distance._funcnet_net
    if isinstance(distance, FunctionModule):
        return Function(distance.function)
    if isinstance(distance, nn.Module):
        counterpart = COUNTERPARTS.get(type(distance))
        return None if counterpart is None else counterpart.from_module(distance)
    return distance
