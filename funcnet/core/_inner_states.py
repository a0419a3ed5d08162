"""What is inside of values that hold no other objects, but change: generators, buffers of bytes and text, iterators.

A generator that a body returns has code that is yet to run, so it is no result.
"""

from __future__ import annotations

import array
import io
import itertools
import operator
import pickle
from collections.abc import Iterator
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any

import torch

from funcnet._errors import PurityError
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


# --- results that have yet to run ---

_UNFINISHED_CLASSES = (GeneratorType, CoroutineType, AsyncGeneratorType, map, filter)


def find_unfinished(output: Any) -> str | None:
    """The name of the class of an output, or of an item of one, that runs code when somebody reads it."""
    items = output if isinstance(output, (tuple, list)) else (output,)
    return next((type(item).__name__ for item in items if isinstance(item, _UNFINISHED_CLASSES)), None)


def refuse_unfinished(title: str, output: Any) -> None:
    """Refuse an output, or an item of one, that runs code when somebody reads it.

    By then the call is over: draws would come from the global generator, new buffers would be lost, and writes would go
    to whatever stands there then.

    Args:
        title: the net or the module whose output it is.
        output: the output.

    Raises:
        PurityError: if there is one.
    """
    unfinished = None if torch.compiler.is_compiling() else find_unfinished(output)
    if unfinished is not None:
        raise PurityError(
            f"{title} returned a {unfinished}, whose code runs when somebody reads it. Then the call is over, so "
            f"its draws, its new buffers and its checks would be lost. Return a list: list(...) around it, or in place "
            f"of yield append to a list and return that."
        )
