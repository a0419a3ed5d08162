"""Bytes of nodes, piece by piece: read, moved and hashed with little in memory.

What lies in the file as it is wanted is copied as bytes. Anything else is put together in blocks of rows, with the
sources it needs in memory: the tensors of one target, and only while it or its neighbour is written.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from funcnet.checkpoint._checkpoint import Entry
from funcnet.checkpoint._errors import CheckpointError
from funcnet.checkpoint._files import CHUNK, iter_chunks, view_as_bytes
from funcnet.checkpoint._memory import GRAIN, Buffers, contiguous
from funcnet.checkpoint._nodes import (
    CastNode,
    CatNode,
    ConstantNode,
    NarrowNode,
    Node,
    PermuteNode,
    ReshapeNode,
    SourceNode,
    iter_leaves,
    narrow_node,
)
from funcnet.checkpoint.rules import Claim

_TILE = 2 << 20  # a block that is turned around: small enough to stay near the processor


class NodeReader:
    """Reads the sources of a plan.

    Args:
        entries: the sources by name.
        hashing: whether to hash what is read on the way, on a thread beside.
        budget: bytes of memory to keep for use again; more are held only as one target needs them.
    """

    def __init__(self, entries: Mapping[str, Entry], hashing: bool = False, budget: int = 0) -> None:
        self.entries = entries
        self.hashing = hashing
        self.held: dict[str, Tensor] = {}
        self._shaped: dict[int, Tensor] = {}
        self._memory = Buffers(budget)
        self._buffers = [bytearray(0), bytearray(0), bytearray(0)]
        self._pool = ThreadPoolExecutor(1, "funcnet-hash")
        self._hashed = {name: _Hash(self._pool) for name in entries}

    def digests(self) -> dict[str, str]:
        """SHA-256 of the bytes of every source, reading what nobody has asked for yet."""
        return {name: self.digest(name) for name in self.entries}

    def digest(self, name: str) -> str:
        """SHA-256 of the bytes of one source."""
        hashed, size = self._hashed[name], self.entries[name].spec.nbytes
        if hashed.position < size:
            for _ in self._read(name, hashed.position, size):
                pass
        return hashed.result()

    def forget(self, node: Node | None = None) -> None:
        """Let go of the sources in memory, but those of one node."""
        self._shaped.clear()
        needed = (
            {leaf.name for leaf in iter_leaves(node) if isinstance(leaf, SourceNode)} if node is not None else set()
        )
        for name in set(self.held) - needed:
            self._hashed[name].wait()
            tensor = self.held.pop(name)
            if self.entries[name].span is not None:
                self._memory.give_back(tensor)

    def hashed(self, node: Node, into: dict[str, str], name: str) -> Iterator[memoryview]:
        """The bytes of a node; when they are through, their SHA-256 is ``into[name]``, if this hashes at all."""
        plain = node.operand if isinstance(node, ReshapeNode) else node
        if not self.hashing:
            yield from self.bytes(node)
            return
        if isinstance(plain, SourceNode):
            yield from self.bytes(node)
            into[name] = self.digest(plain.name)
            return
        sha = _Hash(self._pool)
        for piece in self.bytes(node):
            sha.feed(sha.position, piece)
            yield piece
            sha.wait()
        into[name] = sha.result()

    def bytes(self, node: Node) -> Iterator[memoryview]:
        """The bytes of a node, row-major; a piece is valid until the next is asked for."""
        place = self._range(node)
        if place is not None:
            name, start = place
            yield from self._read(name, start, start + node.spec.nbytes)
        elif isinstance(node, ReshapeNode):
            yield from self.bytes(node.operand)
        elif isinstance(node, CastNode):
            yield from _cast(self.bytes(node.operand), node)
        elif isinstance(node, CatNode) and math.prod(node.shape[: node.dim]) == 1:
            for piece in node.pieces:
                yield from self.bytes(piece)
        elif isinstance(node, SourceNode):
            yield from iter_chunks(view_as_bytes(self._whole(node.name)))
        else:
            yield from self._rows(node)

    def _range(self, node: Node) -> tuple[str, int] | None:
        """The source and first byte of a node that lies in the file as it is; None if it does not."""
        if isinstance(node, SourceNode) and self.entries[node.name].span is not None and node.name not in self.held:
            return node.name, 0
        if isinstance(node, ReshapeNode):
            return self._range(node.operand)
        if isinstance(node, NarrowNode) and math.prod(node.operand.shape[: node.dim]) == 1:
            place = self._range(node.operand)
            inner = math.prod(node.shape[node.dim + 1 :]) * node.spec.dtype.itemsize
            return place and (place[0], place[1] + node.start * inner)
        return None

    def _read(self, name: str, start: int, stop: int) -> Iterator[memoryview]:
        """A byte range of a source, straight from the file if it lies there in one piece."""
        span = self.entries[name].span
        if span is None:
            yield from iter_chunks(view_as_bytes(self._whole(name))[start:stop])
            return
        using: list[Future[Any] | None] = [None] * len(self._buffers)
        for number, begin in enumerate(range(start, stop, CHUNK)):
            turn = number % len(self._buffers)
            if (busy := using[turn]) is not None:
                busy.result()
            count = min(CHUNK, stop - begin)
            if len(self._buffers[turn]) < count:
                self._buffers[turn] = bytearray(count)
            view = memoryview(self._buffers[turn])[:count]
            span.file.read_into(span.offset + begin, view)
            using[turn] = self._hashed[name].feed(begin, view) if self.hashing else None
            yield view
        self._hashed[name].wait()

    def _whole(self, name: str) -> Tensor:
        """A source in memory."""
        if name not in self.held:
            self.held[name] = self._loaded(self.entries[name])
            if self.hashing:
                self._hashed[name].feed(0, view_as_bytes(self.held[name]))
        return self.held[name]

    def _loaded(self, entry: Entry) -> Tensor:
        if entry.span is None:
            return entry.read().contiguous()
        tensor = self._memory.take(entry.spec.shape, entry.spec.dtype)
        entry.span.file.read_into(entry.span.offset, view_as_bytes(tensor))
        return tensor

    def _rows(self, node: Node) -> Iterator[memoryview]:
        """The bytes of a node in blocks along its first axis of more than one element."""
        dim = next((dim for dim, size in enumerate(node.shape) if size > 1), None)
        if dim is None or not node.spec.nbytes:
            yield view_as_bytes(contiguous(self.tensor(node)))
            return
        size = node.shape[dim]
        block = max(1, _TILE * size // node.spec.nbytes)
        for start in range(0, size, block):
            rows = self.tensor(narrow_node(node, dim, start, min(block, size - start)))
            yield view_as_bytes(contiguous(rows))

    def tensor(self, node: Node) -> Tensor:
        """A node in memory: a view of its sources wherever that can be."""
        if isinstance(node, SourceNode):
            return self._whole(node.name)
        if isinstance(node, ConstantNode):
            return constant_tensor(node)
        if isinstance(node, PermuteNode):
            return self.tensor(node.operand).permute(*node.dims)
        if isinstance(node, ReshapeNode):
            if id(node) not in self._shaped:  # where it is a copy, one for all blocks of rows
                self._shaped[id(node)] = self.tensor(node.operand).reshape(node.shape)
            return self._shaped[id(node)]
        if isinstance(node, CatNode):
            return torch.cat([self.tensor(piece) for piece in node.pieces if piece.shape[node.dim]], node.dim)
        if isinstance(node, CastNode):
            return _checked_cast(self.tensor(node.operand), node)
        assert isinstance(node, NarrowNode)
        return self._narrowed(node)

    def _narrowed(self, node: NarrowNode) -> Tensor:
        """A range of an axis, asked of what the node is made of, so that only that much is put together."""
        of, dim, start, length = node.operand, node.dim, node.start, node.shape[node.dim]
        if isinstance(of, PermuteNode):
            return self.tensor(narrow_node(of.operand, of.dims[dim], start, length)).permute(*of.dims)
        if isinstance(of, CastNode):
            part = narrow_node(of.operand, dim, start, length)
            return self.tensor(CastNode(replace(of.spec, shape=part.shape), part, of.lossy))
        if isinstance(of, CatNode) and of.dim != dim:
            return torch.cat([self.tensor(narrow_node(piece, dim, start, length)) for piece in of.pieces], of.dim)
        if isinstance(of, CatNode):
            found, begin = [], 0
            for piece in of.pieces:
                end = begin + piece.shape[dim]
                low, high = max(start, begin), min(start + length, end)
                if low < high:
                    found.append(self.tensor(narrow_node(piece, dim, low - begin, high - low)))
                begin = end
            return torch.cat(found, dim) if found else torch.empty(node.shape, dtype=node.spec.dtype)
        return self.tensor(of).narrow(dim, start, length)

    def check(self, claim: Claim) -> None:
        """Compare the two sides of a claim, byte by byte.

        Raises:
            CheckpointError: if they differ.
        """
        left, right = Joined(self.bytes(claim.node)), NodeReader(self.entries)
        for chunk in right.bytes(claim.equal):
            if left.take(len(chunk)) != chunk:
                raise CheckpointError(f"it is not so that {claim.what}: the bytes differ. Leave that rule out.")
        self.forget()


class Joined:
    """An iterator of pieces, read in pieces of other lengths."""

    def __init__(self, pieces: Iterator[memoryview]) -> None:
        self.pieces, self.left = pieces, b""

    def take(self, count: int) -> bytes:
        while len(self.left) < count:
            self.left += bytes(next(self.pieces))
        taken, self.left = self.left[:count], self.left[count:]
        return taken


class _Hash:
    """SHA-256 of bytes that come in order, computed beside the reading; what comes out of order is left for later."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self.pool = pool
        self.position = 0
        self._sha = hashlib.sha256()
        self._last: Future[Any] | None = None

    def feed(self, offset: int, view: memoryview) -> Future[Any] | None:
        """Take the bytes from an offset on, as far as they follow what is there. They must stay until it is done."""
        skip = self.position - offset
        if not 0 <= skip < len(view):
            return None
        self.position = offset + len(view)
        self._last = self.pool.submit(self._sha.update, view[skip:])
        return self._last

    def wait(self) -> None:
        if self._last is not None:
            self._last.result()
            self._last = None

    def result(self) -> str:
        self.wait()
        return self._sha.hexdigest()


