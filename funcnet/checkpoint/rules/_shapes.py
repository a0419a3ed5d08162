"""Rules about the axes of single tensors: transpose, permute, reshape, interleave."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from funcnet._typing import Shape
from funcnet.checkpoint._errors import RuleError
from funcnet.checkpoint._nodes import Node, permute_node, reshape_node
from funcnet.checkpoint.rules._patterns import Pattern
from funcnet.checkpoint.rules._rule import Rule, State, each


@dataclass(frozen=True)
class Transpose(Rule):
    """Swap two axes.

    Args:
        names: pattern of the tensors that are meant.
        dims: the two axes.
        optional: whether there may be no such tensor.
    """

    names: str
    dims: tuple[int, int] = (0, 1)
    optional: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "dims", tuple(self.dims))
        if len(self.dims) != 2:
            raise RuleError(f"transpose swaps two axes, not {list(self.dims)}. Use permute for more.")

    def apply(self, state: State) -> State:
        def swap(node: Node) -> Node:
            one, two = (axis(node.shape, dim) for dim in self.dims)
            order = list(range(len(node.shape)))
            order[one], order[two] = two, one
            return permute_node(node, order)

        return each(state, self, Pattern(self.names), swap)

    def inverse(self) -> Transpose:
        return self


@dataclass(frozen=True)
class Permute(Rule):
    """Put all axes in another order, as ``torch.permute``.

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
        def turn(node: Node) -> Node:
            if len(node.shape) != len(self.dims):
                raise ValueError(f"has the shape {list(node.shape)}, expected {len(self.dims)} axes")
            return permute_node(node, self.dims)

        return each(state, self, Pattern(self.names), turn)

    def inverse(self) -> Permute:
        return Permute(self.names, tuple(sorted(range(len(self.dims)), key=self.dims.__getitem__)), self.optional)


@dataclass(frozen=True)
class Reshape(Rule):
    """Part or merge neighbouring axes; both shapes are said, so that it goes both ways.

    Args:
        names: pattern of the tensors that are meant.
        before: the shape there is: for each axis a number, a name, or a product of them.
        after: the shape to be, in the same names.
        sizes: what names stand for, as far as the shape itself does not tell.
        optional: whether there may be no such tensor.

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
        for given in (*self.before, *self.after):
            _factors(given)

    def apply(self, state: State) -> State:
        def fold(node: Node) -> Node:
            known = _solved(self.before, node.shape, self.sizes)
            missing = sorted({f for given in self.after for f in _factors(given) if isinstance(f, str)} - set(known))
            if missing:
                raise ValueError(f"has the shape {list(node.shape)}, which does not tell {', '.join(missing)}")
            shape = [math.prod(f if isinstance(f, int) else known[f] for f in _factors(given)) for given in self.after]
            if math.prod(shape) != math.prod(node.shape):
                raise ValueError(f"has the shape {list(node.shape)}, and {shape} has another number of elements")
            return reshape_node(node, shape)

        return each(state, self, Pattern(self.names), fold)

    def inverse(self) -> Reshape:
        return Reshape(self.names, self.after, self.before, self.sizes, self.optional)


@dataclass(frozen=True)
class Interleave(Rule):
    """Within runs of ``size`` along one axis, go from part after part to one of each part by turns.

    With two parts and the size of a head this takes rotary embeddings from halves (x0 x1 ... y0 y1 ...) to pairs
    (x0 y0 x1 y1 ...). The inverse has ``size / parts`` parts.

    Args:
        names: pattern of the tensors that are meant.
        size: length of a run; the axis holds a whole number of them.
        parts: how many parts a run has.
        dim: the axis.
        optional: whether there may be no such tensor.

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
        def weave(node: Node) -> Node:
            dim = axis(node.shape, self.dim)
            if node.shape[dim] % self.size:
                raise ValueError(f"has the shape {list(node.shape)}, and axis {dim} is not made of runs of {self.size}")
            before, after = node.shape[:dim], node.shape[dim + 1 :]
            runs = (node.shape[dim] // self.size, self.parts, self.size // self.parts)
            order = list(range(len(before) + 3 + len(after)))
            order[dim + 1], order[dim + 2] = dim + 2, dim + 1
            return reshape_node(permute_node(reshape_node(node, (*before, *runs, *after)), order), node.shape)

        return each(state, self, Pattern(self.names), weave)

    def inverse(self) -> Interleave:
        return Interleave(self.names, self.size, self.size // self.parts, self.dim, self.optional)


def axis(shape: Shape, dim: int) -> int:
    """An axis counted from the front.

    Raises:
        ValueError: if there is no such axis.

    >>> axis((4, 5, 6), -1)
    2
    """
    if not -len(shape) <= dim < len(shape):
        raise ValueError(f"has the shape {list(shape)}, and no axis {dim}")
    return dim % len(shape)


def _factors(given: Any) -> list[int | str]:
    """The numbers and names whose product an axis is."""
    texts = [part.strip() for part in str(given).split("*")]
    for text in texts:
        if not text.isidentifier() and not text.isdecimal():
            raise RuleError(f"{given!r} is no axis: write a number, a name, or a product as 'heads*dim'.")
    return [int(text) if text.isdecimal() else text for text in texts]


def _solved(given: Sequence[int | str], shape: Shape, sizes: Mapping[str, int]) -> dict[str, int]:
    """What the names of a described shape stand for in an actual one."""
    wanted = f"has the shape {list(shape)}, expected {list(given)}"
    if len(given) != len(shape):
        raise ValueError(wanted)
    known = dict(sizes)
    pending = [(_factors(axis), size) for axis, size in zip(given, shape, strict=True)]
    while pending:
        left = []
        for factors, size in pending:
            unknown = [factor for factor in factors if isinstance(factor, str) and factor not in known]
            product = math.prod(
                known.get(factor, 0) if isinstance(factor, str) else factor
                for factor in factors
                if factor not in unknown
            )
            if len(unknown) > 1:
                left.append((factors, size))
            elif unknown:
                if not product or size % product:
                    raise ValueError(f"{wanted} with {known}")
                known[unknown[0]] = size // product
            elif product != size:
                raise ValueError(f"{wanted} with {known}")
        if len(left) == len(pending):
            raise ValueError(f"{wanted}, where {left[0][0]} leaves more than one size open: say them in sizes")
        pending = left
    return known
