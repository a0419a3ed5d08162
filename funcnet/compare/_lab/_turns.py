"""Times of several programs that take turns, with their spread."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from funcnet.compare._errors import brief
from funcnet.compare._lab._records import Curve, Spread
from funcnet.compare._measure import clock
from funcnet.compare._results import NotPossible

Call = Callable[[], Any]
Make = Callable[[], Call]
"""Builds what is called; it may raise, and then its reason is what is measured."""

BLOCK = 0.001
LEAST, MOST = 5, 101


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles.

    >>> spread([1.0, 2.0, 3.0, 4.0, 50.0])
    Spread(median=3.0, lower=2.0, upper=4.0, rounds=5)
    """
    if len(values) == 1:
        return Spread(values[0], values[0], values[0], 1)
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, lower, upper, len(values))


def in_turns(makers: Mapping[str, Make], budget: float) -> dict[str, Spread | NotPossible]:
    """Seconds per call of several programs. In each round every program has a turn, and the first turn moves on.

    A machine that slows down thus slows all of them. Each is called three times before anything counts. Calls shorter
    than a millisecond are repeated until they fill one, and a round holds their mean.

    Args:
        makers: what builds each program; one that cannot be built, or raises, says why in place of a time.
        budget: seconds to spend on all of them together; five rounds are made in any case.
    """
    calls: dict[str, tuple[Call, int]] = {}
    found: dict[str, Spread | NotPossible] = {}
    lap = 0.0
    for name, make in makers.items():
        try:
            call = make()
            _timed(call, 1)
            once = min(_timed(call, 1) for _ in range(2))
        except Exception as error:  # whatever a model or a compiler may raise
            found[name] = NotPossible(reason_of(error))
            continue
        repeat = max(1, min(1000, round(BLOCK / once)))
        calls[name] = (call, repeat)
        lap += once * repeat
    names = list(calls)
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(max(LEAST, min(MOST, int(budget / lap))) if names else 0):
        first = turn % len(names)
        for name in (*names[first:], *names[:first]):
            times[name].append(_timed(*calls[name]))
    return {name: found[name] if name in found else spread(times[name]) for name in makers}


def _timed(call: Call, repeat: int) -> float:
    start = clock()
    for _ in range(repeat):
        call()
    return (clock() - start) / repeat


class SkippedError(Exception):
    """Raised instead of measuring something; its message is the reason, and is shown as it is."""


def reason_of(error: BaseException) -> str:
    """Why something could not be measured, in one line."""
    return str(error) if isinstance(error, SkippedError) else brief(error, 220)


def curve(title: str, call: str, axis: str, rows: Mapping[int, Mapping[str, Make]], budget: float) -> Curve:
    """Times at several sizes, ``budget`` seconds for each."""
    at = tuple(rows)
    found = {size: in_turns(makers, budget) for size, makers in rows.items()}
    names = dict.fromkeys(name for row in found.values() for name in row)
    missing = NotPossible("not tried at this size")
    forms = {name: tuple(found[size].get(name, missing) for size in at) for name in names}
    return Curve(title, call, axis, "seconds", at, forms)
