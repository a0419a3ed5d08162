"""Rules that change how many rows a tensor has: cut and grow, as for the words of a vocabulary."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from funcnet._tensors import is_inexact
from funcnet.checkpoint._checkpoint import Spec
from funcnet.checkpoint._errors import RuleError, truncated_list
from funcnet.checkpoint._nodes import ComputedNode, ConstantNode, Node, cat_nodes, narrow_node
from funcnet.checkpoint.rules._patterns import Pattern
from funcnet.checkpoint.rules._rule import Claim, Rule, State, match_names
from funcnet.checkpoint.rules._shapes import normalize_dim

_INITIALIZERS = ("mean", "normal")


@dataclass(frozen=True)
class _RowRule(Rule):
    """The fields that Cut and its inverse Grow share."""

    names: str
    before: int
    after: int
    values: float | str = 0.0
    std: float = 0.02
    seed: int = 0
    dim: int = 0
    lossy: bool = False
    optional: bool = False

    def __post_init__(self) -> None:
        few, many = sorted((self.before, self.after))
        if not 0 < few < many or (self.before < self.after) != isinstance(self, Grow):
            raise RuleError(f"{type(self).__name__.lower()} from {self.before} rows to {self.after} is none.")
        if isinstance(self.values, str) and self.values not in _INITIALIZERS:
            raise RuleError(f"{self.values!r} is no value of rows: a number, or one of {', '.join(_INITIALIZERS)}.")

    @property
    def _is_checked(self) -> bool:
        """Whether the rows that one side lacks hold a known number, so that nothing is lost."""
        return not self.lossy and not isinstance(self.values, str)

    def _match_tensors(self, state: State) -> dict[str, tuple[Node, int]]:
        """The tensors that match, by name, each with its axis of rows.

        Raises:
            RuleError: lists the tensors that have another number of rows.
        """
        tensors: dict[str, tuple[Node, int]] = {}
        problems: list[str] = []
        for name in match_names(state, Pattern(self.names)):
            node = state.tensors[name]
            try:
                dim = normalize_dim(node.shape, self.dim)
                if node.shape[dim] != self.before:
                    raise ValueError(f"has the shape {list(node.shape)}, expected {self.before} along axis {dim}")
            except ValueError as error:
                problems.append(f"{name!r}: {error}")
                continue
            tensors[name] = node, dim
        if problems:
            raise RuleError(f"these tensors do not fit:{truncated_list(problems)}")
        return tensors


@dataclass(frozen=True)
class Cut(_RowRule):
    """Take only the first rows of tensors, as of an embedding whose last rows are padding.

    A tie of a head to an embedding holds on.

    Args:
        names: pattern of the tensors.
        before: the present number of rows.
        after: the number of rows to take.
        values: what the other rows hold, which is checked, and what the inverse writes: a number. Or only what the
            inverse writes: "mean" (of the rows there are) or "normal" (drawn anew).
        std, seed: of "normal".
        dim: the axis; rows are its slices.
        lossy: whether the other rows may hold something else than the number. What they hold is lost, as declared.
        optional: whether it is allowed that no tensor matches.

    >>> Cut("wte.weight", 50304, 50257, lossy=True).inverse()  # doctest: +ELLIPSIS
    Grow(names='wte.weight', before=50257, after=50304, values=0.0, ...)
    """

    def apply(self, state: State) -> State:
        matches = self._match_tensors(state)
        if not matches:
            return self.unchanged_if_optional(state, self.names)
        tensors, rows = dict(state.tensors), dict[str, Node]()
        for name, (node, dim) in matches.items():
            tensors[name] = narrow_node(node, dim, 0, self.after)
            rows[f"{name}[{self.after}:{self.before}]"] = narrow_node(node, dim, self.after, self.before - self.after)
        state = state.with_tensors(tensors)
        if not self._is_checked:
            return state.set_aside(rows)
        assert not isinstance(self.values, str)
        claims = [
            Claim(f"{name!r}, which is cut, holds {self.values}", node, ConstantNode(node.spec, self.values))
            for name, node in rows.items()
        ]
        return replace(state, claims=(*state.claims, *claims))

    def inverse(self) -> Grow:
        return Grow(**{**self.__dict__, "before": self.after, "after": self.before})


@dataclass(frozen=True)
class Grow(_RowRule):
    """Give tensors more rows, after those they have; inverse of :class:`Cut`, with the same fields.

    >>> Grow("wte.weight", 50257, 50304, "mean").inverse().after
    50257
    """

    def apply(self, state: State) -> State:
        matches = self._match_tensors(state)
        if not matches:
            return self.unchanged_if_optional(state, self.names)
        rows = {
            f"{name}[{self.before}:{self.after}]": self._make_rows(node, dim, number)
            for number, (name, (node, dim)) in enumerate(matches.items())
        }
        if not self._is_checked:
            state, rows = state.bring_in(rows)
        tensors = dict(state.tensors)
        for (name, (node, dim)), new_rows in zip(matches.items(), rows.values(), strict=True):
            tensors[name] = cat_nodes([node, new_rows], dim)
        return state.with_tensors(tensors)

    def _make_rows(self, node: Node, dim: int, number: int) -> Node:
        spec = Spec((*node.shape[:dim], self.after - self.before, *node.shape[dim + 1 :]), node.spec.dtype)
        if not isinstance(self.values, str):
            return ConstantNode(spec, self.values)
        if not is_inexact(spec.dtype):
            raise RuleError(f"rows of {spec.dtype} are neither a mean nor drawn; give a number.")
        if self.values == "mean":
            return ComputedNode(spec, (node,), lambda tensors: _mean_rows(tensors[0], dim, spec), "mean of rows")
        return ComputedNode(spec, (), lambda _: _draw_rows(spec, self.std, self.seed + number), "draw")

    def inverse(self) -> Cut:
        return Cut(**{**self.__dict__, "before": self.after, "after": self.before})


def _mean_rows(tensor: Tensor, dim: int, spec: Spec) -> Tensor:
    """Rows that are each the mean of all rows of a tensor, computed in double precision."""
    exact_dtype = torch.complex128 if spec.dtype.is_complex else torch.float64
    return tensor.to(exact_dtype).mean(dim, keepdim=True).to(spec.dtype).expand(spec.shape)


def _draw_rows(spec: Spec, std: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.empty(spec.shape, dtype=torch.float32).normal_(0.0, std, generator=generator).to(spec.dtype)
