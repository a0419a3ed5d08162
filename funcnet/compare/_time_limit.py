"""The time that a comparison may take. A part asks before it begins, and is left out if there is no time for it."""

from __future__ import annotations

import time
from collections.abc import Callable

from funcnet.compare._errors import SkippedError

TIME_LIMIT = 150.0
"""Seconds for a comparison with its study, so that a page is there within three minutes."""


class TimeLimit:
    """Seconds that a piece of work may take, counted from now on.

    Work is never interrupted: a part that would take longer than what is left does not begin, and says so.

    Args:
        seconds: how long the work may take.
        total: the limit that the user set, of which this may be a part; it is named to readers.
        clock: returns the time in seconds.

    >>> limit = TimeLimit(20.0, clock=lambda: 0.0)
    >>> limit.part(0.5).require(9.0)
    >>> limit.part(0.5).require(11.0)
    Traceback (most recent call last):
        ...
    funcnet.compare._errors.SkippedError: it would take about 11 s, and 10 s were left for it; a --time-limit of more
    than 20 s gives it more
    """

    def __init__(
        self, seconds: float, *, total: float | None = None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.seconds, self.total = seconds, seconds if total is None else total
        self._clock, self._start = clock, clock()

    @property
    def remaining(self) -> float:
        """The seconds that are left; never negative."""
        return max(0.0, self._start + self.seconds - self._clock())

    def part(self, share: float) -> TimeLimit:
        """The limit of the next piece of work, which gets at most this share of what is left."""
        return TimeLimit(self.remaining * min(1.0, share), total=self.total, clock=self._clock)

    def require(self, seconds: float) -> None:
        """Require that there is time for something.

        Args:
            seconds: how long it will take, as far as one can tell.

        Raises:
            SkippedError: if less is left.
        """
        left = self.remaining
        if seconds > left:
            raise SkippedError(
                f"it would take about {_format(seconds)} s, and {_format(left)} s were left for it; a --time-limit of "
                f"more than {_format(self.total)} s gives it more"
            )


NO_LIMIT = TimeLimit(float("inf"))


def _format(seconds: float) -> str:
    return f"{seconds:.0f}" if seconds >= 1 or not seconds else f"{seconds:.1g}"
