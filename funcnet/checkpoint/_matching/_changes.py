"""How a tensor of one layout can become one of another: axes permuted, sizes of one left out, heads merged."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from funcnet._typing import Shape

PERMUTATIONS: dict[int, tuple[tuple[int, ...], ...]] = {
    2: ((1, 0),),
    3: ((2, 1, 0),),
    4: ((3, 2, 0, 1), (2, 3, 0, 1), (2, 3, 1, 0)),
    5: ((4, 3, 0, 1, 2), (2, 3, 4, 1, 0)),
}
"""Number of axes -> their orders in other frameworks: (in, out), and kernels of convolutions in both directions."""


class AxesChange(NamedTuple):
    """What happens to the axes of a tensor: a reshape, a permutation, and a reshape, each None where there is none."""

    before: Shape | None = None
    permutation: tuple[int, ...] | None = None
    after: Shape | None = None


UNCHANGED = AxesChange()
"""No change at all."""


def permute_shape(shape: Shape, permutation: tuple[int, ...] | None) -> Shape:
    """The sizes in a new order."""
    return shape if permutation is None else tuple(shape[axis] for axis in permutation)


@lru_cache(1 << 14)
def list_changes(source: Shape, target: Shape) -> tuple[AxesChange, ...]:
    """The changes of axes, among those that frameworks make, from one shape to another.

    >>> list_changes((3, 5), (5, 3)), list_changes((3, 4), (4, 4))
    ((AxesChange(before=None, permutation=(1, 0), after=None),), ())
    >>> list_changes((1, 1, 8), (8,))
    (AxesChange(before=None, permutation=None, after=(8,)),)
    """
    if math.prod(source) != math.prod(target):
        return ()
    if len(source) == len(target):
        orders = (None, *PERMUTATIONS.get(len(source), ()))
        changes = [AxesChange(permutation=order) for order in orders if permute_shape(source, order) == target]
        if changes:
            return tuple(changes)
    squeezed, squeezed_target = (tuple(size for size in shape if size != 1) for shape in (source, target))
    changes = [AxesChange(after=target)] * (squeezed == squeezed_target)
    if len(squeezed) == 2 and squeezed == squeezed_target[::-1] and 2 in (len(source), len(target)):
        turned = AxesChange(before=squeezed, permutation=(1, 0)), AxesChange(permutation=(1, 0), after=target)
        changes.append(turned[0] if target == squeezed_target else turned[1])
    if changes:
        return tuple(changes)
    return tuple(_iter_merges_of_heads(source, target))


def _iter_merges_of_heads(source: Shape, target: Shape) -> Iterator[AxesChange]:
    """Changes between a matrix and one with an axis for heads, or between their biases."""
    if len(source) == len(target) + 1 and len(target) in (1, 2):
        for axis in range(len(target)):
            merged = (*source[:axis], source[axis] * source[axis + 1], *source[axis + 2 :])
            if merged == target:
                yield AxesChange(before=merged)
            if len(target) == 2 and merged == target[::-1]:
                yield AxesChange(before=merged, permutation=(1, 0))
    elif len(target) == len(source) + 1 and len(source) in (1, 2):
        for axis in range(len(source)):
            merged = (*target[:axis], target[axis] * target[axis + 1], *target[axis + 2 :])
            if merged == source:
                yield AxesChange(after=target)
            if len(source) == 2 and merged == source[::-1]:
                yield AxesChange(permutation=(1, 0), after=target)


_JOINS: tuple[tuple[tuple[int, ...] | None, int], ...] = ((None, 0), ((1, 0), 0), ((1, 0), 1), (None, 1))
"""How parts are permuted, and the axis to join along after that. Rows come first, because torch joins rows."""


class Join(NamedTuple):
    """How parts and the tensor that holds all of them become each other.

    Attributes:
        permutation: of the sources, whichever side has them.
        dim, sizes: the axis along which parts lie one after the other, and their sizes.
    """

    permutation: tuple[int, ...] | None
    dim: int
    sizes: tuple[int, ...]


def merge_heads(shape: Shape) -> Shape:
    """The shape with its last two axes, for heads and their features, as one.

    >>> merge_heads((32, 4, 8))
    (32, 32)
    """
    return (*shape[:-2], shape[-2] * shape[-1])


@lru_cache(1 << 12)
def list_joins(sources: tuple[Shape, ...], targets: tuple[Shape, ...]) -> tuple[Join, ...]:
    """The ways in which several sources become one target, or one source becomes several targets.

    >>> list_joins(((4, 3), (2, 3)), ((6, 3),))
    (Join(permutation=None, dim=0, sizes=(4, 2)),)
    """
    joins = []
    for permutation, dim in _JOINS:
        if permutation is not None and any(len(shape) != 2 for shape in sources):
            continue
        permuted = tuple(permute_shape(shape, permutation) for shape in sources)
        parts, fused = (permuted, targets[0]) if len(sources) > 1 else (targets, permuted[0])
        if any(len(part) != len(fused) or len(part) <= dim for part in parts):
            continue
        sizes = tuple(part[dim] for part in parts)
        expected = {(*fused[:dim], size, *fused[dim + 1 :]) for size in sizes}
        if sum(sizes) == fused[dim] and set(parts) == expected:
            joins.append(Join(permutation, dim, sizes))
    return tuple(joins)


def merged_shapes(
    sources: tuple[Shape, ...], targets: tuple[Shape, ...]
) -> tuple[tuple[Shape, ...], tuple[Shape, ...]]:
    """The shapes of parts and of what holds them, where the parts that have an axis for heads have none."""
    left, right = len(sources[0]), len(targets[0])
    if len(sources) > len(targets) and left == right + 1:
        return tuple(map(merge_heads, sources)), targets
    if len(targets) > len(sources) and right == left + 1:
        return sources, tuple(map(merge_heads, targets))
    return sources, targets
