"""Index maps: for each element of a tensor, which element of which source it is. They are exact and small.

A plan could be run on tensors of integers, 0 to n - 1, to see where every element goes; that takes eight bytes for each
element of the checkpoint. But elements that no rule ever separates need no numbers of their own: an index map keeps one
number for a *block* of them. In block ``c`` of the grid, the element at position ``k`` of the block is

    base[c] + sum(stride[axis] * k[axis])

A tensor that no rule cuts is one block. An operation that cuts refines the blocks first, no further than it must, down
to blocks of one element if need be, and then the map is the plain index tensor. So the map is exact at any fineness:
two maps are equal if and only if the index tensors are.
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
"""The most blocks of one map (128 MiB of numbers). A plan that needs more is refused, as too finely mixed to prove."""


@dataclass(frozen=True, eq=False)
class IndexMap:
    """An index tensor in blocks.

    Attributes:
        shape: of the tensor.
        blocks: size of a block along each axis; it divides the size of the axis.
        strides: step between neighbours of a block along each axis; 0 where blocks have one element.
        base: index of the first element of each block; it has as many axes as the tensor.
    """

    shape: Shape
    blocks: Shape
    strides: Shape
    base: Tensor

    def refine(self, dim: int, block: int) -> IndexMap:
        """The same map with smaller blocks along one axis; ``block`` divides the present size.

        Raises:
            RuleError: if there would be too many blocks.
        """
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
            _replace_size(self.blocks, dim, block),
            _replace_size(self.strides, dim, self.strides[dim] if block > 1 else 0),
            base,
        )

    def to_tensor(self) -> Tensor:
        """The plain index tensor."""
        fine = self
        for dim in range(len(self.shape)):
            fine = fine.refine(dim, 1)
        return fine.base

    def equals(self, other: IndexMap) -> bool:
        """Whether the index tensors are equal."""
        if self.shape != other.shape:
            return False
        left, right = self, other
        for dim, blocks in enumerate(zip(self.blocks, other.blocks, strict=True)):
            block = math.gcd(*blocks)
            if block > 1 and self.strides[dim] != other.strides[dim]:
                return False
            left, right = left.refine(dim, block), right.refine(dim, block)
        return torch.equal(left.base, right.base)


def identity_map(shape: Shape, offset: int = 0) -> IndexMap:
    """The map of a tensor whose elements are numbered from ``offset`` on, in row-major order.

    >>> identity_map((2, 3), 10).to_tensor()
    tensor([[10, 11, 12],
            [13, 14, 15]])
    """
    if 0 in shape:
        return _empty_map(shape)
    strides = [0] * len(shape)
    step = 1
    for dim in reversed(range(len(shape))):
        strides[dim] = step if shape[dim] > 1 else 0
        step *= shape[dim]
    return IndexMap(shape, shape, tuple(strides), torch.full([1] * len(shape), offset))


def compute_index_map(node: Node, map_leaf: Callable[[Node], IndexMap | None]) -> IndexMap:
    """The map of a node, from the maps of the leaves it is computed from.

    Args:
        node: the description of a tensor.
        map_leaf: gives the map of a leaf, which need not be a source or constant; None for any other node.
    """
    maps: dict[int, IndexMap] = {}

    def map_node(node: Node) -> IndexMap:
        if id(node) not in maps:
            leaf_map = map_leaf(node)
            maps[id(node)] = _map_operation(node, map_node) if leaf_map is None else leaf_map
        return maps[id(node)]

    return map_node(node)


def _map_operation(node: Node, map_node: Callable[[Node], IndexMap]) -> IndexMap:
    if isinstance(node, CatNode):
        return cat_maps([map_node(piece) for piece in node.pieces], node.dim)
    if isinstance(node, PermuteNode):
        return permute_map(map_node(node.operand), node.dims)
    if isinstance(node, ReshapeNode):
        return reshape_map(map_node(node.operand), node.shape)
    if isinstance(node, NarrowNode):
        return narrow_map(map_node(node.operand), node.dim, node.start, node.shape[node.dim])
    assert isinstance(node, CastNode)
    return map_node(node.operand)


def permute_map(index: IndexMap, dims: Sequence[int]) -> IndexMap:
    """Axes in a different order."""
    shape, blocks, strides = (tuple(sizes[dim] for dim in dims) for sizes in (index.shape, index.blocks, index.strides))
    return IndexMap(shape, blocks, strides, index.base.permute(*dims))


def narrow_map(index: IndexMap, dim: int, start: int, length: int) -> IndexMap:
    """A range of one axis."""
    shape = _replace_size(index.shape, dim, length)
    if 0 in shape:
        return _empty_map(shape)
    block = math.gcd(index.blocks[dim], start, length)
    fine = index.refine(dim, block)
    return IndexMap(shape, fine.blocks, fine.strides, fine.base.narrow(dim, start // block, length // block))


def cat_maps(maps: Sequence[IndexMap], dim: int) -> IndexMap:
    """Maps concatenated along one axis."""
    shape = _replace_size(maps[0].shape, dim, sum(index.shape[dim] for index in maps))
    if 0 in shape:
        return _empty_map(shape)
    fine = [index for index in maps if index.shape[dim]]
    for axis in range(len(shape)):
        block = math.gcd(*(index.blocks[axis] for index in fine))
        if len({index.strides[axis] for index in fine}) > 1:
            block = 1
        fine = [index.refine(axis, block) for index in fine]
    return IndexMap(shape, fine[0].blocks, fine[0].strides, torch.cat([index.base for index in fine], dim))


def reshape_map(index: IndexMap, shape: Shape) -> IndexMap:
    """The same elements in row-major order in a different shape."""
    if 0 in shape:
        return _empty_map(shape)
    dim = 0  # the first axis of the result that is not finished
    for old_sizes, new_sizes in _group_axes(index.shape, shape):
        for _ in range(len(old_sizes) - 1):
            index = _merge_axes(index, dim)
        if not old_sizes:
            index = _insert_axis(index, dim)
        for size in new_sizes[:-1]:
            index = _split_axis(index, dim, size)
            dim += 1
        if new_sizes:
            dim += 1
        else:
            index = _remove_axis(index, dim)
    return index


def _group_axes(old: Shape, new: Shape) -> list[tuple[Shape, Shape]]:
    """Runs of neighbouring axes of both shapes that hold the same elements, as short as possible.

    >>> _group_axes((2, 6, 5), (4, 3, 5, 1))
    [((2, 6), (4, 3)), ((5,), (5,)), ((), (1,))]
    """
    groups = []
    i = j = 0
    while i < len(old) or j < len(new):
        old_start, new_start = i, j
        old_count = old[i] if i < len(old) else 1
        new_count = new[j] if j < len(new) else 1
        i, j = i + (i < len(old)), j + (j < len(new))
        while old_count != new_count:
            if old_count < new_count:
                old_count *= old[i]
                i += 1
            else:
                new_count *= new[j]
                j += 1
        groups.append((old[old_start:i], new[new_start:j]))
    return groups


def _merge_axes(index: IndexMap, dim: int) -> IndexMap:
    """Two neighbouring axes as one."""
    outer, inner = index.shape[dim], index.shape[dim + 1]
    if inner == 1:
        block, stride = index.blocks[dim], index.strides[dim]
    else:
        is_one_block = index.blocks[dim + 1] == inner
        is_contiguous = is_one_block and index.strides[dim] == inner * index.strides[dim + 1]
        index = index if is_contiguous else index.refine(dim, 1)
        block, stride = index.blocks[dim] * index.blocks[dim + 1], index.strides[dim + 1]
    return IndexMap(
        (*index.shape[:dim], outer * inner, *index.shape[dim + 2 :]),
        (*index.blocks[:dim], block, *index.blocks[dim + 2 :]),
        (*index.strides[:dim], stride, *index.strides[dim + 2 :]),
        index.base.flatten(dim, dim + 1),
    )


def _split_axis(index: IndexMap, dim: int, outer: int) -> IndexMap:
    """One axis as two, the first of size ``outer``."""
    inner = index.shape[dim] // outer
    if index.blocks[dim] % inner == 0:
        blocks = (index.blocks[dim] // inner, inner)
    else:
        index = index.refine(dim, math.gcd(index.blocks[dim], inner))
        blocks = (1, index.blocks[dim])
    step = index.strides[dim]
    strides = (inner * step * (blocks[0] > 1), step * (blocks[1] > 1))
    return IndexMap(
        (*index.shape[:dim], outer, inner, *index.shape[dim + 1 :]),
        (*index.blocks[:dim], *blocks, *index.blocks[dim + 1 :]),
        (*index.strides[:dim], *strides, *index.strides[dim + 1 :]),
        index.base.unflatten(dim, (outer // blocks[0], inner // blocks[1])),
    )


def _insert_axis(index: IndexMap, dim: int) -> IndexMap:
    """A new axis of size 1."""
    shape, blocks, strides = (
        (*sizes[:dim], size, *sizes[dim:]) for sizes, size in ((index.shape, 1), (index.blocks, 1), (index.strides, 0))
    )
    return IndexMap(shape, blocks, strides, index.base.unsqueeze(dim))


def _remove_axis(index: IndexMap, dim: int) -> IndexMap:
    """The map without an axis of size 1."""
    shape, blocks, strides = ((*sizes[:dim], *sizes[dim + 1 :]) for sizes in (index.shape, index.blocks, index.strides))
    return IndexMap(shape, blocks, strides, index.base.squeeze(dim))


def _empty_map(shape: Shape) -> IndexMap:
    return IndexMap(shape, tuple(1 for _ in shape), tuple(0 for _ in shape), torch.empty(shape, dtype=torch.int64))


def _replace_size(sizes: Shape, dim: int, size: int) -> Shape:
    return (*sizes[:dim], size, *sizes[dim + 1 :])
