"""Rules that compute tensors from others by arithmetic: weighted sums, slerp, and low-rank changes added to weights.

Arithmetic rounds, so these are no bijections, and a certificate lists what was computed. With ``keep`` the tensors that
went in stay beside the result; then the inverse leaves the result out again, and nothing is lost.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from funcnet._tensors import is_inexact
from funcnet.checkpoint._dtypes import dtype_from_name
from funcnet.checkpoint._errors import RuleError, truncated_list
from funcnet.checkpoint._nodes import ComputedNode, Node
from funcnet.checkpoint.rules._patterns import Pattern, check_same_holes
from funcnet.checkpoint.rules._rule import Rule, State, match_names, refuse_ties


class Blend(NamedTuple):
    """One tensor that a rule computes: its name, the names of what it is computed from, and how."""

    target: str
    sources: tuple[str, ...]
    node: Node


class ArithmeticRule(Rule):
    """What rules with arithmetic share: there, and back where that is possible."""

    keep: bool
    undo: bool

    @abc.abstractmethod
    def iter_blends(self, state: State) -> Iterator[Blend]:
        """The tensors to compute.

        Raises:
            RuleError: lists the tensors that do not fit.
        """

    @property
    @abc.abstractmethod
    def patterns(self) -> tuple[str, ...]:
        """The patterns of the tensors that go in."""

    def apply(self, state: State) -> State:
        if self.undo:
            return self._take_out(state)
        blends = list(self.iter_blends(state))
        if not blends:
            return self.unchanged_if_optional(state, *self.patterns)
        consumed = {} if self.keep else {name: state.tensors[name] for blend in blends for name in blend.sources}
        refuse_ties(state, consumed)
        existing = [
            repr(blend.target)
            for blend in blends
            if (blend.target in state.tensors and blend.target not in consumed) or blend.target in state.aliases
        ]
        if existing:
            raise RuleError(f"these names would be there twice:{truncated_list(existing)}")
        state, nodes = state.bring_in({blend.target: blend.node for blend in blends})
        tensors: dict[str, Node] = {}
        target_by_first = {blend.sources[0]: blend.target for blend in blends}
        for name, node in state.tensors.items():
            if name not in consumed:
                tensors[name] = node
            if not self.keep and name in target_by_first:
                tensors[target_by_first[name]] = nodes[target_by_first[name]]
        tensors |= {name: node for name, node in nodes.items() if name not in tensors}
        return state.with_tensors(tensors).set_aside(consumed)

    def _take_out(self, state: State) -> State:
        """The state without what was computed, and with what it was computed from."""
        consumed: dict[str, Node] = {}
        if not self.keep:
            if state.outside is None:
                raise RuleError(
                    "what went into arithmetic does not come out of it. Convert from the sources again, or convert "
                    "with keep = true, which stores them too."
                )
            outside, consumed = state.outside.take_all()
            state = replace(state, outside=outside)
        sources = state if self.keep else state.with_tensors(consumed)
        targets = [blend.target for blend in self.iter_blends(sources)]
        if not targets:
            return self.unchanged_if_optional(state, *self.patterns)
        missing = [repr(target) for target in targets if target not in state.tensors]
        if missing:
            raise RuleError(f"these results are not there:{truncated_list(missing)}")
        computed = {target: state.tensors[target] for target in targets}
        remaining = {name: node for name, node in state.tensors.items() if name not in computed}
        return state.with_tensors({**remaining, **consumed}).set_aside(computed)


def match_together(state: State, patterns: Sequence[str], more: Sequence[str] = ()) -> Iterator[dict[str, str]]:
    """For each set of values of the holes the names that match, by pattern.

    Args:
        state: the tensors.
        patterns: patterns that must all match if one does.
        more: further patterns, whose names are given where the others match.

    Raises:
        RuleError: lists the sets that are not complete.
    """
    names_by_pattern = {
        pattern: {tuple(sorted(holes.items())): name for name, holes in match_names(state, Pattern(pattern)).items()}
        for pattern in (*patterns, *more)
    }
    groups = list(dict.fromkeys(holes for pattern in patterns for holes in names_by_pattern[pattern]))
    problems = [
        f"{Pattern(pattern).format(dict(holes))!r} is missing"
        for holes in groups
        for pattern in patterns
        if holes not in names_by_pattern[pattern]
    ]
    if problems:
        raise RuleError(f"these tensors do not belong together:{truncated_list(problems)}")
    for holes in groups:
        yield {pattern: names[holes] for pattern, names in names_by_pattern.items() if holes in names}


def computing_dtype(dtype: torch.dtype, precision: str) -> torch.dtype:
    """The dtype to compute in, complex for complex tensors."""
    exact = dtype_from_name(precision)
    return (torch.complex128 if exact is torch.float64 else torch.complex64) if dtype.is_complex else exact


def check_precision(precision: str) -> None:
    if precision not in ("float64", "float32"):
        raise RuleError(f"{precision!r} is no precision of arithmetic: float64 or float32.")


class RuleOfLikeSources(ArithmeticRule):
    """What rules share that compute each tensor from tensors of one shape and dtype, one of each source."""

    sources: tuple[str, ...]
    target: str

    @abc.abstractmethod
    def make_node(self, nodes: Sequence[Node]) -> Node:
        """What is computed from one tensor of each source."""

    @property
    def patterns(self) -> tuple[str, ...]:
        return self.sources

    def iter_blends(self, state: State) -> Iterator[Blend]:
        problems: list[str] = []
        blends: list[Blend] = []
        holes_of = Pattern(self.sources[0])
        for names_by_pattern in match_together(state, self.sources):
            names = tuple(names_by_pattern[source] for source in self.sources)
            nodes = [state.tensors[name] for name in names]
            specs = dict.fromkeys(node.spec for node in nodes)
            if len(specs) > 1:
                kinds = ", ".join(f"{spec.dtype} {list(spec.shape)}" for spec in specs)
                problems.append(f"{', '.join(map(repr, names))}: {kinds}")
                continue
            new_name = Pattern(self.target).format(holes_of.match(names[0]) or {})
            blends.append(Blend(new_name, names, self.make_node(nodes)))
        if problems:
            raise RuleError(f"these tensors are not alike:{truncated_list(problems)}")
        yield from blends


@dataclass(frozen=True)
class Mix(RuleOfLikeSources):
    """Add up tensors of several sources, each times a weight: averages ("soups"), and task vectors with weights of -1.

    The sum is computed in ``precision`` and rounded once, to the dtype of the first. Integers cannot be mixed: those of
    the first are taken.

    Args:
        sources: a pattern for each source, with the same holes, as ``["0.{name**}", "1.{name**}"]``.
        target: the pattern of the results.
        weights: a number for each source.
        precision: "float64" or "float32".
        keep: whether the sources stay beside the results.
        optional: whether it is allowed that no tensor matches.
        undo: take the results out again.

    >>> Mix(["base.{n**}", "tuned.{n**}", "other.{n**}"], "{n**}", [1, 1, -1]).weights
    (1.0, 1.0, -1.0)
    """

    sources: tuple[str, ...]
    target: str
    weights: tuple[float, ...]
    precision: str = "float64"
    keep: bool = False
    optional: bool = False
    undo: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "sources", tuple(self.sources))
        object.__setattr__(self, "weights", tuple(map(float, self.weights)))
        if len(self.sources) != len(self.weights) or len(self.sources) < 2:
            raise RuleError(
                f"{len(self.sources)} sources and {len(self.weights)} weights; it needs two or more of each."
            )
        check_precision(self.precision)
        check_same_holes(*map(Pattern, (*self.sources, self.target)))

    def make_node(self, nodes: Sequence[Node]) -> Node:
        dtype = nodes[0].spec.dtype
        if not is_inexact(dtype):
            return nodes[0]
        exact_dtype = computing_dtype(dtype, self.precision)

        def add(tensors: Sequence[Tensor]) -> Tensor:
            total = tensors[0].to(exact_dtype) * self.weights[0]
            for tensor, weight in zip(tensors[1:], self.weights[1:], strict=True):
                total = total + tensor.to(exact_dtype) * weight
            return total.to(dtype)

        weights = " + ".join(f"{weight:g}" for weight in self.weights)
        return ComputedNode(nodes[0].spec, tuple(nodes), add, f"weighted sum ({weights})", is_elementwise=True)

    def inverse(self) -> Mix:
        return replace(self, undo=not self.undo)


@dataclass(frozen=True)
class Slerp(RuleOfLikeSources):
    """Interpolate between two sources along the arc between their directions, tensor by tensor.

    The angle is that between the flattened tensors; where it is tiny, the line is taken. Integers are those of the
    first.

    Args:
        sources: two patterns with the same holes.
        target: the pattern of the results.
        t: the place on the arc, 0 for the first and 1 for the second.
        precision, keep, optional, undo: as those of :class:`Mix`.

    Source: Shoemake, Animating rotation with quaternion curves, 1985.

    >>> Slerp(["0.{n**}", "1.{n**}"], "{n**}", t=0.25).t
    0.25
    """

    sources: tuple[str, ...]
    target: str
    t: float
    precision: str = "float64"
    keep: bool = False
    optional: bool = False
    undo: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "sources", tuple(self.sources))
        if len(self.sources) != 2:
            raise RuleError(f"slerp is between two sources, not {len(self.sources)}.")
        check_precision(self.precision)
        check_same_holes(*map(Pattern, (*self.sources, self.target)))

    def make_node(self, nodes: Sequence[Node]) -> Node:
        spec = nodes[0].spec
        if not is_inexact(spec.dtype) or spec.dtype.is_complex:
            return nodes[0]
        exact_dtype = computing_dtype(spec.dtype, self.precision)

        def interpolate(tensors: Sequence[Tensor]) -> Tensor:
            first, second = (tensor.to(exact_dtype) for tensor in tensors)
            return _slerp(first, second, self.t).to(spec.dtype)

        return ComputedNode(spec, tuple(nodes), interpolate, f"slerp ({self.t:g})")

    def inverse(self) -> Slerp:
        return replace(self, undo=not self.undo)


def _slerp(first: Tensor, second: Tensor, t: float) -> Tensor:
    """The tensor at ``t`` between two.

    >>> _slerp(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), 0.5)
    tensor([0.7071, 0.7071])
    """
    norms = float(first.norm()) * float(second.norm())
    cosine = float((first * second).sum()) / norms if norms else 1.0
    angle = math.acos(max(-1.0, min(1.0, cosine)))
    if math.sin(angle) < 1e-6:
        return torch.lerp(first, second, t)
    weights = math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)
    return first * weights[0] + second * weights[1]
