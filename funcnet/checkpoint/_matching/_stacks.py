"""Stacked layers: a tensor with an axis for the layers, seen as the tensors of the layers, and back."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from funcnet._typing import Shape

_NUMBERED = re.compile(r"(?:^|(?<=[./_]))(\d+)(?=[./])")


@dataclass(frozen=True)
class Stacks:
    """The tensors of a layout with layers by themselves.

    Attributes:
        shapes: by name; a layer of a stacked tensor has the number of the layer in its name.
        stacked_of: the name of such a layer -> the name of the stacked tensor.
    """

    shapes: dict[str, Shape]
    stacked_of: dict[str, str]


def unstack_layout(shapes: Mapping[str, Shape], other: Mapping[str, Shape]) -> Stacks:
    """The layout with layers that are stacked here, and not in the other layout, by themselves.

    >>> unstack_layout({"layers.w": (2, 3), "b": (2,)}, {"h.0.w": (3,), "h.1.w": (3,), "b": (2,)}).shapes
    {'layers.0.w': (3,), 'layers.1.w': (3,), 'b': (2,)}
    """
    own_lists, lists = _find_lists(shapes), _find_lists(other)
    counts = {count: total for count, total in lists.items() if count not in own_lists}
    if not counts:
        return Stacks(dict(shapes), {})
    result, stacked_of = dict[str, Shape](), dict[str, str]()
    count_of = {}
    for prefix, (count, total) in _find_stacked_prefixes(shapes, set(counts)).items():
        if 0.5 < total / counts[count] < 2:
            count_of[prefix] = count
    for name, shape in shapes.items():
        prefix = next((prefix for prefix in count_of if name.startswith(prefix)), "")
        if not prefix:
            result[name] = shape
            continue
        for number in range(count_of[prefix]):
            layer = f"{prefix}{number}.{name[len(prefix) :]}"
            result[layer] = shape[1:]
            stacked_of[layer] = name
    return Stacks(result, stacked_of)


def _find_lists(shapes: Mapping[str, Shape]) -> dict[int, int]:
    """Lengths of the lists of layers, which are numbered from 0 on, and how many elements the layers of each have."""
    numbers_of: dict[str, set[int]] = {}
    elements_of: dict[str, int] = {}
    for name, shape in shapes.items():
        for match in _NUMBERED.finditer(name):
            prefix = name[: match.start()]
            numbers_of.setdefault(prefix, set()).add(int(match[1]))
            elements_of[prefix] = elements_of.get(prefix, 0) + math.prod(shape)
    lists: dict[int, int] = {}
    for prefix, numbers in numbers_of.items():
        if len(numbers) > 1 and max(numbers) == len(numbers) - 1:
            lists[len(numbers)] = max(lists.get(len(numbers), 0), elements_of[prefix])
    return lists


def _find_stacked_prefixes(shapes: Mapping[str, Shape], counts: set[int]) -> dict[str, tuple[int, int]]:
    """The shortest prefixes under which all tensors have one of these counts as first size, and their elements."""
    firsts: dict[str, set[int]] = {}
    elements: dict[str, int] = {}
    for name, shape in shapes.items():
        for match in re.finditer(r"[./]", name):
            prefix = name[: match.end()]
            firsts.setdefault(prefix, set()).add(shape[0] if shape else -1)
            elements[prefix] = elements.get(prefix, 0) + math.prod(shape)
    found: dict[str, tuple[int, int]] = {}
    for prefix, sizes in sorted(firsts.items(), key=lambda item: len(item[0])):
        if len(sizes) == 1 and sizes <= counts and not any(prefix.startswith(shorter) for shorter in found):
            found[prefix] = sizes.copy().pop(), elements[prefix]
    return found
