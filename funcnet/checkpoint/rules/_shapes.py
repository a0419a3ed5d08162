"""Rules that change the axes of single tensors: transpose, permute, reshape, interleave."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from funcnet._typing import Shape
from funcnet.checkpoint._errors import RuleError
from funcnet.checkpoint._nodes import Node, permute_node, reshape_node
from funcnet.checkpoint.rules._patterns import Pattern
from funcnet.checkpoint.rules._rule import Rule, State, map_matches


@dataclass(frozen=True)
class Transpose(Rule):
    """Swap two axes.

    Args:
        names: pattern of the tensors to change.
        dims: the two axes.
        optional: whether it is allowed that no tensor matches.

    >>> Transpose("**.kernel").inverse()
    Transpose(names='**.kernel', dims=(0, 1), optional=False)
    """

    names: str
    dims: tuple[int, int] = (0, 1)
    optional: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "dims", tuple(self.dims))
        if len(self.dims) != 2:
            raise RuleError(f"transpose swaps two axes, not {list(self.dims)}. Use permute for more.")

    def apply(self, state: State) -> State:
        def transpose(node: Node) -> Node:
            first, second = (normalize_dim(node.shape, dim) for dim in self.dims)
            order = list(range(len(node.shape)))
            order[first], order[second] = second, first
            return permute_node(node, order)

        return map_matches(state, self, Pattern(self.names), transpose)

    def inverse(self) -> Transpose:
        return self


@dataclass(frozen=True)
class Permute(Rule):
    """Put all axes in a different order, as ``torch.permute``.

    >>> Permute("conv.kernel", (3, 2, 0, 1)).inverse().dims
    (2, 3, 1, 0)
    """

    names: str
    dims: tuple[int, ...]
    optional: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "dims", tuple(self.dims))
        if sorted(self.dims) != list(range(len(self.dims))):
            raise RuleError(f"{list(self.dims)} is no order of {len(self.dims)} axes, counted from 0.")

    def apply(self, state: State) -> State:
        def permute_all(node: Node) -> Node:
            if len(node.shape) != len(self.dims):
                raise ValueError(f"has the shape {list(node.shape)}, expected {len(self.dims)} axes")
            return permute_node(node, self.dims)

        return map_matches(state, self, Pattern(self.names), permute_all)

    def inverse(self) -> Permute:
        return Permute(self.names, tuple(sorted(range(len(self.dims)), key=self.dims.__getitem__)), self.optional)


@dataclass(frozen=True)
class Reshape(Rule):
    """Split or merge neighbouring axes. It states both shapes, so that it can be inverted.

    Args:
        names: pattern of the tensors to change.
        before: the present shape: for each axis a number, a name, or a product of them.
        after: the new shape, in the same names.
        sizes: the values of names that do not follow from the shape itself.
        optional: whether it is allowed that no tensor matches.

    >>> Reshape("q.weight", ["heads*dim", "in"], ["heads", "dim", "in"], {"heads": 8}).inverse().after
    ('heads*dim', 'in')
    """

    names: str
    before: tuple[int | str, ...]
    after: tuple[int | str, ...]
    sizes: Mapping[str, int] = field(default_factory=dict, hash=False)
    optional: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "before", tuple(self.before))
        object.__setattr__(self, "after", tuple(self.after))
        for axis in (*self.before, *self.after):
            _parse_factors(axis)  # raises if it is none

    def apply(self, state: State) -> State:
        after = [_parse_factors(axis) for axis in self.after]

        def fold(node: Node) -> Node:
            sizes = _solve_sizes(self.before, node.shape, self.sizes)
            missing = sorted({factor for axis in after for factor in axis if isinstance(factor, str)} - set(sizes))
            if missing:
                raise ValueError(f"has the shape {list(node.shape)}, which does not tell {', '.join(missing)}")
            shape = [math.prod(f if isinstance(f, int) else sizes[f] for f in axis) for axis in after]
            if math.prod(shape) != math.prod(node.shape):
                raise ValueError(f"has the shape {list(node.shape)}, and {shape} has another number of elements")
            return reshape_node(node, shape)

        return map_matches(state, self, Pattern(self.names), fold)

    def inverse(self) -> Reshape:
        return Reshape(self.names, self.after, self.before, self.sizes, self.optional)


@dataclass(frozen=True)
class Interleave(Rule):
    """Within runs of ``size`` elements along one axis, take the elements of ``parts`` equal parts in turns.

    With two parts and the size of a head this takes rotary embeddings from halves (x0 x1 ... y0 y1 ...) to pairs
    (x0 y0 x1 y1 ...). The inverse has ``size / parts`` parts.

    Args:
        names: pattern of the tensors to change.
        size: length of a run; the axis must be a whole number of runs long.
        parts: the number of parts of a run.
        dim: the axis.
        optional: whether it is allowed that no tensor matches.

    >>> Interleave("q", size=64).inverse()
    Interleave(names='q', size=64, parts=32, dim=0, optional=False)
    """

    names: str
    size: int
    parts: int = 2
    dim: int = 0
    optional: bool = False

    def __post_init__(self) -> None:
        if self.size < 1 or self.parts < 1 or self.size % self.parts:
            raise RuleError(f"a run of {self.size} cannot be {self.parts} parts of one length.")

    def apply(self, state: State) -> State:
        def interleave(node: Node) -> Node:
            dim = normalize_dim(node.shape, self.dim)
            if node.shape[dim] % self.size:
                raise ValueError(f"has the shape {list(node.shape)}, and axis {dim} is not made of runs of {self.size}")
            before, after = node.shape[:dim], node.shape[dim + 1 :]
            runs = (node.shape[dim] // self.size, self.parts, self.size // self.parts)
            order = list(range(len(before) + 3 + len(after)))
            order[dim + 1], order[dim + 2] = dim + 2, dim + 1
            return reshape_node(permute_node(reshape_node(node, (*before, *runs, *after)), order), node.shape)

        return map_matches(state, self, Pattern(self.names), interleave)

    def inverse(self) -> Interleave:
        return Interleave(self.names, self.size, self.size // self.parts, self.dim, self.optional)


def normalize_dim(shape: Shape, dim: int) -> int:
    """The number of an axis, counted from the front.

    Raises:
        ValueError: if there is no such axis.

    >>> normalize_dim((4, 5, 6), -1)
    2
    """
    if not -len(shape) <= dim < len(shape):
        raise ValueError(f"has the shape {list(shape)}, and no axis {dim}")
    return dim % len(shape)


def _parse_factors(axis: object) -> list[int | str]:
    """The numbers and names whose product is the size of an axis.

    >>> _parse_factors("heads*64")
    ['heads', 64]
    """
    texts = [part.strip() for part in str(axis).split("*")]
    for text in texts:
        if not text.isidentifier() and not text.isdecimal():
            raise RuleError(f"{axis!r} is no axis: write a number, a name, or a product as 'heads*dim'.")
    return [int(text) if text.isdecimal() else text for text in texts]


def _solve_sizes(axes: Sequence[int | str], shape: Shape, sizes: Mapping[str, int]) -> dict[str, int]:
    """The values of all names in the description of a shape, from the shape itself and the values known before.

    Raises:
        ValueError: if the shape contradicts the description, or leaves a name open.

    >>> _solve_sizes(["heads*dim", "in"], (12, 5), {"dim": 4})
    {'dim': 4, 'heads': 3, 'in': 5}
    """
    expectation = f"has the shape {list(shape)}, expected {list(axes)}"
    if len(axes) != len(shape):
        raise ValueError(expectation)
    known = dict(sizes)
    equations = [(_parse_factors(axis), size) for axis, size in zip(axes, shape, strict=True)]
    while equations:
        unsolved = []
        for factors, size in equations:
            unknown = [factor for factor in factors if isinstance(factor, str) and factor not in known]
            product = math.prod(
                known.get(factor, 0) if isinstance(factor, str) else factor
                for factor in factors
                if factor not in unknown
            )
            if len(unknown) > 1:
                unsolved.append((factors, size))
            elif unknown:
                if not product or size % product:
                    raise ValueError(f"{expectation} with {known}")
                known[unknown[0]] = size // product
            elif product != size:
                raise ValueError(f"{expectation} with {known}")
        if len(unsolved) == len(equations):
            raise ValueError(f"{expectation}, where {unsolved[0][0]} leaves more than one size open: say them in sizes")
        equations = unsolved
    return known
