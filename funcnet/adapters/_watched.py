"""Whether anything reachable from a module is other than it was: all attributes, and all that they hold."""

from __future__ import annotations

import random
import sys
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn

from funcnet.adapters._copies import holders


class Watched:
    """What some objects hold, one level each, remembered by identity; so it is cheap to look at again.

    Args:
        objects: everything that can be reached and changed.
        exempt: ids of tensors that calls exchange.
    """

    def __init__(self, objects: list[Any], exempt: set[int]) -> None:
        self._empty: list[Any] = []
        self._dicts: list[tuple[Any, list[Any], list[Any]]] = []
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
            elif (state := _state(one)) is not None:
                self._states.append((one, state))
            elif hasattr(one, "__next__"):
                self._restless = True  # where an iterator is cannot be seen
            elif held := list(_held(one)):
                self._others.append((one, held))
        self._counts: list[list[int]] = []

    def count(self) -> None:
        """Remember how many refer to each dict: one that a call handed out is not to be emptied."""
        self._counts = self._counts or [
            [sys.getrefcount(held) for held in self._empty],
            [sys.getrefcount(held) for held, _, _ in self._dicts],
        ]

    def put_back(self) -> bool:
        """Put back what is other than it was, as far as that is a dict; whether all is now as it was."""
        if self._restless or (any(self._empty) and not self._emptied()):
            return False
        for index, (held, keys, values) in enumerate(self._dicts):
            if len(held) != len(keys) or not all(map(is_, held.values(), values)):
                if sys.getrefcount(held) != self._counts[1][index]:
                    return False
                held.clear()
                held.update(zip(keys, values, strict=True))
        return (
            all(tensor._version == version for tensor, version in self._tensors)
            and all(_same(_held(one), values) for one, values in self._others)
            and all(_state(one) == state for one, state in self._states)
        )

    def _emptied(self) -> bool:
        for index, held in enumerate(self._empty):
            if held:
                if sys.getrefcount(held) != self._counts[0][index]:
                    return False
                held.clear()
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
