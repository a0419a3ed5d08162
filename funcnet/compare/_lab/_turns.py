"""Times of several programs that take turns, with their spread."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

from funcnet.compare._errors import SkippedError, describe_reason
from funcnet.compare._lab._records import Curve, Spread
from funcnet.compare._measure import SLOW_SECONDS, VERY_SLOW_SECONDS, time_calls
from funcnet.compare._results import NotPossible
from funcnet.compare._time_limit import NO_LIMIT, TimeLimit

PreparedCall = Callable[[], object]
"""A call without arguments, for which everything that is not to be measured has been done."""
CallMaker = Callable[[], PreparedCall]
"""Prepares the call to measure. It may raise; then the reason is recorded in place of a time."""

BLOCK_SECONDS = 0.001
LEAST_ROUNDS, MOST_ROUNDS = 5, 101
LEAST_SLOW_ROUNDS = 3
LONGEST_CALL_SECONDS = 5.0
"""Calls that take longer than this are not timed: a report should not take hours."""
CURVE_SECONDS = 12.0
"""The time for a curve. When it is spent, the sizes that are left are not measured, and say so."""


def summarize_times(times: Sequence[float]) -> Spread:
    """The median and the quartiles.

    >>> summarize_times([1.0, 2.0, 3.0, 4.0, 50.0])
    Spread(median=3.0, lower=2.0, upper=4.0, rounds=5)
    """
    if len(times) == 1:
        return Spread(times[0], times[0], times[0], 1)
    lower, median, upper = statistics.quantiles(times, n=4, method="inclusive")
    return Spread(median, lower, upper, len(times))


def measure_in_turns(
    makers: Mapping[str, CallMaker], budget: float, limit: TimeLimit = NO_LIMIT
) -> dict[str, Spread | NotPossible]:
    """Seconds per call of several programs. In each round every program has a turn, and the first turn moves on.

    A machine that slows down therefore slows all of them. Each program is called three times before anything counts.
    Calls shorter than a millisecond are repeated until they fill one, and a round records their mean. Slow calls are
    warmed up less and make fewer rounds; of calls that take longer than ``VERY_SLOW_SECONDS`` the first is the only
    round, and of calls that take longer than ``LONGEST_CALL_SECONDS`` none counts.

    Args:
        makers: prepares each program; one that cannot be prepared, or raises, gets the reason in place of a time.
        budget: seconds to spend on all programs together; at least five rounds are made, or three if the calls are
            slow.
        limit: programs for which nothing is left of it are not called.
    """
    calls: dict[str, tuple[PreparedCall, int]] = {}
    failures: dict[str, NotPossible] = {}
    times: dict[str, list[float]] = {}
    round_seconds = call_seconds = 0.0
    for name, make_call in makers.items():
        try:
            limit.require(call_seconds)  # the next program will take about as long as the one before
            call = make_call()
            call_seconds = _warm_up(call)
        except Exception as error:  # a model or a compiler may raise anything
            failures[name] = NotPossible(describe_reason(error))
            continue
        times[name] = []
        if call_seconds > VERY_SLOW_SECONDS:
            times[name].append(call_seconds)
            continue
        repeat = max(1, min(1000, round(BLOCK_SECONDS / call_seconds)))
        calls[name] = (call, repeat)
        round_seconds += call_seconds * repeat
    names = list(calls)
    for turn in range(_round_count(min(budget, limit.remaining), round_seconds, len(names))):
        first = turn % len(names)
        for name in (*names[first:], *names[:first]):
            times[name].append(time_calls(*calls[name]))
    return {name: failures[name] if name in failures else summarize_times(times[name]) for name in makers}


def _warm_up(call: PreparedCall) -> float:
    """Call a program until its caches are warm; returns the seconds of a call."""
    seconds = time_calls(call, 1)
    if seconds > LONGEST_CALL_SECONDS:
        raise SkippedError(
            f"a call took {seconds:.1f} s, and one of more than {LONGEST_CALL_SECONDS:.1f} s is not timed"
        )
    if seconds <= SLOW_SECONDS:
        seconds = min(time_calls(call, 1) for _ in range(2))
    return seconds


def _round_count(budget: float, round_seconds: float, call_count: int) -> int:
    if not call_count:
        return 0
    least = LEAST_SLOW_ROUNDS if round_seconds > SLOW_SECONDS * call_count else LEAST_ROUNDS
    return max(least, min(MOST_ROUNDS, int(budget / round_seconds)))


def measure_curve(
    title: str,
    call: str,
    axis: str,
    makers_by_size: Mapping[int, Mapping[str, CallMaker]],
    budget: float,
    limit: TimeLimit = NO_LIMIT,
) -> Curve:
    """Times at several sizes, with ``budget`` seconds for each size, until ``CURVE_SECONDS`` or the limit are spent."""
    sizes = tuple(makers_by_size)
    values: dict[int, Mapping[str, Spread | NotPossible]] = {}
    spent = 0.0
    for size, makers in makers_by_size.items():
        if spent > CURVE_SECONDS:
            reason = f"the smaller sizes took {spent:.0f} s, and there are {CURVE_SECONDS:.0f} s for a curve"
            values[size] = dict.fromkeys(makers, NotPossible(reason))
            continue
        values[size] = measure_in_turns(makers, budget, limit)
        spreads = [value for value in values[size].values() if isinstance(value, Spread)]
        spent += sum(spread.median * spread.rounds for spread in spreads)
    names = dict.fromkeys(name for row in values.values() for name in row)
    missing = NotPossible("not tried at this size")
    forms = {name: tuple(values[size].get(name, missing) for size in sizes) for name in names}
    return Curve(title, call, axis, "seconds", sizes, forms)
