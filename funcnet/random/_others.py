"""The generators of Python and of NumPy, which layer drop and masking in many a foreign forward draw from.

They are global, and no function that draws from them takes another. So they are lent to a call: set to the numbers of
its ``rng`` under a lock, and put back.
"""

from __future__ import annotations

import inspect
import random
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

from torch import Tensor

from funcnet.random._draws import Stream

_R = TypeVar("_R")


class Lent:
    """Lent generators: set to their start before each run of a block, which may take several."""

    def __init__(self, numpy: Any, seed: int) -> None:
        self.drawn = False
        self._numpy, self._seed = numpy, seed

    def from_start(self, function: Callable[..., _R]) -> Callable[..., _R]:
        """The function with the generators at their start, and ``drawn`` set if it draws from them."""

        def run(*args: Any) -> _R:
            random.seed(self._seed)
            if self._numpy is not None:
                self._numpy.random.seed(self._seed % 2**32)
            start = _position(self._numpy)
            result = function(*args)
            self.drawn = _position(self._numpy) != start
            return result

        return run


@contextmanager
def others_lent(rng: Tensor | Stream | None) -> Iterator[Lent]:
    """Lend the global generators of Python and NumPy for a block, and put them back. The caller holds the lock.

    Args:
        rng: of the call. An int seed means ``random.seed(seed); numpy.random.seed(seed)``.
    """
    seed = 0 if rng is None else int(rng.seed or 0) if isinstance(rng, Stream) else int(rng)
    numpy = sys.modules.get("numpy")
    before = _states(numpy)
    try:
        yield Lent(numpy, seed)
    finally:
        random.setstate(before[0])
        if numpy is not None:
            numpy.random.set_state(before[1])


def _states(numpy: Any) -> tuple[Any, Any]:
    return random.getstate(), None if numpy is None else numpy.random.get_state(legacy=False)


def _position(numpy: Any) -> tuple[Any, ...]:
    """What is other once something was drawn."""
    python, numbers = _states(numpy)
    if numbers is None:
        return (python,)
    state = numbers["state"]
    return python, {**numbers, "state": {**state, "key": state["key"].tobytes()}}


@cache
def names_in(kind: type) -> frozenset[str]:
    """The names that the methods of a class use, and functions in the same file that they name; but for ``__init__``.

    A name that stands for a function of a generator of Python or NumPy is given as ``"random"``.
    """
    same_file = [one for one in kind.__mro__ if one.__module__ == kind.__module__]
    waiting = [value for one in same_file for name, value in vars(one).items() if name != "__init__"]
    seen: set[int] = set()
    names: set[str] = set()
    while waiting:
        function = _function(waiting.pop())
        if function is None or id(function) in seen or function.__module__ != kind.__module__:
            continue
        seen.add(id(function))
        used = {name for code in _codes(function.__code__) for name in code.co_names}
        found = {name: function.__globals__[name] for name in used if name in function.__globals__}
        names |= used
        if any(isinstance(getattr(value, "__self__", None), _generators()) for value in found.values()):
            names.add("random")
        waiting += found.values()
    return frozenset(names)


def _generators() -> tuple[type, ...]:
    numpy = sys.modules.get("numpy")
    return (random.Random,) if numpy is None else (random.Random, numpy.random.RandomState)


def _function(value: Any) -> types.FunctionType | None:
    value = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
    value = inspect.unwrap(value) if callable(value) else value
    return value if isinstance(value, types.FunctionType) else None


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)
