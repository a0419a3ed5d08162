"""Times of several programs that take turns, with their spread."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from funcnet.compare._errors import summarize_error
from funcnet.compare._lab._records import Curve, Spread
from funcnet.compare._measure import clock
from funcnet.compare._results import NotPossible

Call = Callable[[], Any]
Make = Callable[[], Call]
"""Builds what is called; it may raise, and then its reason is what is measured."""

BLOCK = 0.001
LEAST, MOST = 5, 101
SLOW, LEAST_SLOW = 0.25, 3
"""Calls of more than so many seconds are warmed up once, and make fewer rounds at least."""
TOO_LONG = 5.0
"""A call of more seconds is not timed: a report should not take hours."""
A_CURVE = 12.0
"""Seconds for a curve; sizes that are left when they are spent are left out, and say so."""


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
    than a millisecond are repeated until they fill one, and a round holds their mean. Slow ones make do with less, and
    those that take longer than ``TOO_LONG`` are left out.

    Args:
        makers: what builds each program; one that cannot be built, or raises, says why in place of a time.
        budget: seconds to spend on all of them together; five rounds are made in any case, or three if
            the calls are slow.
    """
    calls: dict[str, tuple[Call, int]] = {}
    found: dict[str, Spread | NotPossible] = {}
    lap = 0.0
    for name, make in makers.items():
        try:
            call = make()
            once = _timed(call, 1)
            if once > TOO_LONG:
                raise SkippedError(f"a call took {once:.1f} s, and one of more than {TOO_LONG:.1f} s is not timed")
            if once <= SLOW:
                once = min(_timed(call, 1) for _ in range(2))
        except Exception as error:  # whatever a model or a compiler may raise
            found[name] = NotPossible(reason_of(error))
            continue
        repeat = max(1, min(1000, round(BLOCK / once)))
        calls[name] = (call, repeat)
        lap += once * repeat
    names = list(calls)
    times: dict[str, list[float]] = {name: [] for name in names}
    least = LEAST_SLOW if lap > SLOW * len(names) else LEAST
    for turn in range(max(least, min(MOST, int(budget / lap))) if names else 0):
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
    return str(error) if isinstance(error, SkippedError) else summarize_error(error, 220)


def curve(title: str, call: str, axis: str, rows: Mapping[int, Mapping[str, Make]], budget: float) -> Curve:
    """Times at several sizes, ``budget`` seconds for each; slow ones at as many sizes as there is time for."""
    at = tuple(rows)
    found: dict[int, Mapping[str, Spread | NotPossible]] = {}
    spent = 0.0
    for size, makers in rows.items():
        if spent > A_CURVE:
            why = NotPossible(f"the smaller sizes took {spent:.0f} s, and there are {A_CURVE:.0f} s for a curve")
            found[size] = dict.fromkeys(makers, why)
            continue
        found[size] = in_turns(makers, budget)
        times = [value for value in found[size].values() if isinstance(value, Spread)]
        spent += sum(value.median * value.rounds for value in times)
    names = dict.fromkeys(name for row in found.values() for name in row)
    missing = NotPossible("not tried at this size")
    forms = {name: tuple(found[size].get(name, missing) for size in at) for name in names}
    return Curve(title, call, axis, "seconds", at, forms)
