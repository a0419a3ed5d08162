"""Tensors that differ in the numbers of their layers alone, as one pattern."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from funcnet._typing import Shape
from funcnet.checkpoint.rules._patterns import Pattern

_NUMBER = re.compile(r"(?:(?<=[./_])|^)\d+(?=[./]|$)")
HOLES = "ijkmn"


@dataclass(frozen=True, eq=False)
class Family:
    """Tensors of one shape whose names differ in numbers alone.

    Attributes:
        pattern: their names, as ``"layers.{i}.norm.weight"``; a name where there is but one.
        shape: of each of them.
        members: what the numbers are -> name, in the order of the checkpoint.
        position: where the first of them is in the checkpoint, counted from 0.
    """

    pattern: str
    shape: Shape
    members: dict[tuple[str, ...], str]
    position: int

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """How many numbers each hole stands for."""
        numbers = list(self.members)
        return tuple(len({number[hole] for number in numbers}) for hole in range(len(numbers[0])))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.members.values())


def families(shapes: Mapping[str, Shape], numbered: bool = True) -> list[Family]:
    """All tensors, by families, in the order of the checkpoint.

    Numbers make a family where they are keys or follow an underscore, run from 0 without a gap, and all combinations
    of them are there with one shape; else, and where ``numbered`` is false, every name is by itself.

    >>> [family.pattern for family in families({"h.0.w": (2,), "h.1.w": (2,), "fc_1": (3,)})]
    ['h.{i}.w', 'fc_1']
    """
    order = {name: position for position, name in enumerate(shapes)}
    found: list[Family] = []
    pending = [(list(shapes), 0 if numbered else len(HOLES) + 1)]
    while pending:
        names, kept = pending.pop()
        groups: dict[str, dict[tuple[str, ...], str]] = {}
        for name in names:
            pattern, numbers = _generalised(name, kept)
            groups.setdefault(pattern, {})[numbers] = name
        for pattern, members in groups.items():
            first = next(iter(members.values()))
            if len(members) == 1:
                pattern, members = first, {(): first}
            if len(members) == 1 or _whole(members, pattern, shapes):
                found.append(Family(pattern, shapes[first], members, order[first]))
            else:  # hold on to the last number, then to one more: a layer is more often the first
                pending.append((list(members.values()), kept + 1))
    return sorted(found, key=lambda family: family.position)


def _generalised(name: str, kept: int) -> tuple[str, tuple[str, ...]]:
    """A name with holes for its numbers but the last ``kept``, and the numbers."""
    spans = list(_NUMBER.finditer(name))
    spans = [] if kept > len(HOLES) else spans[: max(0, len(spans) - kept)][: len(HOLES)]
    pattern, end = "", 0
    for hole, span in zip(HOLES, spans, strict=False):
        pattern += f"{name[end : span.start()]}{{{hole}}}"
        end = span.end()
    return pattern + name[end:], tuple(span.group() for span in spans)


def _whole(members: Mapping[tuple[str, ...], str], pattern: str, shapes: Mapping[str, Shape]) -> bool:
    """Whether they are of one shape, all combinations of runs from 0, and all that the pattern means."""
    numbers = list(members)
    total = 1
    for hole in range(len(numbers[0])):
        run = {number[hole] for number in numbers}
        if len(run) < 2 or run != {str(count) for count in range(len(run))}:
            return False
        total *= len(run)
    if total != len(numbers) or len({shapes[name] for name in members.values()}) > 1:
        return False
    meant = Pattern(pattern)
    return sum(meant.match(name) is not None for name in shapes) == total