def constant_tensor(node: ConstantNode) -> Tensor:
    """The tensor a constant stands for.

    >>> import torch
    >>> from funcnet.checkpoint import Spec
    >>> constant_tensor(ConstantNode(Spec((2, 2), torch.bool), "tril"))
    tensor([[ True, False],
            [ True,  True]])
    """
    if node.value == "arange":
        return torch.arange(node.shape[-1]).to(node.spec.dtype).expand(node.shape).contiguous()
    if node.value == "tril":
        return torch.ones(node.shape).tril().to(node.spec.dtype)
    dtype = node.spec.dtype  # by way of float64 only where it is a float: integers may have more digits
    wide = torch.float64 if dtype.is_floating_point or dtype.is_complex else dtype
    assert not isinstance(node.value, str)
    value = node.value if wide is torch.float64 else int(node.value)
    return torch.tensor(value, dtype=wide).to(dtype).expand(node.shape).contiguous()


def _cast(pieces: Iterator[memoryview], node: CastNode) -> Iterator[memoryview]:
    for piece in filter(len, pieces):
        for given in torch.frombuffer(piece, dtype=node.operand.spec.dtype).split(GRAIN):
            yield view_as_bytes(_checked_cast(given, node))


def _checked_cast(given: Tensor, node: CastNode) -> Tensor:
    made = given.to(node.spec.dtype)
    if not node.lossy and view_as_bytes(made.to(given.dtype).contiguous()) != view_as_bytes(given.contiguous()):
        names = dict.fromkeys(leaf.name for leaf in iter_leaves(node) if isinstance(leaf, SourceNode))
        raise CheckpointError(
            f"{', '.join(map(repr, names))} has values of {given.dtype} that {made.dtype} cannot hold. "
            f"Declare the loss with lossy = true (--lossy), or keep the dtype."
        )
    return made
