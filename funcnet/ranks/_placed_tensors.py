"""Between DTensors, in which params are stored, and the plain tensors of this rank, by maps that can be differentiated.

``DTensor.to_local`` and ``from_local`` do the same for a plain backward pass, and not within transforms of torch.func.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard

from funcnet._errors import TreeError
from funcnet._torch import give_dtensors_forward_mode, unwrap_all
from funcnet._typing import Shape
from funcnet.ranks._collectives import Groups, ShardedAxis, gather_shards, gather_values, hand_to_ranks

give_dtensors_forward_mode()


class TensorPlacement(NamedTuple):
    """How a tensor lies on a mesh: what a DTensor knows besides its numbers.

    Args:
        mesh: the ranks.
        placements: one for each axis of the mesh.
        shape: of the whole tensor.
    """

    mesh: DeviceMesh
    placements: tuple[Placement, ...]
    shape: torch.Size

    def with_examples(self, count: int) -> TensorPlacement:
        """The same for a tensor that has one more axis in front."""
        placements = tuple(
            Shard(placement.dim + 1) if isinstance(placement, Shard) else placement for placement in self.placements
        )
        return TensorPlacement(self.mesh, placements, torch.Size((count, *self.shape)))

    def of_size(self, size: Shape) -> TensorPlacement:
        """The same for a tensor of another size; an axis of size 1 that is to be broadcast is whole."""
        placements = tuple(
            Replicate()
            if isinstance(placement, Shard) and size[placement.dim] != self.shape[placement.dim]
            else placement
            for placement in self.placements
        )
        return TensorPlacement(self.mesh, placements, torch.Size(size))


def read_placement(tensor: object) -> TensorPlacement | None:
    """How a tensor lies on its mesh, also within transforms of torch.func; None for one that is no DTensor."""
    inner = unwrap_all(tensor) if isinstance(tensor, Tensor) else tensor
    return TensorPlacement(inner.device_mesh, inner.placements, inner.shape) if isinstance(inner, DTensor) else None


def placement_of(tensor: Tensor) -> TensorPlacement:
    """The placement of a DTensor."""
    placement = read_placement(tensor)
    assert placement is not None, "only a DTensor lies on a mesh"
    return placement


def take_local(tensor: Tensor) -> Tensor:
    """What this rank holds of a DTensor, as a plain tensor."""
    return _Local.apply(tensor, placement_of(tensor))  # type: ignore[no-untyped-call]


def place_local(tensor: Tensor, placement: TensorPlacement) -> Tensor:
    """The DTensor of which this rank holds ``tensor``."""
    return _Placed.apply(tensor, placement)  # type: ignore[no-untyped-call]


class _Local(torch.autograd.Function):
    @staticmethod
    def forward(tensor: Any, placement: TensorPlacement) -> Tensor:
        local = tensor.to_local()
        return local.view_as(local)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.placement = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return place_local(grad, ctx.placement), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return take_local(tangent)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], tensor: Tensor, placement: TensorPlacement) -> Any:
        moved = tensor.movedim(in_dims[0] or 0, 0)
        return _Local.apply(moved, placement.with_examples(info.batch_size)), 0  # type: ignore[no-untyped-call]


class _Placed(torch.autograd.Function):
    @staticmethod
    def forward(tensor: Tensor, placement: TensorPlacement) -> Tensor:
        mesh, placements, shape = placement
        stride = torch.empty(shape, device="meta").stride()
        return DTensor.from_local(tensor, mesh, placements, run_check=False, shape=shape, stride=stride)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.placement = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return take_local(grad), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return place_local(tangent, ctx.placement)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], tensor: Tensor, placement: TensorPlacement) -> Any:
        return place_local(tensor.movedim(in_dims[0] or 0, 0), placement.with_examples(info.batch_size)), 0


def find_piece(placement: TensorPlacement) -> tuple[Shape, Shape]:
    """Where the piece that this rank has of a tensor begins along each axis, and its sizes.

    Raises:
        TreeError: if this process is not in the mesh.
    """
    coordinate = placement.mesh.get_coordinate()
    if coordinate is None:
        raise TreeError(f"this process is not in the mesh {placement.mesh}: place trees on its ranks alone.")
    offsets, sizes = [0] * len(placement.shape), list(placement.shape)
    for axis, one in enumerate(placement.placements):
        if isinstance(one, Shard):
            start, length = ShardedAxis(one.dim, sizes[one.dim]).piece(placement.mesh.size(axis), coordinate[axis])
            offsets[one.dim], sizes[one.dim] = offsets[one.dim] + start, length
    return tuple(offsets), tuple(sizes)


# --- whole tensors ---


def mesh_groups(mesh: DeviceMesh) -> Groups:
    """The process groups of the axes of a mesh that have more than one rank."""
    return tuple(mesh.get_group(axis) for axis in range(mesh.ndim) if mesh.size(axis) > 1)


def gather_wholes(tensors: list[Tensor], kept: tuple[DeviceMesh, int] | None = None) -> list[Tensor]:
    """For each tensor the whole of it, for a computation in which each rank has other data.

    The gradients are sums over the ranks, placed as the tensors are: each rank has that of its piece.

    Args:
        tensors: DTensors, in pieces or the same on all ranks of an axis of their mesh.
        kept: an axis of a mesh, by its position, over which nothing is gathered or summed.
    """
    placements = [placement_of(tensor) for tensor in tensors]
    wholes = [take_local(tensor) for tensor in tensors]
    axes = [place for place in _mesh_axes(placements) if place[:2] != kept]
    for mesh, axis, numbers in axes:  # first, because pieces are smaller than wholes
        copied = [number for number in numbers if isinstance(placements[number].placements[axis], Replicate)]
        if copied:
            handed = hand_to_ranks((mesh.get_group(axis),), *[wholes[number] for number in copied])
            for number, tensor in zip(copied, handed, strict=True):
                wholes[number] = tensor
    for mesh, axis, numbers in axes:
        cut = [number for number in numbers if isinstance(placements[number].placements[axis], Shard)]
        if cut:
            layouts = [_sharded_axis(placements[number], axis) for number in cut]
            gathered = gather_shards(mesh.get_group(axis), layouts, *[wholes[number] for number in cut])
            for number, tensor in zip(cut, gathered, strict=True):
                wholes[number] = tensor
    return wholes


def gather_whole_values(tensors: list[Tensor]) -> list[Tensor]:
    """The values of :func:`gather_wholes`, which autograd does not record."""
    placements = [placement_of(tensor) for tensor in tensors]
    with torch.no_grad():
        wholes = [tensor.to_local() for tensor in tensors]  # type: ignore[attr-defined]
        for mesh, axis, numbers in _mesh_axes(placements):
            cut = [number for number in numbers if isinstance(placements[number].placements[axis], Shard)]
            layouts = [_sharded_axis(placements[number], axis) for number in cut]
            if cut:
                gathered = gather_values(mesh.get_group(axis), layouts, [wholes[number] for number in cut])
                for number, tensor in zip(cut, gathered, strict=True):
                    wholes[number] = tensor
    return wholes


def _mesh_axes(placements: list[TensorPlacement]) -> list[tuple[DeviceMesh, int, list[int]]]:
    """The axes of the meshes that have several ranks, the last of a mesh first, with the tensors that lie on them."""
    numbers_by_mesh: dict[DeviceMesh, list[int]] = {}
    for number, placement in enumerate(placements):
        numbers_by_mesh.setdefault(placement.mesh, []).append(number)
    return [
        (mesh, axis, numbers)
        for mesh, numbers in numbers_by_mesh.items()
        for axis in reversed(range(mesh.ndim))
        if mesh.size(axis) > 1
    ]


def _sharded_axis(placement: TensorPlacement, mesh_axis: int) -> ShardedAxis:
    """How the pieces along an axis of a mesh make the tensor that lies on the axes before it."""
    axis = placement.placements[mesh_axis].dim  # type: ignore[attr-defined]
    size = placement.shape[axis]
    for before in range(mesh_axis):
        earlier = placement.placements[before]
        if isinstance(earlier, Shard) and earlier.dim == axis:
            ranks = placement.mesh.size(before)
            size = ShardedAxis(axis, size).piece(ranks, placement.mesh.get_local_rank(before))[1]
    return ShardedAxis(axis, size)
