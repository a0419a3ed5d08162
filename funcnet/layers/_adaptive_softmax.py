"""Adaptive softmax, the counterpart of torch/nn/modules/adaptive.py. Axes: N batch, I in, C class.

Classes are sorted by frequency and cut into clusters. The head scores the classes of the first cluster, the shortlist,
and each further cluster as a single class. Each further cluster has a tail that scores its classes; the rarer the
classes, the smaller the tail.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.types import Device

from funcnet._context import under_vmap
from funcnet._torch import AdaptiveSoftmaxOutput, assume_constant_result
from funcnet._typing import TreeLike
from funcnet.combinators import ModuleList, Sequential
from funcnet.core import Net, View
from funcnet.core.internals import StockNet
from funcnet.layers._layer import Layer
from funcnet.layers._linear import Linear


class AdaptiveLogSoftmaxWithLoss(Layer):
    """Log probability of the target among very many classes, and a loss: minus its mean (Grave et al., 2017).

    ``net.log_prob(params, input)`` gives the log probabilities of all classes and ``net.predict(params, input)`` the
    likeliest class. In a body they are ``p.part.log_prob(input)`` and ``p.part.predict(input)``.

    Args:
        in_features: size I of the last axis of ``input_``.
        n_classes: number of classes C, the most frequent first.
        cutoffs: the classes at which the clusters after the first one start, ascending, each in [1, C).
        div_value: the factor by which the hidden size of each tail is smaller than that of the tail before.
        head_bias: whether the head has a bias.
        device, dtype: the defaults of :meth:`init`.

    Params: head.weight (cutoffs[0] + clusters, I), head.bias; tail.i.0.weight (I // div_value ** (i + 1), I),
        tail.i.1.weight (classes of cluster i, I // div_value ** (i + 1)).
    Buffers, Draws: none.
    Shape:  input_ (N, I) or (I,), target_ (N,) or () of ints -> named tuple (output as target_, loss ()).
    Raises: ShapeError for other shapes and for a class out of range. Under vmap, compile and export, which cannot
        branch on values, the output of such a class is NaN instead.
    Source: torch.nn.functional.log_softmax, for each cluster over the examples in it. Under vmap, compile and export
        every tail scores every example, because which examples are in a cluster depends on values.

    >>> net = AdaptiveLogSoftmaxWithLoss(16, 10, [2, 6])
    >>> params, _ = net.init(0)
    >>> x = torch.zeros(3, 16)
    >>> output, loss = net(params, x, torch.tensor([0, 5, 9]))
    >>> output.shape, net.log_prob(params, x).exp().sum(1), net.predict(params, x).shape
    (torch.Size([3]), tensor([1., 1., 1.]), torch.Size([3]))
    """

    in_features: int
    n_classes: int
    cutoffs: Sequence[int]
    div_value: float = 4.0
    head_bias: bool = False
    device: Device = None
    dtype: torch.dtype | None = None

    @classmethod
    def fields_from_module(cls, module: nn.Module) -> dict[str, Any]:
        cutoffs = cast(nn.AdaptiveLogSoftmaxWithLoss, module).cutoffs
        return super().fields_from_module(module) | {"cutoffs": tuple(cutoffs[:-1])}

    def parts(self) -> dict[str, Any]:
        def build_linear(in_features: int, out_features: int, bias: bool = False) -> Linear:
            return Linear(in_features, out_features, bias, self.device, self.dtype)

        ranges = tuple(itertools.pairwise((*self.cutoffs, self.n_classes)))
        tail = []
        for index, (low, high) in enumerate(ranges):
            hidden = int(self.in_features // (self.div_value ** (index + 1)))
            tail.append(Sequential(build_linear(self.in_features, hidden), build_linear(hidden, high - low)))
        return {
            "head": build_linear(self.in_features, self.cutoffs[0] + len(ranges), self.head_bias),
            "tail": ModuleList(tail),
            "shortlist": self.cutoffs[0],
            "ranges": ranges,
        }

    def view_base(self) -> type[View]:
        return AdaptiveSoftmaxView

    def expects(self) -> str:
        return (
            f"input_ (N, {self.in_features}) with target_ (N,), or ({self.in_features},) with target_ (), "
            f"of ints in [0, {self.n_classes})"
        )

    @staticmethod
    def forward(p: View, input_: Tensor, target_: Tensor) -> tuple[Tensor, Tensor]:
        if target_.dim() > 1 or input_.dim() != target_.dim() + 1 or input_.shape[:-1] != target_.shape:
            raise RuntimeError("target_ has the axes of input_ but the last, one or none")
        if target_.dtype not in (torch.int32, torch.int64):
            raise RuntimeError("target_ has dtype int32 or int64")
        input, target = (input_, target_) if target_.dim() else (input_[None], target_[None])
        can_branch = not (under_vmap() or torch.compiler.is_compiling())
        log_prob = _target_log_prob if can_branch else _target_log_prob_branchless
        output = log_prob(p, input, target)
        return AdaptiveSoftmaxOutput(output if target_.dim() else output.squeeze(0), (-output).mean())

    def log_prob(self, params: TreeLike, input: Tensor) -> Tensor:
        """Log probabilities of all classes: input (N, I) -> (N, C)."""
        return _method_net(self, "log_prob")(params, input)

    def predict(self, params: TreeLike, input: Tensor) -> Tensor:
        """The likeliest class: input (N, I) -> (N,) of ints."""
        return _method_net(self, "predict")(params, input)


class AdaptiveSoftmaxView(View):
    """What ``p.part`` is for an adaptive softmax: a view with the two further methods of the module."""

    __slots__ = ()

    def log_prob(self, input: Tensor) -> Tensor:
        """Log probabilities of all classes: input (N, I) -> (N, C)."""
        return _all_log_probs(self, input, self.head(input))

    def predict(self, input: Tensor) -> Tensor:
        """The likeliest class: input (N, I) -> (N,) of ints."""
        head_scores = self.head(input)
        best = head_scores.argmax(1)
        in_tail = best >= self.shortlist
        if under_vmap() or torch.compiler.is_compiling():
            return torch.where(in_tail, _all_log_probs(self, input, head_scores).argmax(1), best)
        if not in_tail.any():
            return best
        if in_tail.all():
            return _all_log_probs(self, input, head_scores).argmax(1)
        best[in_tail] = _all_log_probs(self, input[in_tail], head_scores[in_tail]).argmax(1)
        return best


class _MethodNet(StockNet):
    """A net that runs a second method of a different net's view, over the parts of that net."""

    of: Net
    name: str

    def parts(self) -> Mapping[str, Any]:
        return self.of.parts()

    def title(self) -> str:
        return f"{self.of.title()}.{self.name}"

    def view_base(self) -> type[View]:
        return self.of.view_base()

    def forward(self, p: View, input: Tensor) -> Tensor:
        return getattr(p, self.name)(input)


_METHODS = ("log_prob", "predict")


def _method_net(net: Net, name: str) -> Net:
    if torch.compiler.is_compiling() or "_methods" not in net.__dict__:
        _build_method_nets(net)
    return net.__dict__["_methods"][name]


@assume_constant_result
def _build_method_nets(net: Net) -> bool:
    # torch.compile cannot trace this, so it is told to call it and believe the result, as for the program of a net.
    net.__dict__.setdefault("_methods", {name: _MethodNet(net, name).tie(net.aliases) for name in _METHODS})
    return True


def _target_log_prob(p: View, input: Tensor, target: Tensor) -> Tensor:
    """The log probability of each target; a tail scores only the examples whose target is in its cluster."""
    output = input.new_zeros(len(target))
    column = torch.where((target >= 0) & (target < p.shortlist), target, -1)
    for index, (low, high) in enumerate(p.ranges):
        in_cluster = (target >= low) & (target < high)
        rows = in_cluster.nonzero().squeeze(1)
        if len(rows):
            scores = F.log_softmax(p.tail[index](input.index_select(0, rows)), dim=1)
            target_scores = scores.gather(1, (target[in_cluster] - low).unsqueeze(1)).squeeze(1)
            output = output.index_copy(0, rows, target_scores)
            column = torch.where(in_cluster, p.shortlist + index, column)
    if (column < 0).any():
        raise RuntimeError(f"targets are in [{int(target.min())}, {int(target.max())}]")
    return output + F.log_softmax(p.head(input), dim=1).gather(1, column.unsqueeze(1)).squeeze(1)


def _target_log_prob_branchless(p: View, input: Tensor, target: Tensor) -> Tensor:
    """The result of :func:`_target_log_prob` without a branch on values: every tail scores every example."""
    head_scores = F.log_softmax(p.head(input), dim=1)
    output = torch.where((target >= 0) & (target < p.shortlist), 0, torch.nan).to(input.dtype)
    column = target.clamp(0, p.shortlist - 1)
    for index, (low, high) in enumerate(p.ranges):
        in_cluster = (target >= low) & (target < high)
        scores = F.log_softmax(p.tail[index](input), dim=1)
        target_scores = scores.gather(1, (target - low).clamp(0, high - low - 1).unsqueeze(1)).squeeze(1)
        output = torch.where(in_cluster, target_scores, output)
        column = torch.where(in_cluster, p.shortlist + index, column)
    return output + head_scores.gather(1, column.unsqueeze(1)).squeeze(1)


def _all_log_probs(p: View, input: Tensor, head_scores: Tensor) -> Tensor:
    """Log probabilities of all classes; ``head_scores`` is the output of the head."""
    scores = F.log_softmax(head_scores, dim=1)
    clusters = [scores[:, : p.shortlist]]
    for index, tail in enumerate(p.tail):
        column = p.shortlist + index
        clusters.append(F.log_softmax(tail(input), dim=1) + scores[:, column : column + 1])
    return torch.cat(clusters, 1)
