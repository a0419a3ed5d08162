"""Adaptive softmax, of torch/nn/modules/adaptive.py. Axes: N batch, I in, C class.

Classes are sorted by frequency and cut into clusters. The head scores the classes of the first cluster, the shortlist,
and each further cluster as a whole; a tail per further cluster, smaller the rarer it is, scores the classes in it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from funcnet._context import under_vmap
from funcnet._torch import AdaptiveSoftmaxOutput, constant_result
from funcnet._typing import TreeLike
from funcnet.combinators import ModuleList, Sequential
from funcnet.core import Net, View
from funcnet.layers._layer import Layer
from funcnet.layers._linear import Linear


class AdaptiveLogSoftmaxWithLoss(Layer):
    """Log probability of the target among very many classes, and minus its mean (Grave et al., 2017).

    ``net.log_prob(params, input)`` gives those of all classes and ``net.predict(params, input)`` the likeliest class;
    inside of a body they are ``p.part.log_prob(input)`` and ``p.part.predict(input)``.

    Args:
        in_features: size I of the last axis of ``input_``.
        n_classes: number of classes C, the most frequent first.
        cutoffs: the classes at which each cluster but the first starts, ascending, each in [1, C).
        div_value: by how much each tail is smaller than the one before, inside.
        head_bias: whether the head has a bias.
        device, dtype: what :meth:`init` uses unless told otherwise.

    Params: head.weight (cutoffs[0] + clusters, I), head.bias; tail.i.0.weight (I // div_value ** (i + 1), I),
        tail.i.1.weight (classes of cluster i, that).
    Buffers, Draws: none.
    Shape:  input_ (N, I) or (I,), target_ (N,) or () of ints -> named tuple (output as target_, loss ()).
    Raises: ShapeError for other shapes and for a class out of range; under vmap, compile and export, where no value
        can be looked at, the output of such a class is NaN.
    Source: torch.nn.functional.log_softmax, per cluster over the examples in it. Under vmap, compile and export every
        tail scores every example, for which cluster an example is in is a value.

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
    device: Any = None
    dtype: torch.dtype | None = None

    @classmethod
    def fields_from_module(cls, module: Any) -> dict[str, Any]:
        return super().fields_from_module(module) | {"cutoffs": tuple(module.cutoffs[:-1])}

    def parts(self) -> dict[str, Any]:
        made = {"device": self.device, "dtype": self.dtype}
        ranges = tuple(itertools.pairwise((*self.cutoffs, self.n_classes)))
        tail = []
        for index, (low, high) in enumerate(ranges):
            inside = int(self.in_features // (self.div_value ** (index + 1)))
            tail.append(
                Sequential(
                    Linear(self.in_features, inside, bias=False, **made), Linear(inside, high - low, bias=False, **made)
                )
            )
        return {
            "head": Linear(self.in_features, self.cutoffs[0] + len(ranges), bias=self.head_bias, **made),
            "tail": ModuleList(tail),
            "shortlist": self.cutoffs[0],
            "ranges": ranges,
        }

    def view_base(self) -> type[View]:
        return AdaptiveView

    def expects(self) -> str:
        return (
            f"input_ (N, {self.in_features}) with target_ (N,), or ({self.in_features},) with target_ (), "
            f"of ints in [0, {self.n_classes})"
        )

    @staticmethod
    def forward(p: View, input_: Tensor, target_: Tensor) -> Any:
        if target_.dim() > 1 or input_.dim() != target_.dim() + 1 or input_.shape[:-1] != target_.shape:
            raise RuntimeError("target_ has the axes of input_ but the last, one or none")
        if target_.dtype not in (torch.int32, torch.int64):
            raise RuntimeError("target_ has dtype int32 or int64")
        input, target = (input_, target_) if target_.dim() else (input_[None], target_[None])
        score = _score_all if under_vmap() or torch.compiler.is_compiling() else _score
        output = score(p, input, target)
        return AdaptiveSoftmaxOutput(output if target_.dim() else output.squeeze(0), (-output).mean())

    def log_prob(self, params: TreeLike, input: Tensor) -> Tensor:
        """Log probabilities of all classes: input (N, I) -> (N, C)."""
        return _method(self, "log_prob")(params, input)

    def predict(self, params: TreeLike, input: Tensor) -> Tensor:
        """The likeliest class: input (N, I) -> (N,) of ints."""
        return _method(self, "predict")(params, input)


class AdaptiveView(View):
    """What ``p.part`` is for an adaptive softmax: it has the module's two further methods."""

    __slots__ = ()

    def log_prob(self, input: Tensor) -> Tensor:
        """Log probabilities of all classes: input (N, I) -> (N, C)."""
        return _log_prob(self, input, self.head(input))

    def predict(self, input: Tensor) -> Tensor:
        """The likeliest class: input (N, I) -> (N,) of ints."""
        head = self.head(input)
        best = head.argmax(1)
        further = best >= self.shortlist
        if under_vmap() or torch.compiler.is_compiling():
            return torch.where(further, _log_prob(self, input, head).argmax(1), best)
        if not further.any():
            return best
        if further.all():
            return _log_prob(self, input, head).argmax(1)
        best[further] = _log_prob(self, input[further], head[further]).argmax(1)
        return best


class _Method(Net):
    """A further method of a net's view as a net of its own, over the same parts."""

    of: Net
    name: str

    def parts(self) -> Any:
        return self.of.parts()

    def title(self) -> str:
        return f"{self.of.title()}.{self.name}"

    def view_base(self) -> type[View]:
        return self.of.view_base()

    def forward(self, p: View, input: Tensor) -> Tensor:
        return getattr(p, self.name)(input)


_METHODS = ("log_prob", "predict")


def _method(net: Net, name: str) -> Net:
    if torch.compiler.is_compiling() or "_methods" not in net.__dict__:
        _make_methods(net)
    return net.__dict__["_methods"][name]


@constant_result
def _make_methods(net: Net) -> bool:  # as for the program of a net: what a compiler cannot trace, it believes
    net.__dict__.setdefault("_methods", {name: _Method(net, name).tie(net.aliases) for name in _METHODS})
    return True


def _score(p: View, input: Tensor, target: Tensor) -> Tensor:
    """Log probability of each target; a tail scores only the examples whose target is in its cluster."""
    output = input.new_zeros(len(target))
    column = torch.where((target >= 0) & (target < p.shortlist), target, -1)
    for index, (low, high) in enumerate(p.ranges):
        inside = (target >= low) & (target < high)
        rows = inside.nonzero().squeeze(1)
        if len(rows):
            scores = F.log_softmax(p.tail[index](input.index_select(0, rows)), dim=1)
            found = scores.gather(1, (target[inside] - low).unsqueeze(1)).squeeze(1)
            output = output.index_copy(0, rows, found)
            column = torch.where(inside, p.shortlist + index, column)
    if (column < 0).any():
        raise RuntimeError(f"targets are in [{int(target.min())}, {int(target.max())}]")
    return output + F.log_softmax(p.head(input), dim=1).gather(1, column.unsqueeze(1)).squeeze(1)


def _score_all(p: View, input: Tensor, target: Tensor) -> Tensor:
    """The same without a branch on values: every tail scores every example."""
    head = F.log_softmax(p.head(input), dim=1)
    output = torch.where((target >= 0) & (target < p.shortlist), 0, torch.nan).to(input.dtype)
    column = target.clamp(0, p.shortlist - 1)
    for index, (low, high) in enumerate(p.ranges):
        inside = (target >= low) & (target < high)
        scores = F.log_softmax(p.tail[index](input), dim=1)
        found = scores.gather(1, (target - low).clamp(0, high - low - 1).unsqueeze(1)).squeeze(1)
        output = torch.where(inside, found, output)
        column = torch.where(inside, p.shortlist + index, column)
    return output + head.gather(1, column.unsqueeze(1)).squeeze(1)


def _log_prob(p: View, input: Tensor, head: Tensor) -> Tensor:
    """Log probabilities of all classes, where ``head`` is what the head gives."""
    scores = F.log_softmax(head, dim=1)
    clusters = [scores[:, : p.shortlist]]
    for index, tail in enumerate(p.tail):
        at = p.shortlist + index
        clusters.append(F.log_softmax(tail(input), dim=1) + scores[:, at : at + 1])
    return torch.cat(clusters, 1)
