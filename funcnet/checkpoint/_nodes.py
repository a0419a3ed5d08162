"""How each target tensor is made of source tensors, as expressions of five exact operations, and of arithmetic.

A node describes a tensor that is not computed yet. The rules make nodes of nodes. A plan is proved by moving index maps
through them (``_index_maps``), and carried out by moving bytes through them (``_node_reader``). The functions here make
nodes, and leave out steps that cancel each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from funcnet._typing import Shape
from funcnet.checkpoint._checkpoint import Spec


@dataclass(frozen=True, eq=False)
class Node:
    """A tensor of known shape and dtype that is not computed yet."""

    spec: Spec

    @property
    def shape(self) -> Shape:
        """The sizes of the tensor."""
        return self.spec.shape

    @property
    def operands(self) -> tuple[Node, ...]:
        """The nodes that the tensor is computed from."""
        return ()


@dataclass(frozen=True, eq=False)
class SourceNode(Node):
    """A tensor of the file."""

    name: str


@dataclass(frozen=True, eq=False)
class ConstantNode(Node):
    """A tensor known without a file: all ``value``, or "arange" along the last axis, or "tril" of the last two."""

    value: float | str


@dataclass(frozen=True, eq=False)
class _UnaryNode(Node):
    operand: Node

    @property
    def operands(self) -> tuple[Node, ...]:
        return (self.operand,)


@dataclass(frozen=True, eq=False)
class PermuteNode(_UnaryNode):
    """A tensor with its axes in a different order, as ``torch.permute``."""

    dims: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class ReshapeNode(_UnaryNode):
    """The same elements in row-major order in a different shape."""


@dataclass(frozen=True, eq=False)
class NarrowNode(_UnaryNode):
    """A range of one axis."""

    dim: int
    start: int


@dataclass(frozen=True, eq=False)
class CastNode(_UnaryNode):
    """A tensor in a new dtype. If it is not lossy, the cast is checked to change no value when it is carried out."""

    lossy: bool


@dataclass(frozen=True, eq=False)
class CatNode(Node):
    """Several tensors one after the other along one axis."""

    pieces: tuple[Node, ...]
    dim: int

    @property
    def operands(self) -> tuple[Node, ...]:
        return self.pieces


@dataclass(frozen=True, eq=False)
class ComputedNode(Node):
    """A tensor that is computed from others by arithmetic, which rounds. No proof looks into it.

    Attributes:
        inputs: the tensors it is computed from.
        compute: returns the tensor, with the shape and dtype of the node, from those of the inputs.
        how: the arithmetic in words.
        is_elementwise: whether a range of the result needs only that range of every input.
    """

    inputs: tuple[Node, ...]
    compute: Callable[[Sequence[Tensor]], Tensor]
    how: str
    is_elementwise: bool = False

    @property
    def operands(self) -> tuple[Node, ...]:
        return self.inputs


def permute_node(node: Node, dims: Sequence[int]) -> Node:
    """The node with its axes in the order ``dims``."""
    if isinstance(node, PermuteNode):
        inner_dims = node.dims
        node, dims = node.operand, [inner_dims[dim] for dim in dims]
    if tuple(dims) == tuple(range(len(dims))):
        return node
    return PermuteNode(Spec(tuple(node.shape[dim] for dim in dims), node.spec.dtype), node, tuple(dims))


def reshape_node(node: Node, shape: Sequence[int]) -> Node:
    """The node in a different shape with as many elements."""
    assert math.prod(shape) == math.prod(node.shape)
    if isinstance(node, ReshapeNode):
        node = node.operand
    return node if tuple(shape) == node.shape else ReshapeNode(Spec(tuple(shape), node.spec.dtype), node)


def narrow_node(node: Node, dim: int, start: int, length: int) -> Node:
    """A range of one axis."""
    if length == node.shape[dim]:
        return node
    if isinstance(node, NarrowNode) and node.dim == dim:
        return narrow_node(node.operand, dim, node.start + start, length)
    if isinstance(node, CatNode) and node.dim == dim:
        begin = 0
        for piece in node.pieces:
            end = begin + piece.shape[dim]
            if begin <= start and start + length <= end and length:
                return narrow_node(piece, dim, start - begin, length)
            begin = end
    shape = (*node.shape[:dim], length, *node.shape[dim + 1 :])
    return NarrowNode(Spec(shape, node.spec.dtype), node, dim, start)


def cat_nodes(pieces: Sequence[Node], dim: int) -> Node:
    """Nodes of one dtype one after the other along one axis."""
    if len(pieces) == 1:
        return pieces[0]
    first = pieces[0]
    if all(isinstance(piece, NarrowNode) and piece.dim == dim for piece in pieces):
        operand = first.operands[0]
        starts = [piece.start for piece in pieces if isinstance(piece, NarrowNode)]
        ends = [start + piece.shape[dim] for start, piece in zip(starts, pieces, strict=True)]
        have_one_operand = all(piece.operands[0] is operand for piece in pieces)
        if have_one_operand and starts == [0, *ends[:-1]] and ends[-1] == operand.shape[dim]:
            return operand
    shape = (*first.shape[:dim], sum(piece.shape[dim] for piece in pieces), *first.shape[dim + 1 :])
    return CatNode(Spec(shape, first.spec.dtype), tuple(pieces), dim)


def cast_node(node: Node, dtype: torch.dtype, lossy: bool) -> Node:
    """The node in a different dtype."""
    return CastNode(Spec(node.shape, dtype), node, lossy)


def iter_leaves(node: Node) -> Iterator[SourceNode | ConstantNode]:
    """The sources and constants that a node is computed from, each as often as it is used."""
    if isinstance(node, (SourceNode, ConstantNode)):
        yield node
    for operand in node.operands:
        yield from iter_leaves(operand)


def iter_nodes(node: Node) -> Iterator[Node]:
    """The node and all nodes that it is computed from."""
    yield node
    for operand in node.operands:
        yield from iter_nodes(operand)
