"""Calls of one function in a row as loops."""

from __future__ import annotations

import ast

from funcnet.program._statements import Item, Loop, Routine, Use, expression_names, item_reads

SHORTEST = 3
"""The number of calls in a row that are worth a loop."""


def make_loops(function: Routine) -> None:
    """Make loops of calls in a row, where each takes what the one before gives."""
    items: list[Item] = []
    index = 0
    while index < len(function.items):
        loop = _loop_from(function, index)
        if loop is None:
            items.append(function.items[index])
            index += 1
            continue
        items.append(loop)
        index += len(loop.uses)
        if loop.state is not None:
            states = {use.state for use in loop.uses}
            function.new_buffers = {
                path: value
                for path, value in function.new_buffers.items()
                if not (isinstance(value, ast.Name) and value.id in states)
            }
            function.new_buffers[f"{loop.head}.*"] = ast.Name(loop.state)
    function.items = items


def _loop_from(function: Routine, index: int) -> Loop | None:
    """The longest loop that starts at an item, if one is worth it."""
    items = function.items
    first = items[index]
    if not isinstance(first, Use):
        return None
    uses = [first]
    place: tuple[str, int, str] | None = None
    carried: dict[int, int] | None = None
    for following in items[index + 1 :]:
        last = uses[-1]
        if not isinstance(following, Use) or following.function is not last.function:
            break
        step = _numbered_place(last.level.path, following.level.path)
        if step is None or (place is not None and (step[0], step[2]) != (place[0], place[2])):
            break
        if last.state is not None and step[2]:
            break
        now = _carried_results(last, following)
        if now is None or (carried is not None and now != carried):
            break
        if carried is None and not _start_alike(now, last):
            break
        place, carried = place or step, now
        uses.append(following)
    results = {name for value in function.new_buffers.values() for name in expression_names(value)}
    # what an earlier call gives may be read by the next one only
    for length in range(len(uses), SHORTEST - 1, -1):
        read = {name for item in items[index + length :] for name in item_reads(item)}
        read |= results | set(function.outputs)
        early = {name for use in uses[: length - 1] for name in use.results}
        if place is not None and not early & read:
            state = None if first.state is None else f"%new:{place[0]}"
            return Loop(uses[:length], place[0], place[2], place[1], carried or {}, state)
    return None


def _carried_results(last: Use, following: Use) -> dict[int, int] | None:
    """Which arguments of a call are which results of the one before; None if another argument differs."""
    carried: dict[int, int] = {}
    for position, (before, after) in enumerate(zip(last.arguments, following.arguments, strict=True)):
        if after in last.results:
            carried[position] = last.results.index(after)
        elif before != after:
            return None
    return carried


def _start_alike(carried: dict[int, int], first: Use) -> bool:
    """Whether arguments that become one value start as one."""
    starts: dict[int, str] = {}
    return all(
        starts.setdefault(result, first.arguments[position]) == first.arguments[position]
        for position, result in carried.items()
    )


def _numbered_place(path: str, next_path: str) -> tuple[str, int, str] | None:
    """The parts of a path around the one number in it that is one more in the next path, and that number.

    >>> _numbered_place("steps.0.fc", "steps.1.fc")
    ('steps', 0, 'fc')
    """
    left, right = path.split("."), next_path.split(".")
    if len(left) != len(right):
        return None
    differing = [index for index, (key, next_key) in enumerate(zip(left, right, strict=True)) if key != next_key]
    if len(differing) != 1:
        return None
    index = differing[0]
    if not (left[index].isdigit() and right[index].isdigit() and int(right[index]) == int(left[index]) + 1):
        return None
    return ".".join(left[:index]), int(left[index]), ".".join(left[index + 1 :])
