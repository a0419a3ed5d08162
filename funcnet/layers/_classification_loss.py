"""Losses of classes and probabilities, from torch/nn/modules/loss.py. Axes: N batch, C class, * any.

None has params or draws; a weight is a buffer. ``size_average`` and ``reduce`` are torch's old names for ``reduction``.
When they are passed, torch warns and derives ``reduction`` from them; in the record they are None.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from funcnet._context import under_vmap
from funcnet.core import Net, View
from funcnet.kernels import soft_margin_loss
from funcnet.kernels.internals import reduce_loss
from funcnet.layers._layer import NO_CHILDREN
from funcnet.layers._loss import Loss, NestedNumbers, PlainLoss, WeightedLoss, nested_shape


class _ClassWeightedLoss(Loss):
    """The base of losses with one weight per class."""

    def __post_init__(self) -> None:
        super().__post_init__()
        weight = getattr(self, "weight", None)
        if weight is not None and len(nested_shape(weight)) != 1:
            raise ValueError(
                f"{type(self).__name__}: weight has one axis, of classes, got shape {nested_shape(weight)}."
            )

    def expects(self) -> str:
        weight = getattr(self, "weight", None)
        classes = "C" if weight is None else len(weight)
        indices = f"class indices in [0, {classes}) of shape (N, *) or ()"
        probabilities = " or probabilities of the shape of input" if isinstance(self, CrossEntropyLoss) else ""
        return f"input (N, {classes}, *) or ({classes},), target {indices}{probabilities}"


class NLLLoss(_ClassWeightedLoss):
    """Minus the log probability of the target class.

    Args:
        weight: a number for each class, as a tensor or a list; becomes a buffer.
        size_average, reduce: torch's old names for ``reduction``; None in the record.
        ignore_index: a target that adds nothing to the loss.
        reduction: "none", "mean" (weighted, over targets not ignored) or "sum".

    Params: none.  Buffers: weight (C,), if given.  Draws: none.
    Shape:  input (N, C, *) or (C,) of log probabilities, target (N, *) or () of ints -> y (), or as target.
    Raises: ShapeError for other shapes and classes out of range; ValueError for a weight without exactly one axis.
    Source: torch.nn.functional.nll_loss.

    >>> NLLLoss()({}, torch.tensor([[-1.0, -2.0], [-3.0, -4.0]]), torch.tensor([0, 1]))
    tensor(2.5000)
    """

    weight: NestedNumbers = None
    size_average: bool | None = None
    ignore_index: int = -100
    reduce: bool | None = None
    reduction: str = "mean"

    @staticmethod
    def forward(p: View, input: Tensor, target: Tensor) -> Tensor:
        return F.nll_loss(input, target, weight=p.weight, ignore_index=p.ignore_index, reduction=p.reduction)


class NLLLoss2d(NLLLoss):
    """:class:`NLLLoss` under an old name. It warns when it is made.

    >>> import warnings
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     loss = NLLLoss2d()
    >>> loss, [str(warning.message)[:9] for warning in caught]
    (NLLLoss2d(), ['NLLLoss2d'])
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        warnings.warn("NLLLoss2d is NLLLoss, and torch has deprecated it. Use NLLLoss.", FutureWarning, stacklevel=4)

    def as_module(self) -> nn.Module:
        module = object.__new__(self.twin)  # without the __new__ that warns, as the record has warned
        module.__init__(**self.twin_arguments())  # type: ignore[misc]
        return module

    @classmethod
    def from_module(cls, module: nn.Module, children: Mapping[str, Net] = NO_CHILDREN) -> NLLLoss2d:
        net = object.__new__(cls)  # without __init__, which would warn again after the module has warned
        net.__dict__.update(
            {field.name: field.default for field in dataclasses.fields(cls)} | cls.fields_from_module(module)
        )
        return net


