"""What a loss that runs on many ranks at once knows of the others, while it runs."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from funcnet.ranks._collectives import Groups, hand_to_ranks, sum_over_ranks

if TYPE_CHECKING:
    from funcnet.ranks._unit_gathering import Units


class RankRun:
    """One run of a loss on all ranks of a mesh.

    Args:
        groups: the process groups of the axes of the mesh.
        rows: how many rows of the batch this rank has; None where all ranks have the same inputs.
        statistics: whether norms over the batch take the rows of all ranks ("global") or those of this one ("local").
        units: the params that parts gather when they are called; None where everything is gathered already.
        device: where small tensors for collectives go.
        sharing_groups: the process group of the ranks that share each layer; these have the same rows.

    >>> run = RankRun((), rows=4, statistics="global", units=None, device=torch.device("cpu"))
    >>> run.shares_statistics, run.splits_draws  # there are no other ranks
    (False, False)
    """

    def __init__(
        self,
        groups: Groups,
        rows: int | None,
        statistics: Literal["global", "local"],
        units: Units | None,
        device: torch.device,
        sharing_groups: Groups = (),
    ) -> None:
        self.sharing_groups, self.draws_for_heads = sharing_groups, False
        self.groups, self.rows, self.statistics, self.units, self.device = groups, rows, statistics, units, device
        if rows is not None and groups:
            self.row_range = self._count_rows(rows)
            """How many rows the ranks before this one have, and how many all have."""

    @property
    def shares_statistics(self) -> bool:
        """Whether norms over the batch take the rows of all ranks."""
        return self.rows is not None and self.statistics == "global" and bool(self.groups)

    @property
    def splits_draws(self) -> bool:
        """Whether random numbers for rows of a batch, or for heads, are this rank's part of those for all."""
        return self.draws_for_heads or (self.rows is not None and bool(self.groups))

    @contextlib.contextmanager
    def drawing_for_heads(self) -> Iterator[None]:
        """A block in which draws (N, H, *) are for the heads H that this rank has."""
        outer, self.draws_for_heads = self.draws_for_heads, True
        try:
            yield
        finally:
            self.draws_for_heads = outer

    def _count_rows(self, rows: int) -> tuple[int, int]:
        # At the start, where all ranks are: those without rows may draw nothing, and would not come to ask.
        before, total = 0, rows
        for group in reversed(self.groups):  # the last axis of a mesh counts fastest
            counts = torch.empty(group.size(), dtype=torch.int64, device=self.device)
            dist.all_gather_single(counts, torch.tensor([total], device=self.device), group=group)
            by_rank = counts.tolist()
            before, total = before + sum(by_rank[: group.rank()]), sum(by_rank)
        return before, total

    def add_up(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """For each tensor the sum over ranks, for a computation in which each rank has other rows."""
        return hand_to_ranks(self.groups, *sum_over_ranks(self.groups, *tensors))


class _ThreadRun(threading.local):
    """Its ``run`` is the one that this thread is in."""

    run: RankRun | None = None


_running = _ThreadRun()


def current_run() -> RankRun | None:
    """The run on many ranks that this thread is in; None outside of one.

    >>> current_run() is None
    True
    """
    return _running.run


@contextlib.contextmanager
def running_on_ranks(run: RankRun | None) -> Iterator[None]:
    """Run a block as a part of a run on many ranks, or of none.

    >>> run = RankRun((), rows=4, statistics="global", units=None, device=torch.device("cpu"))
    >>> with running_on_ranks(run):
    ...     print(current_run() is run)
    True
    """
    outer, _running.run = _running.run, run
    try:
        yield
    finally:
        _running.run = outer
