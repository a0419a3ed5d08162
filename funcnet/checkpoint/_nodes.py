"""Tensors that are not there yet: how each target is made of sources, by five exact operations.

A rule makes nodes of nodes. One reading of them moves index maps, to prove a plan (``_index_maps``); another moves
bytes, to carry it out (``_stream``). The functions here make nodes, and leave out steps that cancel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from funcnet._typing import Shape
from funcnet.checkpoint._lazy import Spec


@dataclass(frozen=True, eq=False)
class Node:
    """A tensor to be, of known shape and dtype."""

    spec: Spec

    @property
    def shape(self) -> Shape:
        return self.spec.shape

    @property
    def parts(self) -> tuple[Node, ...]:
        """What it is made of."""
        return ()


@dataclass(frozen=True, eq=False)
class Source(Node):
    """A tensor of the file."""

    name: str


@dataclass(frozen=True, eq=False)
class Constant(Node):
    """A tensor known without a file: all ``value``, or "arange" along the last axis, or "tril" of the last two."""

    value: float | str


@dataclass(frozen=True, eq=False)
class _Made(Node):
    of: Node

    @property
    def parts(self) -> tuple[Node, ...]:
        return (self.of,)


@dataclass(frozen=True, eq=False)
class Permute(_Made):
    """Axes in another order, as ``torch.permute``."""

    dims: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Reshape(_Made):
    """The same elements in row-major order under another shape."""


@dataclass(frozen=True, eq=False)
class Narrow(_Made):
    """A range of one axis."""

    dim: int
    start: int


@dataclass(frozen=True, eq=False)
class Cast(_Made):
    """Another dtype; lossless unless said otherwise, which is checked when it is done."""

    lossy: bool


@dataclass(frozen=True, eq=False)
class Cat(Node):
    """Several tensors one after the other along one axis."""

    pieces: tuple[Node, ...]
    dim: int

    @property
    def parts(self) -> tuple[Node, ...]:
        return self.pieces


def permute(node: Node, dims: Sequence[int]) -> Node:
    """The node with its axes in the order ``dims``."""
    if isinstance(node, Permute):
        inner = node.dims
        node, dims = node.of, [inner[dim] for dim in dims]
    if tuple(dims) == tuple(range(len(dims))):
        return node
    return Permute(Spec(tuple(node.shape[dim] for dim in dims), node.spec.dtype), node, tuple(dims))


def reshape(node: Node, shape: Sequence[int]) -> Node:
    """The node under another shape of as many elements."""
    assert math.prod(shape) == math.prod(node.shape)
    if isinstance(node, Reshape):
        node = node.of
    return node if tuple(shape) == node.shape else Reshape(Spec(tuple(shape), node.spec.dtype), node)


def narrow(node: Node, dim: int, start: int, length: int) -> Node:
    """A range of one axis."""
    if length == node.shape[dim]:
        return node
    if isinstance(node, Narrow) and node.dim == dim:
        return narrow(node.of, dim, node.start + start, length)
    if isinstance(node, Cat) and node.dim == dim:
        begin = 0
        for piece in node.pieces:
            end = begin + piece.shape[dim]
            if begin <= start and start + length <= end and length:
                return narrow(piece, dim, start - begin, length)
            begin = end
    shape = (*node.shape[:dim], length, *node.shape[dim + 1 :])
    return Narrow(Spec(shape, node.spec.dtype), node, dim, start)


def cat(pieces: Sequence[Node], dim: int) -> Node:
    """Nodes of one dtype one after the other."""
    if len(pieces) == 1:
        return pieces[0]
    first = pieces[0]
    if all(isinstance(piece, Narrow) and piece.dim == dim for piece in pieces):
        whole = pieces[0].parts[0]
        starts = [piece.start for piece in pieces if isinstance(piece, Narrow)]
        ends = [start + piece.shape[dim] for start, piece in zip(starts, pieces, strict=True)]
        same = all(piece.parts[0] is whole for piece in pieces)
        if same and starts == [0, *ends[:-1]] and ends[-1] == whole.shape[dim]:
            return whole
    shape = (*first.shape[:dim], sum(piece.shape[dim] for piece in pieces), *first.shape[dim + 1 :])
    return Cat(Spec(shape, first.spec.dtype), tuple(pieces), dim)


def cast(node: Node, dtype: torch.dtype, lossy: bool) -> Node:
    """The node in another dtype."""
    return Cast(Spec(node.shape, dtype), node, lossy)


def leaves(node: Node) -> Iterator[Source | Constant]:
    """The sources and constants a node is made of, each as often as it is used."""
    if isinstance(node, (Source, Constant)):
        yield node
    for part in node.parts:
        yield from leaves(part)


def nodes(node: Node) -> Iterator[Node]:
    """The node and everything it is made of."""
    yield node
    for part in node.parts:
        yield from nodes(part)
