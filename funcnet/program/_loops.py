"""Calls of one function in a row as loops."""

from __future__ import annotations

import ast

from funcnet.program._statements import Item, Loop, Routine, RoutineCall, expression_names, item_reads

SHORTEST = 3
"""The number of calls in a row that are worth a loop."""


def make_loops(function: Routine) -> None:
    """Replace consecutive calls by loops, where each call may read results of the previous one."""
    items: list[Item] = []
    index = 0
    while index < len(function.items):
        loop = _loop_from(function, index)
        if loop is None:
            items.append(function.items[index])
            index += 1
            continue
        items.append(loop)
        index += len(loop.calls_in_loop)
        if loop.new_buffers_value is not None:
            new_buffers_values = {routine_call.new_buffers_value for routine_call in loop.calls_in_loop}
            function.new_buffers = {
                path: value
                for path, value in function.new_buffers.items()
                if not (isinstance(value, ast.Name) and value.id in new_buffers_values)
            }
            function.new_buffers[f"{loop.head}.*"] = ast.Name(loop.new_buffers_value)
    function.items = items


def _loop_from(function: Routine, index: int) -> Loop | None:
    """The longest loop that starts at an item, if one is worth it."""
    items = function.items
    first = items[index]
    if not isinstance(first, RoutineCall):
        return None
    calls_in_loop = [first]
    split_path: tuple[str, int, str] | None = None
    carried: dict[int, int] | None = None
    for following in items[index + 1 :]:
        last = calls_in_loop[-1]
        if not isinstance(following, RoutineCall) or following.function is not last.function:
            break
        split_here = _split_at_number(last.call_key.path, following.call_key.path)
        if split_here is None or (
            split_path is not None and (split_here[0], split_here[2]) != (split_path[0], split_path[2])
        ):
            break
        if last.new_buffers_value is not None and split_here[2]:
            break
        carried_here = _carried_results(last, following)
        if carried_here is None or (carried is not None and carried_here != carried):
            break
        if carried is None and not _have_equal_starts(carried_here, last):
            break
        split_path, carried = split_path or split_here, carried_here
        calls_in_loop.append(following)
    results = {name for value in function.new_buffers.values() for name in expression_names(value)}
    # results of all calls but the last may be read only by the next call
    for length in range(len(calls_in_loop), SHORTEST - 1, -1):
        read = {name for item in items[index + length :] for name in item_reads(item)}
        read |= results | set(function.outputs)
        early = {name for routine_call in calls_in_loop[: length - 1] for name in routine_call.results}
        if split_path is not None and not early & read:
            new_buffers_value = None if first.new_buffers_value is None else f"%new:{split_path[0]}"
            return Loop(
                calls_in_loop[:length], split_path[0], split_path[2], split_path[1], carried or {}, new_buffers_value
            )
    return None


def _carried_results(last: RoutineCall, following: RoutineCall) -> dict[int, int] | None:
    """Argument position -> position of the previous call's result; None if any other argument differs."""
    carried: dict[int, int] = {}
    for position, (before, after) in enumerate(zip(last.arguments, following.arguments, strict=True)):
        if after in last.results:
            carried[position] = last.results.index(after)
        elif before != after:
            return None
    return carried


def _have_equal_starts(carried: dict[int, int], first: RoutineCall) -> bool:
    """Whether arguments carried by one loop variable are equal before the first call."""
    starts: dict[int, str] = {}
    return all(
        starts.setdefault(result, first.arguments[position]) == first.arguments[position]
        for position, result in carried.items()
    )


def _split_at_number(path: str, next_path: str) -> tuple[str, int, str] | None:
    """Split a path at its one number, if that number is one larger in the next path: (before, number, after).

    >>> _split_at_number("steps.0.fc", "steps.1.fc")
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
