"""What is inside of values that hold no other objects, but change: generators, buffers of bytes and text, iterators."""

from __future__ import annotations

import array
import io
import itertools
import operator
import pickle
from collections.abc import Iterator
from types import GeneratorType
from typing import Any

import torch

from funcnet.random.internals import GeneratorStates


def is_generator_of_numbers(value: object) -> bool:
    """Whether a value draws random numbers: a generator of torch, Python or NumPy."""
    return type(value) is torch.Generator or hasattr(value, "getstate") or _is_of_numpy_random(value)


def _is_of_numpy_random(value: object) -> bool:
    return type(value).__module__.startswith("numpy.random")


def copy_inner_state(value: Any) -> object:
    """A copy of the inner state of a value such as a generator; None for other values."""
    if type(value) is torch.Generator:
        return GeneratorStates([value])
    if hasattr(value, "getstate"):  # random.Random; the compiler cannot test for this class
        state: object = value.getstate()
        return state
    if isinstance(value, bytearray):
        return bytes(value)
    if isinstance(value, (memoryview, array.array)) or hasattr(value, "__array_interface__"):
        return value.tobytes()
    if isinstance(value, (io.StringIO, io.BytesIO)):
        return None if value.closed else (value.getvalue(), value.tell())
    return _copy_numpy_state(value) if _is_of_numpy_random(value) else None


def _copy_numpy_state(value: Any) -> object:
    """The state of a Generator, a RandomState or a bit generator of NumPy, which this package does not import."""
    if hasattr(value, "bit_generator"):
        value = value.bit_generator
    state = value.get_state(legacy=False) if hasattr(value, "get_state") else getattr(value, "state", None)
    return None if state is None else pickle.dumps(state)


def read_progress(value: Any) -> object:
    """What shows how far an iterator has come; None for other values, and for iterators that do not show it."""
    if isinstance(value, GeneratorType):
        frame = value.gi_frame
        return (-1,) if frame is None else (frame.f_lasti, *map(id, frame.f_locals.values()))
    if isinstance(value, itertools.count):
        return repr(value)
    if isinstance(value, (zip, map, filter, enumerate)):
        sources = [item for item in value.__reduce__()[1] if isinstance(item, Iterator)]
        progress = tuple(map(read_progress, sources))
        return progress if any(one is not None for one in progress) else None
    if isinstance(value, Iterator) and type(value).__module__ == "builtins":
        hint = operator.length_hint(value, -1)
        return None if hint < 0 else hint
    return None
