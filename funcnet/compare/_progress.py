"""How a comparison tells its caller which work it is doing, and how much of it is done."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[str, float], object]
"""Is called with a description of the current work, and the share of all work that is done, in [0, 1]."""


def ignore_progress(activity: str, share: float) -> None:
    """A progress callback that does nothing."""


def subtask_progress(progress: Progress, title: str, index: int, count: int) -> Progress:
    """The progress of subtask number ``index`` of ``count``, as part of the progress of the whole.

    >>> subtask_progress(print, "conv", 1, 4)("training", 0.5)
    conv: training 0.375
    """

    def report(activity: str, share: float) -> None:
        progress(f"{title}: {activity}", (index + share) / count)

    return report
