"""Draws on many ranks: each rank has the numbers that one process would draw for its rows.

The numbers are drawn for all rows, and those of this rank taken out. A generator of torch cannot be asked for its
thousandth number, so this costs each rank what a draw costs one process, and the memory of it for a moment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from funcnet._context import under_vmap
from funcnet._typing import Shape
from funcnet.ranks import RankRun, current_run


def splitting_run() -> RankRun | None:
    """The run on many ranks whose draws are for the rows of a batch; None where draws are for nobody else."""
    run = current_run()
    return run if run is not None and run.splits_draws and not under_vmap() else None


def draw_own_rows(run: RankRun, size: Sequence[int], stride: Sequence[int], draw: Callable[..., Tensor]) -> Tensor:
    """The part for this rank of what is drawn for all ranks.

    Args:
        run: the run.
        size, stride: the layout of this rank's part.
        draw: makes numbers of a layout, ``draw(size, stride)``.
    """
    starts: dict[int, int] = {}  # of this rank's part, by the axis
    whole_size = list(size)
    axis = _find_row_axis(size, run.rows or 0) if run.groups else None
    if axis is not None:
        before, total = run.row_range
        entries = size[axis] // run.rows if run.rows else 1  # of each row, as for the heads of attention
        starts[axis], whole_size[axis] = before * entries, total * entries
    if run.draws_for_heads and len(size) == 4:
        (group,) = run.sharing_groups
        starts[1], whole_size[1] = group.rank() * size[1], group.size() * size[1]
    if not starts:
        return draw(size, stride)
    whole = draw(tuple(whole_size), _stride_in_order_of(stride, size, whole_size))
    for axis, start in starts.items():
        whole = whole.narrow(axis, start, size[axis])
    return whole.clone()


def _find_row_axis(size: Sequence[int], rows: int) -> int | None:
    """The axis of a draw along which its rows lie; None for a draw that is not about rows, as noise on a weight."""
    if not size or not rows:
        return None
    if size[0] == rows:
        return 0
    if len(size) > 2 and size[1] == rows:  # sequences first
        return 1
    return 0 if len(size) > 2 and size[0] % rows == 0 else None


def _stride_in_order_of(stride: Sequence[int], size: Sequence[int], new_size: Sequence[int]) -> Shape:
    """Strides of a dense tensor of another size, whose axes lie in memory in the order of the given strides."""
    order = sorted(range(len(size)), key=lambda axis: (stride[axis], -axis))
    result, step = [0] * len(size), 1
    for axis in order:
        result[axis] = step
        step *= max(new_size[axis], 1)
    return tuple(result)


def draw_for_placed(like: Tensor, size: Sequence[int], draw: Callable[[], Tensor]) -> Tensor | None:
    """A draw for a DTensor, placed as it is: what is drawn for the whole of it; None where ``like`` is a plain tensor.

    Args:
        like: what the draw is for.
        size: of the draw, with 1 for axes that it is the same along.
        draw: makes the whole.
    """
    from funcnet.ranks.internals import find_piece, place_local, read_placement

    placement = read_placement(like)
    if placement is None:
        return None
    placement = placement.of_size(tuple(size))
    offsets, sizes = find_piece(placement)
    box = tuple(slice(offset, offset + length) for offset, length in zip(offsets, sizes, strict=True))
    return place_local(draw()[box].clone(), placement)
