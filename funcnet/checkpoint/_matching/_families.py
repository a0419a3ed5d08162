"""Families: tensors of one shape whose names differ only in the numbers of their layers, as one pattern."""

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
    """Tensors of one shape whose names differ only in numbers; also a single tensor.

    Attributes:
        pattern: their names, as ``"layers.{i}.norm.weight"``; the name itself if there is only one.
        shape: of each of them.
        names_by_numbers: the numbers in a name -> the name, in the order of the checkpoint.
        position: position of the first of them in the checkpoint, counted from 0.
    """

    pattern: str
    shape: Shape
    names_by_numbers: dict[tuple[str, ...], str]
    position: int

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """How many numbers each hole takes."""
        columns = zip(*self.names_by_numbers, strict=True)
        return tuple(len(set(column)) for column in columns)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all tensors of the family."""
        return tuple(self.names_by_numbers.values())


def group_families(shapes: Mapping[str, Shape], numbered: bool = True) -> list[Family]:
    """All tensors, grouped into families, in the order of the checkpoint.

    Numbers make a family if they are keys or follow an underscore, run from 0 without a gap, and all combinations of
    them occur with one shape. Otherwise, and if ``numbered`` is false, each tensor is a family of its own.

    >>> [family.pattern for family in group_families({"h.0.w": (2,), "h.1.w": (2,), "fc_1": (3,)})]
    ['h.{i}.w', 'fc_1']
    """
    positions = {name: position for position, name in enumerate(shapes)}
    families: list[Family] = []
    # lists of names to group, each with how many of the last numbers in a name stay numbers
    pending = [(list(shapes), 0 if numbered else len(HOLES) + 1)]
    while pending:
        names, fixed_count = pending.pop()
        groups: dict[str, dict[tuple[str, ...], str]] = {}
        for name in names:
            pattern, numbers = _generalise_name(name, fixed_count)
            groups.setdefault(pattern, {})[numbers] = name
        for pattern, names_by_numbers in groups.items():
            first = next(iter(names_by_numbers.values()))
            if len(names_by_numbers) == 1:
                families.append(Family(first, shapes[first], {(): first}, positions[first]))
            elif _is_complete(names_by_numbers, pattern, shapes):
                families.append(Family(pattern, shapes[first], names_by_numbers, positions[first]))
            else:  # keep one more of the last numbers, because the number of the layer is usually the first
                pending.append((list(names_by_numbers.values()), fixed_count + 1))
    return sorted(families, key=lambda family: family.position)


def _generalise_name(name: str, fixed_count: int) -> tuple[str, tuple[str, ...]]:
    """A name with holes for its numbers, except the last ``fixed_count``, and the numbers that became holes.

    >>> _generalise_name("h.3.mlp.1.w", 1)
    ('h.{i}.mlp.1.w', ('3',))
    """
    spans = list(_NUMBER.finditer(name))
    spans = [] if fixed_count > len(HOLES) else spans[: max(0, len(spans) - fixed_count)][: len(HOLES)]
    pattern, end = "", 0
    for hole, span in zip(HOLES, spans, strict=False):
        pattern += f"{name[end : span.start()]}{{{hole}}}"
        end = span.end()
    return pattern + name[end:], tuple(span.group() for span in spans)


def _is_complete(names_by_numbers: Mapping[tuple[str, ...], str], pattern: str, shapes: Mapping[str, Shape]) -> bool:
    """Whether the names have one shape and all combinations of numbers from 0, and nothing else fits the pattern."""
    total = 1
    for column in zip(*names_by_numbers, strict=True):
        numbers = set(column)
        if len(numbers) < 2 or numbers != {str(number) for number in range(len(numbers))}:
            return False
        total *= len(numbers)
    if total != len(names_by_numbers) or len({shapes[name] for name in names_by_numbers.values()}) > 1:
        return False
    compiled = Pattern(pattern)
    return sum(compiled.match(name) is not None for name in shapes) == total
