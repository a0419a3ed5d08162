"""Collectives that are differentiable to any order: each is a linear map of what all ranks hold, with its own adjoint.

A value is either the same on all ranks of a group, or each rank has its own. Two maps lead from one kind to the
other: :func:`sum_over_ranks` makes one value of everybody's own, and :func:`hand_to_ranks` lets each rank use a common
value in a computation of its own. They are adjoint to each other, as gathering shards and scattering a sum are. With an
adjoint that averages instead, gradients would still be right, and second derivatives wrong by the number of ranks.

Source: the operators f and g of Shoeybi et al., Megatron-LM, 2019.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor

Groups: TypeAlias = "tuple[dist.ProcessGroup, ...]"
"""The process groups of the axes of a mesh: a collective over the mesh is one over each of its axes, in turn."""


class ShardedAxis(NamedTuple):
    """How a tensor lies on the ranks of a group: in pieces along one axis, each of ``ceil(size / ranks)`` but the last.

    Args:
        axis: the axis that is cut.
        size: its length in the whole tensor.
    """

    axis: int
    size: int

    def piece(self, ranks: int, rank: int) -> tuple[int, int]:
        """Where the piece of a rank begins, and its length."""
        longest = -(-self.size // ranks)
        start = min(rank * longest, self.size)
        return start, min(longest, self.size - start)


# --- sums, and values for all ---


def sum_over_ranks(groups: Groups, *tensors: Tensor) -> tuple[Tensor, ...]:
    """For each tensor the sum of what all ranks hold, the same on all of them; one collective for each dtype.

    >>> sum_over_ranks((), torch.ones(2))  # over no other ranks
    (tensor([1., 1.]),)
    """
    return _Sum.apply(groups, *tensors)  # type: ignore[no-untyped-call]


def hand_to_ranks(groups: Groups, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors that are the same on all ranks, for computations in which each rank has other data.

    The values stay as they are. The gradient is the sum of those that all ranks have, in one collective for each dtype
    and some megabytes: it begins while the gradients of earlier tensors are still computed, and needs little memory.

    >>> hand_to_ranks((), torch.ones(2))
    (tensor([1., 1.]),)
    """
    results: list[Tensor] = []
    for bucket in _iter_buckets(tensors):
        results += _Handed.apply(groups, *bucket)  # type: ignore[no-untyped-call]
    return tuple(results)


_BUCKET_BYTES = 8 << 20


def _iter_buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        bucket.append(tensor)
        size += tensor.numel() * tensor.dtype.itemsize
        if size >= _BUCKET_BYTES:
            yield bucket
            bucket, size = [], 0
    if bucket:
        yield bucket


class _Linear(torch.autograd.Function):
    """The base of the functions here: linear, so that the tangents go the way of the values."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.arguments, tensors = inputs[0], inputs[1:]
        ctx.examples = [(tensor.shape, tensor.dtype, tensor.device) for tensor in tensors]

    @staticmethod
    def fill_tangents(ctx: Any, tangents: Sequence[Tensor | None]) -> list[Tensor]:
        """The tangents, with zeros for inputs that have none."""
        return [
            torch.zeros(shape, dtype=dtype, device=device) if tangent is None else tangent
            for tangent, (shape, dtype, device) in zip(tangents, ctx.examples, strict=True)
        ]


class _Sum(_Linear):
    @staticmethod
    def forward(groups: Groups, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(_in_flat_memory(tensors, lambda flat: _all_reduce(flat, groups)))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return None, *hand_to_ranks(ctx.arguments, *grads)

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> Any:
        return sum_over_ranks(ctx.arguments, *_Linear.fill_tangents(ctx, tangents))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], groups: Groups, *tensors: Tensor) -> Any:
        return sum_over_ranks(groups, *tensors), in_dims[1:]


class _Handed(_Linear):
    @staticmethod
    def forward(groups: Groups, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return None, *sum_over_ranks(ctx.arguments, *grads)

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> Any:
        return hand_to_ranks(ctx.arguments, *_Linear.fill_tangents(ctx, tangents))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], groups: Groups, *tensors: Tensor) -> Any:
        return hand_to_ranks(groups, *tensors), in_dims[1:]


def _all_reduce(flat: Tensor, groups: Groups) -> None:
    for group in groups:
        dist.all_reduce(flat, group=group)


def _in_flat_memory(tensors: Sequence[Tensor], reduce: Callable[[Tensor], None]) -> list[Tensor]:
    """Copies of the tensors after ``reduce`` has changed them, all of one dtype and device in one piece of memory."""
    results: list[Tensor] = list(tensors)
    for numbers in _group_alike(tensors):
        pieces = [tensors[number].reshape(-1) for number in numbers]
        flat = torch.cat(pieces) if len(pieces) > 1 else pieces[0].clone()
        reduce(flat)
        for number, piece in zip(numbers, flat.split([piece.numel() for piece in pieces]), strict=True):
            results[number] = piece.view(tensors[number].shape)
    return results


def _group_alike(tensors: Sequence[Tensor], alone_bytes: float = math.inf) -> list[list[int]]:
    """The positions of tensors that have one dtype and one device; those of so many bytes are by themselves."""
    positions: dict[Any, list[int]] = {}
    for position, tensor in enumerate(tensors):
        is_alone = tensor.numel() * tensor.dtype.itemsize >= alone_bytes
        positions.setdefault(position if is_alone else (tensor.dtype, tensor.device), []).append(position)
    return list(positions.values())


_LARGE_BYTES = 1 << 19
"""A tensor of so many bytes has a collective of its own, so that it need not be copied to common memory and back."""


def _join_flat(pieces: Sequence[Tensor], dim: int = 0) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(list(pieces), dim)


# --- whole tensors of shards, and back ---


def gather_shards(group: dist.ProcessGroup, layouts: Sequence[ShardedAxis], *shards: Tensor) -> tuple[Tensor, ...]:
    """The whole tensors, from the piece of each that every rank holds; one collective for each
    dtype, and for each large tensor.

    The gradient of a piece is the sum of what all ranks have for it, as :func:`scatter_sums` computes it.
    """
    return _Gathered.apply((group, tuple(layouts)), *shards)  # type: ignore[no-untyped-call]


def scatter_sums(group: dist.ProcessGroup, layouts: Sequence[ShardedAxis], *tensors: Tensor) -> tuple[Tensor, ...]:
    """This rank's piece of the sum over ranks of each tensor; the adjoint of :func:`gather_shards`."""
    return _Scattered.apply((group, tuple(layouts)), *tensors)  # type: ignore[no-untyped-call]


