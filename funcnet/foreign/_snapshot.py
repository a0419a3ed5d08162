"""Whether objects have changed since a moment, and how to put them back: what a call did to the copy that it leased."""

from __future__ import annotations

import sys
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from operator import is_
from types import FunctionType, MethodType
from typing import Any

from torch import Tensor, nn

from funcnet._reachable import iter_containers, slot_names
from funcnet.core.internals import copy_inner_state


class Snapshot:
    """The contents of some objects at one moment, one level deep, by identity; so comparing with it later is cheap.

    Args:
        objects: all objects that can be reached and changed.
        exempt: ids of tensors that calls exchange.
    """

    def __init__(self, objects: Sequence[Any], exempt: set[int]) -> None:
        self._empty: list[Any] = []
        self._dicts: list[tuple[Any, list[Any], list[Any]]] = []  # each with its keys and values
        self._lists: list[list[Any]] = []
        self._others: list[tuple[Any, list[Any]]] = []
        self._tensors: list[tuple[Tensor, int]] = []  # each with its version
        self._inner_states: list[tuple[Any, Any]] = []
        self._has_iterator = False
        for obj in objects:
            if isinstance(obj, Tensor):
                if id(obj) not in exempt:
                    self._tensors.append((obj, obj._version))
            elif isinstance(obj, nn.Module):
                self._dicts.append((obj.__dict__, list(obj.__dict__), list(obj.__dict__.values())))
            elif type(obj) in (dict, OrderedDict) and obj:
                self._dicts.append((obj, list(obj), list(obj.values())))
            elif type(obj) in (dict, OrderedDict, list, set) and not obj:
                self._empty.append(obj)
            elif type(obj) is list:
                self._lists.append(obj)
            elif (state := copy_inner_state(obj)) is not None:
                self._inner_states.append((obj, state))
            elif hasattr(obj, "__next__"):
                self._has_iterator = True  # how far an iterator has come cannot be seen
            elif _holds_attributes_only(obj):
                self._dicts.append((obj.__dict__, list(obj.__dict__), list(obj.__dict__.values())))
            elif contents := list(_iter_contents(obj)):
                self._others.append((obj, contents))
        self._reference_counts: list[list[int]] = []
        self._filled = [*(content for content, _, _ in self._dicts), *self._lists]
        self._sizes = list(map(len, self._filled))
        self._values = list(self._current_values())

    def _current_values(self) -> Iterator[Any]:
        """All that dicts and lists hold now, in one pass: of all comparisons this is the one that costs time."""
        dicts = self._filled[: len(self._dicts)]
        return chain(chain.from_iterable(map(dict.values, dicts)), chain.from_iterable(self._lists))

    def count_references(self) -> None:
        """Remember how many objects refer to each dict: a dict that a call handed out must not be emptied."""
        self._reference_counts = self._reference_counts or [
            [sys.getrefcount(self._empty[index]) for index in range(len(self._empty))],
            [sys.getrefcount(self._dicts[index][0]) for index in range(len(self._dicts))],
        ]

    def restore_objects(self) -> bool:
        """Put back the contents of dicts that differ, and return whether everything is now as it was."""
        if self._has_iterator or (any(self._empty) and not self._clear_filled()):
            return False
        if (list(map(len, self._filled)) != self._sizes or not self._values_are_same()) and not self._restore_dicts():
            return False
        return (
            all(tensor._version == version for tensor, version in self._tensors)
            and all(_are_same(_iter_contents(obj), contents) for obj, contents in self._others)
            and all(copy_inner_state(obj) == state for obj, state in self._inner_states)
        )

    def _values_are_same(self) -> bool:
        return all(map(is_, self._current_values(), self._values))

    def _restore_dicts(self) -> bool:
        """Give dicts back what they held; returns False if somebody else holds one, or if a list has changed."""
        for index, (content, keys, values) in enumerate(self._dicts):
            if len(content) != len(keys) or not all(map(is_, content.values(), values)):
                if sys.getrefcount(content) - 1 != self._reference_counts[1][index]:  # 1 is the name in this loop
                    return False
                content.clear()
                content.update(zip(keys, values, strict=True))
        if list(map(len, self._filled)) != self._sizes:
            return False
        count = sum(map(len, self._lists))
        return count == 0 or all(map(is_, chain.from_iterable(self._lists), self._values[-count:]))

    def _clear_filled(self) -> bool:
        """Empty what was empty before; returns False if somebody else holds one of them."""
        indices = [index for index, content in enumerate(self._empty) if content]
        if any(sys.getrefcount(self._empty[index]) != self._reference_counts[0][index] for index in indices):
            return False
        for index in indices:
            self._empty[index].clear()
        return True


_HOLDS_MORE = (list, tuple, set, frozenset, deque, Mapping, FunctionType, MethodType, partial)


def _holds_attributes_only(value: object) -> bool:
    """Whether all that a value holds is in its dict of attributes, as a configuration does."""
    has_dict = isinstance(getattr(value, "__dict__", None), dict)
    return has_dict and not isinstance(value, _HOLDS_MORE) and not any(slot_names(type(value)))


_PLAIN_CLASSES = (int, float, complex, str, bytes, bool, type(None))


def _are_same(contents: Iterable[Any], contents_before: list[Any]) -> bool:
    contents = list(contents)
    return len(contents) == len(contents_before) and all(
        value is before or (type(value) is type(before) and isinstance(value, _PLAIN_CLASSES) and value == before)
        for value, before in zip(contents, contents_before, strict=True)
    )


def _iter_contents(value: object) -> Iterator[Any]:
    return (container[key] for container, keys in iter_containers(value) for key in keys)
