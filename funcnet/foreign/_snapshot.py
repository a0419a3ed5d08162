"""Whether anything reachable from a module is other than it was: all attributes, and all that they hold."""

from __future__ import annotations

import random
import sys
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import chain
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn

from funcnet.foreign._isolated_copies import holders


class Watched:
    """What some objects hold, one level each, remembered by identity; so it is cheap to look at again.

    Args:
        objects: everything that can be reached and changed.
        exempt: ids of tensors that calls exchange.
    """

    def __init__(self, objects: list[Any], exempt: set[int]) -> None:
        self._empty: list[Any] = []
        self._dicts: list[tuple[Any, list[Any], list[Any]]] = []
        self._lists: list[list[Any]] = []
        self._others: list[tuple[Any, list[Any]]] = []
        self._tensors: list[tuple[Tensor, int]] = []
        self._states: list[tuple[Any, Any]] = []
        self._restless = False
        for one in objects:
            if isinstance(one, Tensor):
                if id(one) not in exempt:
                    self._tensors.append((one, one._version))
            elif isinstance(one, nn.Module):
                self._dicts.append((one.__dict__, list(one.__dict__), list(one.__dict__.values())))
            elif type(one) in (dict, OrderedDict) and one:
                self._dicts.append((one, list(one), list(one.values())))
            elif type(one) in (dict, OrderedDict, list, set) and not one:
                self._empty.append(one)
            elif type(one) is list:
                self._lists.append(one)
            elif (state := _state(one)) is not None:
                self._states.append((one, state))
            elif hasattr(one, "__next__"):
                self._restless = True  # where an iterator is cannot be seen
            elif held := list(_held(one)):
                self._others.append((one, held))
        self._counts: list[list[int]] = []
        self._filled = [*(held for held, _, _ in self._dicts), *self._lists]
        self._sizes = list(map(len, self._filled))
        self._values = list(self._now())

    def _now(self) -> Iterator[Any]:
        """All that dicts and lists hold, in one go: of the many looks at a copy this is the one that costs."""
        held = self._filled[: len(self._dicts)]
        return chain(chain.from_iterable(map(dict.values, held)), chain.from_iterable(self._lists))

    def count(self) -> None:
        """Remember how many refer to each dict: one that a call handed out is not to be emptied."""
        self._counts = self._counts or [
            [sys.getrefcount(self._empty[index]) for index in range(len(self._empty))],
            [sys.getrefcount(self._dicts[index][0]) for index in range(len(self._dicts))],
        ]

    def put_back(self) -> bool:
        """Put back what is other than it was, as far as that is a dict; whether all is now as it was."""
        if self._restless or (any(self._empty) and not self._emptied()):
            return False
        if (list(map(len, self._filled)) != self._sizes or not all(map(is_, self._now(), self._values))) and (
            not self._refilled() or not all(map(is_, self._now(), self._values))
        ):
            return False
        return (
            all(tensor._version == version for tensor, version in self._tensors)
            and all(_same(_held(one), values) for one, values in self._others)
            and all(_state(one) == state for one, state in self._states)
        )

    def _refilled(self) -> bool:
        """Give dicts back what they held, if nobody else has them; whether all are of the size they were."""
        for index, (held, keys, values) in enumerate(self._dicts):
            if len(held) != len(keys) or not all(map(is_, held.values(), values)):
                if sys.getrefcount(held) - 1 != self._counts[1][index]:  # one is the name here
                    return False
                held.clear()
                held.update(zip(keys, values, strict=True))
        return list(map(len, self._filled)) == self._sizes

    def _emptied(self) -> bool:
        filled = [index for index, held in enumerate(self._empty) if held]
        if any(sys.getrefcount(self._empty[index]) != self._counts[0][index] for index in filled):
            return False
        for index in filled:
            self._empty[index].clear()
        return True


_PLAIN = (int, float, complex, str, bytes, bool, type(None))


def _same(now: Iterable[Any], before: list[Any]) -> bool:
    now = list(now)
    return len(now) == len(before) and all(
        left is right or (type(left) is type(right) and isinstance(left, _PLAIN) and left == right)
        for left, right in zip(now, before, strict=True)
    )


def _held(value: Any) -> Iterator[Any]:
    return (container[key] for container, keys in holders(value) for key in keys)


def _state(value: Any) -> Any:
    """What is inside of a value that holds nothing by name, if it can change; a copy."""
    if isinstance(value, torch.Generator):
        return value.get_state().numpy().tobytes()
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, (bytearray, memoryview)) or hasattr(value, "__array_interface__"):
        return bytes(value) if isinstance(value, bytearray) else value.tobytes()
    return None
