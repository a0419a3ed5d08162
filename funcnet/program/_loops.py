"""Calls of one function in a row as loops."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from funcnet.program._program import Statement, names_in
from funcnet.program._source_calls import Function, Loop, Use

LOOP = 3  # calls in a row that are worth a loop


def looped(function: Function) -> None:
    """Make loops of calls in a row, where each takes what the one before gives."""
    items, found, at = function.items, [], 0
    while at < len(items):
        run = _run_from(function, at)
        if run is None:
            found.append(items[at])
            at += 1
            continue
        found.append(run)
        at += len(run.uses)
        states = {use.state for use in run.uses}
        if run.state is not None:
            gone = [path for path, one in function.new.items() if isinstance(one, ast.Name) and one.id in states]
            for path in gone:
                del function.new[path]
            function.new[f"{run.head}.*"] = ast.Name(run.state, ast.Load())
    function.items = found


def _run_from(function: Function, at: int) -> Loop | None:
    """The longest loop that starts at an item, if one is worth it."""
    items = function.items
    uses = [items[at]]
    if not isinstance(items[at], Use):
        return None
    place: tuple[str, int, str] | None = None
    carried: dict[int, int] | None = None
    while at + len(uses) < len(items):
        last, following = uses[-1], items[at + len(uses)]
        if not isinstance(following, Use) or following.function is not last.function:
            break
        step = _numbered(last.level.path, following.level.path)
        if step is None or (place is not None and (step[0], step[2]) != (place[0], place[2])):
            break
        if last.state is not None and step[2]:
            break
        now = _carried(last, following)
        if now is not None and carried is None and not _one_start(now, last):
            break
        if now is None or (carried is not None and now != carried):
            break
        place, carried = place or step, now
        uses.append(following)
    # what an earlier call gives may be read by the next one only
    for length in range(len(uses), LOOP - 1, -1):
        behind = [*items[at + length :]]
        read = {name for item in behind for name in _read_by(item)} | set(function.outputs)
        read |= {name for value in function.new.values() for name in names_in(value)}
        early = {name for use in uses[: length - 1] for name in use.results}
        if place is not None and not early & read:
            state = None if uses[0].state is None else f"%new:{place[0]}"
            return Loop(uses[:length], place[0], place[2], place[1], carried or {}, state)
    return None


def _carried(last: Use, following: Use) -> dict[int, int] | None:
    """Which arguments of a call are which results of the one before; None if another argument differs."""
    found: dict[int, int] = {}
    for position, (before, after) in enumerate(zip(last.given, following.given, strict=True)):
        if after in last.results:
            found[position] = last.results.index(after)
        elif before != after:
            return None
    return found


def _one_start(carried: dict[int, int], first: Use) -> bool:
    """Whether arguments that become one value start as one."""
    starts: dict[int, str] = {}
    return all(starts.setdefault(result, first.given[at]) == first.given[at] for at, result in carried.items())


def _numbered(one: str, other: str) -> tuple[str, int, str] | None:
    """What is before, is and is behind the one number in a path that is one more in the other path."""
    left, right = one.split("."), other.split(".")
    if len(left) != len(right):
        return None
    differing = [index for index, (a, b) in enumerate(zip(left, right, strict=True)) if a != b]
    if len(differing) != 1:
        return None
    index = differing[0]
    if not (left[index].isdigit() and right[index].isdigit() and int(right[index]) == int(left[index]) + 1):
        return None
    return ".".join(left[:index]), int(left[index]), ".".join(left[index + 1 :])


def _read_by(item: Any) -> Iterator[str]:
    if isinstance(item, Statement):
        yield from names_in(item.code, ast.Load)
    else:
        yield from item.given