class CrossEntropyLoss(_ClassWeightedLoss):
    """Cross entropy of scores (logits) and a target: a class, or a probability for each class.

    Args:
        weight: a number for each class, as a tensor or a list; becomes a buffer.
        size_average, reduce: torch's old names for ``reduction``; None in the record.
        ignore_index: a target class that adds nothing to the loss.
        reduction: "none", "mean" (weighted, over targets not ignored) or "sum".
        label_smoothing: the share of the target that is spread evenly over all classes, in [0, 1].

    Params: none.  Buffers: weight (C,), if given.  Draws: none.
    Shape:  input (N, C, *) or (C,), target (N, *) or () of ints, or of the shape and dtype of ``input`` -> y (), or as
        target without axis C.
    Raises: ShapeError for other shapes and classes out of range; ValueError for a weight without exactly one axis.
    Source: torch.nn.functional.cross_entropy.

    >>> loss = CrossEntropyLoss(weight=[1.0, 3.0])
    >>> params, buffers = loss.init(0)
    >>> buffers
    {'weight': tensor([1., 3.])}
    >>> loss.apply(params, buffers, torch.zeros(2, 2), torch.tensor([0, 1]))[0]
    tensor(0.6931)
    """

    weight: NestedNumbers = None
    size_average: bool | None = None
    ignore_index: int = -100
    reduce: bool | None = None
    reduction: str = "mean"
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.label_smoothing <= 1:
            raise ValueError(f"CrossEntropyLoss: label_smoothing is in [0, 1], got {self.label_smoothing}.")

    @staticmethod
    def forward(p: View, input: Tensor, target: Tensor) -> Tensor:
        if p.weight is not None and p.label_smoothing and p.reduction == "mean" and under_vmap():
            return weighted_mean_with_smoothing(p, input, target, p.ignore_index)
        return F.cross_entropy(
            input,
            target,
            weight=p.weight,
            ignore_index=p.ignore_index,
            reduction=p.reduction,
            label_smoothing=p.label_smoothing,
        )