class _Gathered(_Linear):
    @staticmethod
    def forward(arguments: Any, *shards: Tensor) -> tuple[Tensor, ...]:
        group, layouts = arguments
        return tuple(gather_values(group, layouts, shards))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return None, *scatter_sums(*ctx.arguments, *grads)

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> Any:
        return gather_shards(*ctx.arguments, *_Linear.fill_tangents(ctx, tangents))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], arguments: Any, *shards: Tensor) -> Any:
        layouts, shards, out_dims = _move_examples_first(arguments[1], in_dims[1:], shards)
        return gather_shards(arguments[0], layouts, *shards), out_dims


class _Scattered(_Linear):
    @staticmethod
    def forward(arguments: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        group, layouts = arguments
        return tuple(_scatter_values(group, layouts, tensors))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return None, *gather_shards(*ctx.arguments, *grads)

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> Any:
        return scatter_sums(*ctx.arguments, *_Linear.fill_tangents(ctx, tangents))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], arguments: Any, *tensors: Tensor) -> Any:
        layouts, tensors, out_dims = _move_examples_first(arguments[1], in_dims[1:], tensors)
        return scatter_sums(arguments[0], layouts, *tensors), out_dims


def _move_examples_first(
    layouts: Sequence[ShardedAxis], in_dims: Sequence[int | None], tensors: Sequence[Tensor]
) -> tuple[list[ShardedAxis], tuple[Tensor, ...], tuple[int | None, ...]]:
    """Layouts and tensors with the axis of vmap in front, and where it is in the results."""
    new_layouts, new_tensors = [], []
    for layout, dim, tensor in zip(layouts, in_dims, tensors, strict=True):
        new_layouts.append(layout if dim is None else layout._replace(axis=layout.axis + 1))
        new_tensors.append(tensor if dim is None else tensor.movedim(dim, 0))
    return new_layouts, tuple(new_tensors), tuple(None if dim is None else 0 for dim in in_dims)


def gather_values(group: dist.ProcessGroup, layouts: Sequence[ShardedAxis], shards: Sequence[Tensor]) -> list[Tensor]:
    """The values of :func:`gather_shards`."""
    ranks = group.size()
    results: list[Tensor] = list(shards)
    for numbers in _group_alike(shards, _LARGE_BYTES / ranks):
        pieces = [_lay_out(shards[number], layouts[number], -(-layouts[number].size // ranks)) for number in numbers]
        flat = _join_flat([piece.reshape(-1) for piece in pieces])
        received = flat.new_empty(ranks * flat.numel())
        dist.all_gather_single(received, flat, group=group)
        columns = received.view(ranks, -1).split([piece.numel() for piece in pieces], 1)
        for number, piece, column in zip(numbers, pieces, columns, strict=True):
            axis, size = layouts[number]
            whole = column.reshape(ranks * piece.shape[0], *piece.shape[1:])[:size]
            results[number] = whole.movedim(0, axis).contiguous()
    return results


def _scatter_values(
    group: dist.ProcessGroup, layouts: Sequence[ShardedAxis], tensors: Sequence[Tensor]
) -> list[Tensor]:
    ranks, rank = group.size(), group.rank()
    results: list[Tensor] = list(tensors)
    for numbers in _group_alike(tensors, _LARGE_BYTES):
        longest = [-(-layouts[number].size // ranks) for number in numbers]
        wholes = [
            _lay_out(tensors[number], layouts[number], length * ranks)
            for number, length in zip(numbers, longest, strict=True)
        ]
        flat = _join_flat([whole.reshape(ranks, -1) for whole in wholes], 1).reshape(-1)
        received = flat.new_empty(flat.numel() // ranks)
        dist.reduce_scatter_single(received, flat, group=group)
        columns = received.split([whole.numel() // ranks for whole in wholes])
        for number, length, whole, column in zip(numbers, longest, wholes, columns, strict=True):
            piece = column.view(length, *whole.shape[1:])[: layouts[number].piece(ranks, rank)[1]]
            results[number] = piece.movedim(0, layouts[number].axis).contiguous()
    return results


def _lay_out(tensor: Tensor, layout: ShardedAxis, length: int) -> Tensor:
    """The tensor with the axis that is cut in front, and zeros after it up to a length."""
    moved = tensor.movedim(layout.axis, 0)
    missing = length - moved.shape[0]
    return torch.cat([moved, moved.new_zeros(missing, *moved.shape[1:])]) if missing else moved
