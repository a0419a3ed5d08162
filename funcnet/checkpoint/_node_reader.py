"""The bytes of nodes, piece by piece: read from the file, moved and hashed with little memory.

A node whose bytes lie in the file as they are wanted is copied as bytes. Any other node is computed in blocks of rows,
with the source tensors it needs in memory: those of one target, and only while that target or its neighbour is written.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import torch
from torch import Tensor

from funcnet._tensors import is_inexact
from funcnet.checkpoint._checkpoint import StoredTensor
from funcnet.checkpoint._errors import CheckpointError
from funcnet.checkpoint._files import CHUNK, iter_chunks, view_as_bytes
from funcnet.checkpoint._memory import COPY_ELEMENTS, BufferPool, make_contiguous
from funcnet.checkpoint._nodes import (
    CastNode,
    CatNode,
    ComputedNode,
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

_BLOCK_BYTES = 2 << 20  # of rows that are computed at a time: few enough to stay in a processor's cache


class NodeReader:
    """Computes the bytes of nodes from the tensors of a file.

    Args:
        entries: the source tensors by name.
        hashing: whether to hash the bytes while they are read, on a second thread.
        budget: bytes of memory to store for later use; more are allocated only if one target needs them.
        device: of constants, where the tensors are in the memory of one; the CPU without it.
    """

    def __init__(
        self,
        entries: Mapping[str, StoredTensor],
        hashing: bool = False,
        budget: int = 0,
        device: torch.device | None = None,
    ) -> None:
        self.entries = entries
        self.device = device
        self.hashing = hashing
        self._loaded: dict[str, Tensor] = {}
        self._computed: dict[int, Tensor] = {}
        self._memory = BufferPool(budget)
        self._buffers = [bytearray(0), bytearray(0), bytearray(0)]
        self._pool = ThreadPoolExecutor(1, "funcnet-hash")
        self._source_hashes = {name: _OrderedHash(self._pool) for name in entries}

    def source_digests(self) -> dict[str, str]:
        """SHA-256 of the bytes of every source, by name; reads the bytes that have not been read yet."""
        return {name: self._source_digest(name) for name in self.entries}

    def _source_digest(self, name: str) -> str:
        source_hash, size = self._source_hashes[name], self.entries[name].spec.nbytes
        if source_hash.position < size:
            for _ in self._iter_range(name, source_hash.position, size):
                pass
        return source_hash.hexdigest()

    def release_sources(self, except_for: Node | None = None) -> None:
        """Release the source tensors in memory, except those that a node needs."""
        self._computed.clear()
        leaves = iter_leaves(except_for) if except_for is not None else ()
        needed = {leaf.name for leaf in leaves if isinstance(leaf, SourceNode)}
        for name in set(self._loaded) - needed:
            self._source_hashes[name].wait()
            tensor = self._loaded.pop(name)
            if self.entries[name].span is not None:
                self._memory.give_back(tensor)

    def iter_bytes_and_hash(self, node: Node, digests: dict[str, str], name: str) -> Iterator[memoryview]:
        """The bytes of a node. After the last of them ``digests[name]`` is their SHA-256, if this reader hashes."""
        reshaped = node.operand if isinstance(node, ReshapeNode) else node
        if not self.hashing:
            yield from self.iter_bytes(node)
            return
        if isinstance(reshaped, SourceNode):
            yield from self.iter_bytes(node)
            digests[name] = self._source_digest(reshaped.name)
            return
        node_hash = _OrderedHash(self._pool)
        for piece in self.iter_bytes(node):
            node_hash.update(node_hash.position, piece)
            yield piece
            node_hash.wait()
        digests[name] = node_hash.hexdigest()

    def iter_bytes(self, node: Node) -> Iterator[memoryview]:
        """The bytes of a node, row-major; a piece is valid until the next is asked for."""
        place = self._find_in_file(node)
        if place is not None:
            name, start = place
            yield from self._iter_range(name, start, start + node.spec.nbytes)
        elif isinstance(node, ReshapeNode):
            yield from self.iter_bytes(node.operand)
        elif isinstance(node, CastNode):
            yield from _cast_pieces(self.iter_bytes(node.operand), node)
        elif isinstance(node, CatNode) and math.prod(node.shape[: node.dim]) == 1:
            for piece in node.pieces:
                yield from self.iter_bytes(piece)
        elif isinstance(node, SourceNode):
            yield from iter_chunks(view_as_bytes(self._load_source(node.name)))
        else:
            yield from self._iter_row_blocks(node)

    def _find_in_file(self, node: Node) -> tuple[str, int] | None:
        """The source and first byte of a node whose bytes lie in the file as they are wanted; None for other nodes."""
        if isinstance(node, SourceNode) and self.entries[node.name].span is not None and node.name not in self._loaded:
            return node.name, 0
        if isinstance(node, ReshapeNode):
            return self._find_in_file(node.operand)
        if isinstance(node, NarrowNode) and math.prod(node.operand.shape[: node.dim]) == 1:
            place = self._find_in_file(node.operand)
            row_bytes = math.prod(node.shape[node.dim + 1 :]) * node.spec.dtype.itemsize
            return place and (place[0], place[1] + node.start * row_bytes)
        return None

    def _iter_range(self, name: str, start: int, stop: int) -> Iterator[memoryview]:
        """A byte range of a source, straight from the file if the source lies there in one piece."""
        span = self.entries[name].span
        if span is None:
            yield from iter_chunks(view_as_bytes(self._load_source(name))[start:stop])
            return
        users: list[Future[None] | None] = [None] * len(self._buffers)  # for each buffer: the hashing that reads it
        for number, begin in enumerate(range(start, stop, CHUNK)):
            turn = number % len(self._buffers)
            if (user := users[turn]) is not None:
                user.result()
            count = min(CHUNK, stop - begin)
            if len(self._buffers[turn]) < count:
                self._buffers[turn] = bytearray(count)
            view = memoryview(self._buffers[turn])[:count]
            span.read_into(begin, view)
            users[turn] = self._source_hashes[name].update(begin, view) if self.hashing else None
            yield view
        self._source_hashes[name].wait()

    def _load_source(self, name: str) -> Tensor:
        """A source tensor, in memory."""
        if name not in self._loaded:
            self._loaded[name] = self._read_entry(self.entries[name])
            if self.hashing:
                self._source_hashes[name].update(0, view_as_bytes(self._loaded[name]))
        return self._loaded[name]

    def _read_entry(self, entry: StoredTensor) -> Tensor:
        """A source tensor, read into memory that is used again later."""
        if entry.span is None:
            return entry.read().contiguous()
        tensor = self._memory.borrow(entry.spec.shape, entry.spec.dtype)
        entry.span.read_into(0, view_as_bytes(tensor))
        return tensor

    def _iter_row_blocks(self, node: Node) -> Iterator[memoryview]:
        """The bytes of a node in blocks along its first axis of more than one element."""
        dim = next((dim for dim, size in enumerate(node.shape) if size > 1), None)
        if dim is None or not node.spec.nbytes:
            yield view_as_bytes(make_contiguous(self.compute_tensor(node)))
            return
        size = node.shape[dim]
        step = max(1, _BLOCK_BYTES * size // node.spec.nbytes)
        for start in range(0, size, step):
            rows = self.compute_tensor(narrow_node(node, dim, start, min(step, size - start)))
            yield view_as_bytes(make_contiguous(rows))

    def compute_tensor(self, node: Node) -> Tensor:
        """A node in memory: a view of its sources wherever that is possible."""
        if isinstance(node, SourceNode):
            return self._load_source(node.name)
        if isinstance(node, ConstantNode):
            return make_constant_tensor(node).to(self.device)
        if isinstance(node, PermuteNode):
            return self.compute_tensor(node.operand).permute(*node.dims)
        if isinstance(node, ReshapeNode):
            if id(node) not in self._computed:  # where a reshape copies, one copy serves all blocks of rows
                self._computed[id(node)] = self.compute_tensor(node.operand).reshape(node.shape)
            return self._computed[id(node)]
        if isinstance(node, ComputedNode):
            if id(node) not in self._computed:
                inputs = [self.compute_tensor(tensor) for tensor in node.inputs]
                self._computed[id(node)] = node.compute(inputs).to(self.device)
            return self._computed[id(node)]
        if isinstance(node, CatNode):
            return torch.cat([self.compute_tensor(piece) for piece in node.pieces if piece.shape[node.dim]], node.dim)
        if isinstance(node, CastNode):
            return _cast_checked(self.compute_tensor(node.operand), node)
        assert isinstance(node, NarrowNode)
        return self._compute_range(node)

    def _compute_range(self, node: NarrowNode) -> Tensor:
        """A range of an axis: the range is taken of the operands, so that no more than that much is computed."""
        operand, dim, start, length = node.operand, node.dim, node.start, node.shape[node.dim]
        if isinstance(operand, PermuteNode):
            permuted = narrow_node(operand.operand, operand.dims[dim], start, length)
            return self.compute_tensor(permuted).permute(*operand.dims)
        if isinstance(operand, CastNode):
            uncast = narrow_node(operand.operand, dim, start, length)
            return self.compute_tensor(CastNode(replace(operand.spec, shape=uncast.shape), uncast, operand.lossy))
        if isinstance(operand, ComputedNode) and operand.is_elementwise:
            return operand.compute(
                [self.compute_tensor(narrow_node(tensor, dim, start, length)) for tensor in operand.inputs]
            )
        if isinstance(operand, CatNode) and operand.dim != dim:
            ranges = [self.compute_tensor(narrow_node(piece, dim, start, length)) for piece in operand.pieces]
            return torch.cat(ranges, operand.dim)
        if isinstance(operand, CatNode):
            ranges, begin = [], 0
            for piece in operand.pieces:
                end = begin + piece.shape[dim]
                low, high = max(start, begin), min(start + length, end)
                if low < high:
                    ranges.append(self.compute_tensor(narrow_node(piece, dim, low - begin, high - low)))
                begin = end
            return torch.cat(ranges, dim) if ranges else torch.empty(node.shape, dtype=node.spec.dtype)
        return self.compute_tensor(operand).narrow(dim, start, length)

    def check_claim(self, claim: Claim) -> None:
        """Compare the two sides of a claim, byte by byte.

        Raises:
            CheckpointError: if they differ.
        """
        left, right = Rechunker(self.iter_bytes(claim.node)), NodeReader(self.entries)
        for chunk in right.iter_bytes(claim.equal):
            if left.take_bytes(len(chunk)) != chunk:
                raise claim_error(claim)
        self.release_sources()


def claim_error(claim: Claim) -> CheckpointError:
    """The error for a claim whose two sides differ."""
    return CheckpointError(f"it is not so that {claim.what}: the bytes differ. Leave that rule out.")


def have_same_bits(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors of one shape and dtype have the same bytes, on whatever device they are.

    >>> have_same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))
    False
    """
    if left.device.type == right.device.type == "cpu":
        return view_as_bytes(left.contiguous()) == view_as_bytes(right.contiguous())
    return torch.equal(*(tensor.contiguous().view(-1).view(torch.uint8) for tensor in (left, right)))