def weighted_mean_with_smoothing(p: View, input: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """The weighted mean with smoothed labels. F.cross_entropy selects targets by value there, which vmap cannot do."""
    if input.shape == target.shape:
        return F.cross_entropy(input, target, weight=p.weight, label_smoothing=p.label_smoothing)
    axis = 0 if input.dim() == 1 else 1
    log_probs = input.log_softmax(axis)
    hard = F.nll_loss(log_probs, target, weight=p.weight, ignore_index=ignore_index)
    is_counted = target != ignore_index
    weight = p.weight.view(-1, *[1] * (input.dim() - axis - 1))
    smooth = torch.where(is_counted, -(log_probs * weight).sum(axis), 0).sum()
    smooth = smooth / torch.where(is_counted, p.weight[torch.where(is_counted, target, 0)], 0).sum()
    return (1 - p.label_smoothing) * hard + p.label_smoothing / len(p.weight) * smooth


class KLDivLoss(Loss):
    """Kullback-Leibler divergence of the target from the input, a log probability: ``target * (log(target) - input)``.

    Args:
        size_average, reduce: torch's old names for ``reduction``; None in the record.
        reduction: "none", "sum", "batchmean" (the sum divided by N, which is the divergence), or "mean" over all
            elements, about which torch warns at each call.
        log_target: whether the target is a log probability too.

    Params, Buffers, Draws: none.
    Shape:  input (*), target (*) -> y (), or (*) where not reduced.
    Source: torch.nn.functional.kl_div.

    >>> KLDivLoss(reduction="batchmean")({}, torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.0, 1.0]]))
    tensor(0.6931)
    """

    reductions = (*Loss.reductions, "batchmean")
    size_average: bool | None = None
    reduce: bool | None = None
    reduction: str = "mean"
    log_target: bool = False

    def expects(self) -> str:
        return "input and target of shapes that broadcast"

    @staticmethod
    def forward(p: View, input: Tensor, target: Tensor) -> Tensor:
        if not under_vmap():
            return F.kl_div(input, target, reduction=p.reduction, log_target=p.log_target)
        loss = target.exp() * (target - input) if p.log_target else target.xlogy(target) - target * input
        if p.reduction == "batchmean":
            return loss.sum() / (len(input) if input.dim() else 1)
        return reduce_loss(loss, p.reduction)


class BCELoss(WeightedLoss):
    """Cross entropy of probabilities of two classes: ``-(target * log(input) + (1 - target) * log(1 - input))``.

    Args:
        weight: numbers that broadcast with the target, as a tensor or nested lists; they become a buffer.
        size_average, reduce: torch's old names for ``reduction``; None in the record.
        reduction: "none", "mean" or "sum" over all elements.

    Params: none.  Buffers: weight, if given.  Draws: none.
    Shape:  input (*) in [0, 1], target (*) -> y (), or (*) where not reduced.
    Raises: ShapeError for unequal shapes and for inputs outside [0, 1].
    Source: torch.nn.functional.binary_cross_entropy.

    >>> BCELoss()({}, torch.tensor([0.5, 0.5]), torch.tensor([0.0, 1.0]))
    tensor(0.6931)
    """

    def expects(self) -> str:
        return "input in [0, 1] and target of equal shape"

    @staticmethod
    def forward(p: View, input: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy(input, target, weight=p.weight, reduction=p.reduction)


class BCEWithLogitsLoss(Loss):
    """:class:`BCELoss` of ``sigmoid(input)``, in a form that is exact for large inputs.

    Args:
        weight, size_average, reduce, reduction: as for :class:`BCELoss`.
        pos_weight: the weight of positives, as a tensor or nested lists that broadcast with the target; a buffer.

    Params: none.  Buffers: weight and pos_weight, if given.  Draws: none.
    Shape:  input (*), target (*) -> y (), or (*) where not reduced.
    Raises: ShapeError for unequal shapes.
    Source: torch.nn.functional.binary_cross_entropy_with_logits.

    >>> loss = BCEWithLogitsLoss(pos_weight=[3.0])
    >>> loss.apply(*loss.init(0), torch.tensor([0.0, 0.0]), torch.tensor([0.0, 1.0]))[0]
    tensor(1.3863)
    """

    weight: NestedNumbers = None
    size_average: bool | None = None
    reduce: bool | None = None
    reduction: str = "mean"
    pos_weight: NestedNumbers = None

    def expects(self) -> str:
        return "input and target of equal shape"

    @staticmethod
    def forward(p: View, input: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(
            input, target, p.weight, pos_weight=p.pos_weight, reduction=p.reduction
        )


class SoftMarginLoss(PlainLoss):
    """Logistic loss of two classes, ``log(1 + exp(-target * input))``.

    Args:
        size_average, reduce, reduction: as for :class:`BCELoss`.

    Params, Buffers, Draws: none.
    Shape:  input (*), target (*) of 1 and -1 -> y (), or (*) where not reduced.
    Source: torch.nn.functional.soft_margin_loss.

    >>> SoftMarginLoss()({}, torch.tensor([0.0, 0.0]), torch.tensor([1.0, -1.0]))
    tensor(0.6931)
    """

    def expects(self) -> str:
        return "input and target (1 or -1) of shapes that broadcast"

    @staticmethod
    def forward(p: View, input: Tensor, target: Tensor) -> Tensor:
        if not under_vmap():
            return soft_margin_loss(input, target, reduction=p.reduction)
        return reduce_loss((-target * input).exp().log1p(), p.reduction)


class MultiLabelSoftMarginLoss(WeightedLoss):
    """:class:`BCEWithLogitsLoss`, averaged over the classes of each example.

    Args:
        weight: a number for each class, as a tensor or a list; becomes a buffer.
        size_average, reduce, reduction: as for :class:`BCELoss`.

    Params: none.  Buffers: weight, if given.  Draws: none.
    Shape:  input (*, C), target (*, C) of 0 and 1 -> y (), or (*) where not reduced.
    Source: torch.nn.functional.multilabel_soft_margin_loss.

    >>> MultiLabelSoftMarginLoss()({}, torch.zeros(2, 3), torch.ones(2, 3))
    tensor(0.6931)
    """

    reductions = ("none", "mean", "sum")

    def expects(self) -> str:
        return "input and target (*, C) of shapes that broadcast"

    @staticmethod
    def forward(p: View, input: Tensor, target: Tensor) -> Tensor:
        return F.multilabel_soft_margin_loss(input, target, weight=p.weight, reduction=p.reduction)
