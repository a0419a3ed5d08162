"""Who holds what of a tree, in bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.distributed.tensor import Shard

from funcnet._typing import TreeLike
from funcnet.ranks.internals import TensorPlacement, read_placement
from funcnet.tree import flatten


@dataclass(frozen=True)
class LeafOnRanks:
    """One tensor of a tree on the ranks of its mesh.

    Args:
        path: where it is in the tree.
        shape: of the whole tensor.
        dtype: as text.
        place: how it lies on the mesh, in words.
        whole_bytes: of the whole tensor.
        bytes_by_rank: what each rank holds, in the order of the ranks of the mesh.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    place: str
    whole_bytes: int
    bytes_by_rank: tuple[int, ...]


@dataclass(frozen=True)
class TreeOnRanks:
    """Who holds what of a tree; ``print`` shows it as a table.

    Args:
        leaves: the tensors, in the order of the tree.
    """

    leaves: tuple[LeafOnRanks, ...]

    @property
    def whole_bytes(self) -> int:
        """The bytes of the tree on one process."""
        return sum(leaf.whole_bytes for leaf in self.leaves)

    @property
    def bytes_by_rank(self) -> tuple[int, ...]:
        """What each rank holds of it."""
        ranks = max((len(leaf.bytes_by_rank) for leaf in self.leaves), default=1)
        return tuple(
            sum(leaf.bytes_by_rank[rank if rank < len(leaf.bytes_by_rank) else 0] for leaf in self.leaves)
            for rank in range(ranks)
        )

    def __str__(self) -> str:
        table = [("path", "shape", "dtype", "placed", "bytes", "bytes of a rank")]
        for leaf in self.leaves:
            least, most = min(leaf.bytes_by_rank), max(leaf.bytes_by_rank)
            of_rank = f"{most:,}" if least == most else f"{least:,} to {most:,}"
            table.append((leaf.path, str(leaf.shape), leaf.dtype, leaf.place, f"{leaf.whole_bytes:,}", of_rank))
        least, most = min(self.bytes_by_rank), max(self.bytes_by_rank)
        of_rank = f"{most:,}" if least == most else f"{least:,} to {most:,}"
        table.append(("all", "", "", f"{len(self.bytes_by_rank)} ranks", f"{self.whole_bytes:,}", of_rank))
        widths = [max(len(row[column]) for row in table) for column in range(6)]
        lines = []
        for row in table:
            cells = [
                cell.ljust(width) if at < 4 else cell.rjust(width)
                for at, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)


def describe(tree: TreeLike) -> TreeOnRanks:
    """Who holds what of a tree, in bytes; no rank is asked.

    Args:
        tree: nested dicts. Plain tensors count as held whole by every rank.

    >>> import torch
    >>> from funcnet.distributed import shard, world_mesh
    >>> with world_mesh() as mesh:
    ...     print(describe(shard({"w": torch.ones(4, 2)}, mesh)))
    path  shape   dtype    placed      bytes  bytes of a rank
    w     (4, 2)  float32  cut axis 0     32               32
    all                    1 ranks        32               32
    """
    leaves = []
    for path, leaf in flatten(tree).items():
        if isinstance(leaf, Tensor):
            size = leaf.dtype.itemsize
            placement = read_placement(leaf)
            by_rank = (math.prod(leaf.shape),) if placement is None else _count_numbers(placement)
            leaves.append(
                LeafOnRanks(
                    path,
                    tuple(leaf.shape),
                    str(leaf.dtype).removeprefix("torch."),
                    "whole" if placement is None else _describe_placement(placement),
                    math.prod(leaf.shape) * size,
                    tuple(count * size for count in by_rank),
                )
            )
    return TreeOnRanks(tuple(leaves))


def _describe_placement(placement: TensorPlacement) -> str:
    words = []
    for axis, one in enumerate(placement.placements):
        name = f" over {placement.mesh.mesh_dim_names[axis]!r}" if placement.mesh.mesh_dim_names else ""
        if isinstance(one, Shard):
            words.append(f"cut axis {one.dim}{name}")
        elif not one.is_replicate():
            words.append(f"{one}{name}")
    return ", ".join(words) or "whole"


def _count_numbers(placement: TensorPlacement) -> tuple[int, ...]:
    """How many numbers each rank of the mesh holds."""
    counts: list[Any] = [tuple(placement.shape)]
    for axis, one in enumerate(placement.placements):
        ranks = placement.mesh.size(axis)
        counts = [_piece_shape(shape, one, ranks, rank) for shape in counts for rank in range(ranks)]
    return tuple(math.prod(shape) for shape in counts)


def _piece_shape(shape: tuple[int, ...], placement: Any, ranks: int, rank: int) -> tuple[int, ...]:
    if not isinstance(placement, Shard):
        return shape
    size = shape[placement.dim]
    longest = -(-size // ranks)
    length = min(longest, size - min(rank * longest, size))
    return (*shape[: placement.dim], length, *shape[placement.dim + 1 :])
