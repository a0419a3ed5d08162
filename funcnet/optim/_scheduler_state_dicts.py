"""What a state_dict of a scheduler of torch says: how far it has come, and whether it is of the same schedule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from funcnet._errors import TreeError, bullet_list

_OF_THE_MOMENT = frozenset({"_step_count", "_last_lr", "_is_initial", "_get_lr_called_within_step"})
"""What schedulers count and remember besides ``last_epoch``: it depends on the version of torch, or follows from it."""


def find_last_epoch(name: str, state_dict: object) -> int:
    """How many steps a scheduler has made; that of the first part, for a scheduler that counts in its parts alone.

    Raises:
        TreeError: if it is not the state_dict of a scheduler.
    """
    if isinstance(state_dict, Mapping):
        if type(state_dict.get("last_epoch")) is int:
            return int(state_dict["last_epoch"])
        parts = state_dict.get("_schedulers")
        if isinstance(parts, (list, tuple)) and parts:
            return find_last_epoch(name, parts[0])
    shown = ", ".join(map(repr, [*state_dict][:5])) if isinstance(state_dict, Mapping) else repr(state_dict)[:60]
    raise TreeError(f"the state_dict of a {name} of torch has 'last_epoch', and this one has {shown}.")


def check_scheduler_state(name: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Refuse the state_dict of a scheduler that was made with other arguments.

    Args:
        name: of the class of the scheduler.
        found: the state_dict.
        expected: that of a scheduler of the schedule after as many steps.

    Raises:
        TreeError: names all that differs.
    """
    problems = list(_iter_problems(found, expected, ""))
    if problems:
        raise TreeError(
            f"the state_dict is not that of this {name}:{bullet_list(problems)}\n"
            f"Make the schedule, and the optimizer that it starts from, with the arguments of the one that was saved."
        )


def _iter_problems(found: Any, expected: Any, path: str) -> Iterator[str]:
    """A line for each value that differs or is missing."""
    if isinstance(found, Mapping) and isinstance(expected, Mapping):
        for key, value in expected.items():
            place = f"{path}[{key!r}]"
            if key in _OF_THE_MOMENT:
                continue
            if key in found:
                yield from _iter_problems(found[key], value, place)
            elif not str(key).startswith("_"):  # what does is private to a version of torch
                yield f"{place} is missing: expected {value!r:.60}"
    elif isinstance(found, (list, tuple)) and isinstance(expected, (list, tuple)) and len(found) == len(expected):
        for index, items in enumerate(zip(found, expected, strict=True)):
            yield from _iter_problems(*items, f"{path}[{index}]")
    elif not _is_same(found, expected):
        yield f"{path}: expected {expected!r:.60}, got {found!r:.60}"


def _is_same(left: Any, right: Any) -> bool:
    numbers = [float(value) if isinstance(value, Tensor) and value.numel() == 1 else value for value in (left, right)]
    return bool(numbers[0] == numbers[1])