class Rechunker:
    """Reads an iterator of pieces in pieces of other lengths."""

    def __init__(self, pieces: Iterator[memoryview]) -> None:
        self._pieces, self._buffer = pieces, b""

    def take_bytes(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        while len(self._buffer) < count:
            self._buffer += bytes(next(self._pieces))
        data, self._buffer = self._buffer[:count], self._buffer[count:]
        return data


class _OrderedHash:
    """SHA-256 of bytes that come in order, computed on another thread while more are read.

    Bytes that do not follow those already hashed are left out; the caller gives them again later, in order.
    """

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self.position = 0
        self._pool = pool
        self._sha = hashlib.sha256()
        self._last_update: Future[None] | None = None

    def update(self, offset: int, view: memoryview) -> Future[None] | None:
        """Hash the bytes from an offset on, as far as they continue what is hashed. They must stay until it is done."""
        skip = self.position - offset
        if not 0 <= skip < len(view):
            return None
        self.position = offset + len(view)
        self._last_update = self._pool.submit(self._sha.update, view[skip:])
        return self._last_update

    def wait(self) -> None:
        """Wait until the bytes given so far are hashed."""
        if self._last_update is not None:
            self._last_update.result()
            self._last_update = None

    def hexdigest(self) -> str:
        """The digest of the bytes given so far."""
        self.wait()
        return self._sha.hexdigest()


def make_constant_tensor(node: ConstantNode) -> Tensor:
    """The tensor that a constant stands for.

    >>> import torch
    >>> from funcnet.checkpoint import Spec
    >>> make_constant_tensor(ConstantNode(Spec((2, 2), torch.bool), "tril"))
    tensor([[ True, False],
            [ True,  True]])
    """
    if node.value == "arange":
        return torch.arange(node.shape[-1]).to(node.spec.dtype).expand(node.shape).contiguous()
    if node.value == "tril":
        return torch.ones(node.shape).tril().to(node.spec.dtype)
    # Only inexact values go through float64: an integer may have more digits than float64 holds.
    dtype = node.spec.dtype
    exact_dtype = torch.float64 if is_inexact(dtype) else dtype
    assert not isinstance(node.value, str)
    value = node.value if is_inexact(dtype) else int(node.value)
    return torch.tensor(value, dtype=exact_dtype).to(dtype).expand(node.shape).contiguous()


def _cast_pieces(pieces: Iterator[memoryview], node: CastNode) -> Iterator[memoryview]:
    for piece in filter(len, pieces):
        for values in torch.frombuffer(piece, dtype=node.operand.spec.dtype).split(COPY_ELEMENTS):
            yield view_as_bytes(_cast_checked(values, node))


def _cast_checked(values: Tensor, node: CastNode) -> Tensor:
    """Values in the dtype of a node.

    Raises:
        CheckpointError: if the cast changes a value and the node is not lossy.
    """
    result = values.to(node.spec.dtype)
    if not node.lossy and not have_same_bits(result.to(values.dtype), values):
        names = dict.fromkeys(leaf.name for leaf in iter_leaves(node) if isinstance(leaf, SourceNode))
        raise CheckpointError(
            f"{', '.join(map(repr, names))} has values of {values.dtype} that {result.dtype} cannot hold. "
            f"Declare the loss with lossy = true (--lossy), or keep the dtype."
        )
    return result
