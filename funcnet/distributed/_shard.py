"""Trees in pieces on the ranks of a mesh, and whole again."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Shard

from funcnet._errors import TreeError, bullet_list
from funcnet._torch import pytree
from funcnet._typing import Tree, TreeLike
from funcnet.distributed._placement_plan import Plan, read_plan
from funcnet.ranks.internals import TensorPlacement, find_piece, gather_wholes, place_local, read_placement
from funcnet.tree import flatten, map_with_path

T = TypeVar("T")


def shard(tree: TreeLike, mesh: DeviceMesh, plan: Plan | None = None) -> Tree:
    """The tree with a DTensor in place of each tensor, of which this rank holds its piece alone.

    Every rank calls it with the same whole tree (``net.init(0)`` is the same everywhere) and keeps a copy of its piece,
    so that the whole one can be freed; nothing is sent. A leaf that is a DTensor already is placed anew.

    Args:
        tree: nested dicts of tensors: params, or the state of an optimizer.
        mesh: the ranks; of several axes, the last is the one over which an axis of a param is cut.
        plan: selectors of leaves, the last that matches wins: ``{"**": 0, "!**.norm*": None}``. The value is the axis
            that is cut; None for a leaf that every rank has whole, which a selector that begins with ``!`` says too; or
            placements of torch, one for each axis of the mesh. Integer leaves are whole. By default every leaf is cut
            along its first axis. An axis need not be divisible by the number of ranks.

    Raises:
        TreeError: if a selector matches nothing, or a leaf has no such axis; names all of them.

    >>> from funcnet.distributed import world_mesh
    >>> with world_mesh() as mesh:
    ...     params = shard({"fc": {"weight": torch.ones(4, 2), "bias": torch.ones(4)}}, mesh, {"**.weight": 1})
    ...     params["fc"]["weight"].placements, params["fc"]["bias"].placements
    ((Shard(dim=1),), (Replicate(),))
    """
    placements = read_plan(tree, mesh, plan)

    def place(path: str, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if isinstance(leaf, DTensor):
            return leaf.redistribute(mesh, placements[path])
        local = _cut_piece(leaf.detach(), mesh, placements[path])
        return place_local(local, TensorPlacement(mesh, placements[path], leaf.shape))

    return map_with_path(place, tree)


def _cut_piece(tensor: Tensor, mesh: DeviceMesh, placements: tuple[Placement, ...]) -> Tensor:
    """A copy of the piece that this rank has of a tensor."""
    offsets, sizes = find_piece(TensorPlacement(mesh, placements, tensor.shape))
    box = tuple(slice(offset, offset + size) for offset, size in zip(offsets, sizes, strict=True))
    return tensor[box].clone(memory_format=torch.contiguous_format)


def gather(tree: TreeLike) -> Tree:
    """The tree with whole plain tensors in place of DTensors, on every rank; all ranks call it together.

    Args:
        tree: nested dicts; leaves that are no DTensors stay as they are.

    >>> from funcnet.distributed import world_mesh
    >>> with world_mesh() as mesh:
    ...     gather(shard({"w": torch.arange(3)}, mesh))
    {'w': tensor([0, 1, 2])}
    """
    sharded = {path: leaf for path, leaf in flatten(tree).items() if read_placement(leaf) is not None}
    refuse_partial(sharded)
    wholes = dict(zip(sharded, gather_wholes(list(sharded.values())), strict=True))
    return map_with_path(lambda path, leaf: wholes.get(path, leaf), tree)


def refuse_partial(leaves: dict[str, Any]) -> None:
    """Refuse DTensors that are neither whole nor in pieces along an axis.

    Raises:
        TreeError: names all of them.
    """
    problems = [
        f"{path!r} is placed as {placement.placements}"
        for path, leaf in leaves.items()
        if (placement := read_placement(leaf)) is not None
        and any(not (type(one) is Shard or one.is_replicate()) for one in placement.placements)
    ]
    if problems:
        raise TreeError(
            f"these leaves are neither whole nor in pieces along an axis:{bullet_list(problems)}\n"
            f"Place them by tensor.redistribute(mesh, [Shard(0)])."
        )


def rows(batch: T, mesh: DeviceMesh) -> T:
    """This rank's part of a batch that all ranks have: the rows of each tensor along its first axis.

    The first ranks have one row more where the number of rows is not divisible.

    Args:
        batch: a tensor, or tensors in dicts, lists and tuples; what is no tensor, or has no axis, stays as it is.
        mesh: the ranks that share the rows.

    Raises:
        TreeError: if this process is not in the mesh.

    >>> from funcnet.distributed import world_mesh
    >>> with world_mesh() as mesh:
    ...     rows({"x": torch.ones(4, 2)}, mesh)["x"].shape
    torch.Size([4, 2])
    """
    coordinate = mesh.get_coordinate()
    if coordinate is None:
        raise TreeError(f"this process is not in the mesh {mesh}: only its ranks have rows.")
    number = 0
    for axis, position in enumerate(coordinate):
        number = number * mesh.size(axis) + position

    def take(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not leaf.dim():
            return leaf
        return leaf.tensor_split(mesh.size())[number]

    result: T = pytree.tree_map(take, batch)
    return result
