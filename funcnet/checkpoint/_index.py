"""Which element of which source each element of a tensor is: an index tensor, exact and small.

A plan could be run on tensors of integers, 0 to n - 1, to see where every element goes; that takes eight bytes for each
element of the checkpoint. But elements that no rule ever parts need not be told apart: this map keeps one number for a
*block* of them. In block ``c`` of the grid, the element at position ``k`` of the block is

    base[c] + sum(stride[axis] * k[axis])

A tensor that nobody cut is one block. An operation that cuts refines the blocks first, no further than it must, down to
blocks of one element if need be, and then this is the plain index tensor. So the map is exact at any fineness: two of
them are equal if and only if the index tensors are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from funcnet._typing import Shape
from funcnet.checkpoint._errors import RuleError
from funcnet.checkpoint._nodes import CastNode, CatNode, NarrowNode, Node, PermuteNode, ReshapeNode

MOST_BLOCKS = 1 << 24
"""Blocks of one map; past that (128 MiB) a plan is refused as too finely mixed to be proved."""


@dataclass(frozen=True, eq=False)
class IndexMap:
    """An index tensor in blocks.

    Attributes:
        shape: of the tensor.
        blocks: size of a block along each axis; it divides the size of the axis.
        strides: step between neighbours of a block along each axis; 0 where blocks have one element.
        base: index of the first element of each block, one axis for each of the tensor.
    """

    shape: Shape
    blocks: Shape
    strides: Shape
    base: Tensor

    def refined(self, dim: int, block: int, stride: int | None = None) -> IndexMap:
        """The same map with smaller blocks along one axis: their size divides what it was.

        A wanted stride that is another than the map's takes blocks of one element.
        """
        if stride is not None and block > 1 and stride != self.strides[dim]:
            block = 1
        ratio = self.blocks[dim] // block
        if ratio == 1:
            return self
        if self.base.numel() * ratio > MOST_BLOCKS:
            raise RuleError(
                f"a tensor of shape {list(self.shape)} is mixed in more than {MOST_BLOCKS:,} pieces, too many to prove "
                f"the plan. Do it in two conversions, or name axes so that whole rows move together."
            )
        steps = torch.arange(ratio) * (block * self.strides[dim])
        steps = steps.view(-1, *(1 for _ in self.shape[dim + 1 :]))
        base = (self.base.unsqueeze(dim + 1) + steps).flatten(dim, dim + 1)
        return IndexMap(
            self.shape,
            _put(self.blocks, dim, block),
            _put(self.strides, dim, self.strides[dim] if block > 1 else 0),
            base,
        )

    def expanded(self) -> Tensor:
        """The plain index tensor."""
        full = self
        for dim in range(len(self.shape)):
            full = full.refined(dim, 1)
        return full.base

    def equals(self, other: IndexMap) -> bool:
        """Whether the index tensors are the same."""
        if self.shape != other.shape:
            return False
        left, right = self, other
        for dim, (one, two) in enumerate(zip(self.blocks, other.blocks, strict=True)):
            block = math.gcd(one, two)
            if block > 1 and self.strides[dim] != other.strides[dim]:
                return False
            left, right = left.refined(dim, block), right.refined(dim, block)
        return torch.equal(left.base, right.base)


def identity(shape: Shape, offset: int = 0) -> IndexMap:
    """The map of a tensor whose elements are numbered from ``offset`` on, in row-major order.

    >>> identity((2, 3), 10).expanded()
    tensor([[10, 11, 12],
            [13, 14, 15]])
    """
    if 0 in shape:
        return _empty(shape)
    strides = [0] * len(shape)
    step = 1
    for dim in reversed(range(len(shape))):
        strides[dim] = step if shape[dim] > 1 else 0
        step *= shape[dim]
    return IndexMap(shape, shape, tuple(strides), torch.full([1] * len(shape), offset))


def index_map(node: Node, leaf: Callable[[Node], IndexMap | None]) -> IndexMap:
    """The map of a node.

    Args:
        node: what to follow to its sources.
        leaf: the map of a source or constant; None for any other node.
    """
    known: dict[int, IndexMap] = {}

    def walk(node: Node) -> IndexMap:
        if id(node) not in known:
            known[id(node)] = _step(node, walk) if (found := leaf(node)) is None else found
        return known[id(node)]

    return walk(node)


def _step(node: Node, walk: Callable[[Node], IndexMap]) -> IndexMap:
    if isinstance(node, CatNode):
        return cat_maps([walk(piece) for piece in node.pieces], node.dim)
    if isinstance(node, PermuteNode):
        return permute_map(walk(node.operand), node.dims)
    if isinstance(node, ReshapeNode):
        return reshape_map(walk(node.operand), node.shape)
    if isinstance(node, NarrowNode):
        return narrow_map(walk(node.operand), node.dim, node.start, node.shape[node.dim])
    assert isinstance(node, CastNode)
    return walk(node.operand)


def permute_map(index: IndexMap, dims: Sequence[int]) -> IndexMap:
    """Axes in another order."""
    shape, blocks, strides = (tuple(sizes[dim] for dim in dims) for sizes in (index.shape, index.blocks, index.strides))
    return IndexMap(shape, blocks, strides, index.base.permute(*dims))


def narrow_map(index: IndexMap, dim: int, start: int, length: int) -> IndexMap:
    """A range of one axis."""
    shape = _put(index.shape, dim, length)
    if 0 in shape:
        return _empty(shape)
    block = math.gcd(index.blocks[dim], start, length)
    fine = index.refined(dim, block)
    return IndexMap(shape, fine.blocks, fine.strides, fine.base.narrow(dim, start // block, length // block))


def cat_maps(maps: Sequence[IndexMap], dim: int) -> IndexMap:
    """Maps one after the other along one axis."""
    shape = _put(maps[0].shape, dim, sum(index.shape[dim] for index in maps))
    if 0 in shape:
        return _empty(shape)
    fine = [index for index in maps if index.shape[dim]]
    for axis in range(len(shape)):
        block = math.gcd(*(index.blocks[axis] for index in fine))
        if len({index.strides[axis] for index in fine}) > 1:
            block = 1
        fine = [index.refined(axis, block) for index in fine]
    return IndexMap(shape, fine[0].blocks, fine[0].strides, torch.cat([index.base for index in fine], dim))


def reshape_map(index: IndexMap, shape: Shape) -> IndexMap:
    """The same elements in row-major order under another shape."""
    if 0 in shape:
        return _empty(shape)
    done = index
    at = 0  # axes of the result that are finished
    for old, new in _groups(index.shape, shape):
        for _ in range(len(old) - 1):
            done = _merged(done, at)
        if not old:
            done = _inserted(done, at)
        for size in new[:-1]:
            done = _parted(done, at, size)
            at += 1
        if new:
            at += 1
        else:
            done = _removed(done, at)
    return done


def _groups(old: Shape, new: Shape) -> list[tuple[Shape, Shape]]:
    """Neighbouring axes of both shapes that hold the same elements, as finely as can be."""
    groups = []
    i = j = 0
    while i < len(old) or j < len(new):
        start, stop = i, j
        left = old[i] if i < len(old) else 1
        right = new[j] if j < len(new) else 1
        i, j = i + (i < len(old)), j + (j < len(new))
        while left != right:
            if left < right:
                left *= old[i]
                i += 1
            else:
                right *= new[j]
                j += 1
        groups.append((old[start:i], new[stop:j]))
    return groups


def _merged(index: IndexMap, dim: int) -> IndexMap:
    """Two neighbouring axes as one."""
    outer, inner = index.shape[dim], index.shape[dim + 1]
    if inner == 1:
        block, stride = index.blocks[dim], index.strides[dim]
    else:
        whole = index.blocks[dim + 1] == inner
        runs_on = whole and index.strides[dim] == inner * index.strides[dim + 1]
        index = index if runs_on else index.refined(dim, 1)
        block, stride = index.blocks[dim] * index.blocks[dim + 1], index.strides[dim + 1]
    return IndexMap(
        (*index.shape[:dim], outer * inner, *index.shape[dim + 2 :]),
        (*index.blocks[:dim], block, *index.blocks[dim + 2 :]),
        (*index.strides[:dim], stride, *index.strides[dim + 2 :]),
        index.base.flatten(dim, dim + 1),
    )


def _parted(index: IndexMap, dim: int, outer: int) -> IndexMap:
    """One axis as two, the first of size ``outer``."""
    inner = index.shape[dim] // outer
    if index.blocks[dim] % inner == 0:
        blocks = (index.blocks[dim] // inner, inner)
    else:
        index = index.refined(dim, math.gcd(index.blocks[dim], inner))
        blocks = (1, index.blocks[dim])
    step = index.strides[dim]
    strides = (inner * step * (blocks[0] > 1), step * (blocks[1] > 1))
    return IndexMap(
        (*index.shape[:dim], outer, inner, *index.shape[dim + 1 :]),
        (*index.blocks[:dim], *blocks, *index.blocks[dim + 1 :]),
        (*index.strides[:dim], *strides, *index.strides[dim + 1 :]),
        index.base.unflatten(dim, (outer // blocks[0], inner // blocks[1])),
    )


def _inserted(index: IndexMap, dim: int) -> IndexMap:
    shape, blocks, strides = (
        (*sizes[:dim], one, *sizes[dim:]) for sizes, one in ((index.shape, 1), (index.blocks, 1), (index.strides, 0))
    )
    return IndexMap(shape, blocks, strides, index.base.unsqueeze(dim))


def _removed(index: IndexMap, dim: int) -> IndexMap:
    shape, blocks, strides = ((*sizes[:dim], *sizes[dim + 1 :]) for sizes in (index.shape, index.blocks, index.strides))
    return IndexMap(shape, blocks, strides, index.base.squeeze(dim))


def _empty(shape: Shape) -> IndexMap:
    return IndexMap(shape, tuple(1 for _ in shape), tuple(0 for _ in shape), torch.empty(shape, dtype=torch.int64))


def _put(sizes: Shape, dim: int, size: int) -> Shape:
    return (*sizes[:dim], size, *sizes[dim + 1 :])
