"""What the ranks of a mesh do together: collectives with all derivatives, and what a loss knows of the other ranks.

It is machinery: ``funcnet.distributed`` is what users call, and this is what layers, draws and calls of nets ask.

current_run        returns the run on many ranks that this thread is in.
running_on_ranks   runs a block as a part of such a run.
RankRun            is what the run knows.
sum_over_ranks     makes one value of what all ranks hold.
hand_to_ranks      lets each rank use a common value in a computation of its own.
"""

from funcnet.ranks._collectives import Groups as Groups
from funcnet.ranks._collectives import hand_to_ranks as hand_to_ranks
from funcnet.ranks._collectives import sum_over_ranks as sum_over_ranks
from funcnet.ranks._running import RankRun as RankRun
from funcnet.ranks._running import current_run as current_run
from funcnet.ranks._running import running_on_ranks as running_on_ranks

__all__ = ["Groups", "RankRun", "current_run", "hand_to_ranks", "running_on_ranks", "sum_over_ranks"]


def __dir__() -> list[str]:
    return [*__all__]
