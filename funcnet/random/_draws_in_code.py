"""Finds out from code which generators it may draw from, without running it.

Two questions are asked of code before a net is called for the first time:

* **Can this body draw from torch's global generator at all?** (:func:`never_draws`) Watching the generator costs about
  a hundredth of a small call. Most bodies are a few calls of parts and of functions such as ``F.relu``; they need no
  watching, and saying so is safe only if nothing in them is unknown. So every name that a body uses is looked at, in
  its helpers too, and everything that is not known never to draw counts as drawing.
* **Which names do the methods of a foreign class use?** (:func:`names_in_methods`) A foreign forward is always watched,
  so here it is enough to notice that its code names a generator of Python or NumPy, or seeds torch's.
"""

from __future__ import annotations

import builtins
import inspect
import random
import sys
import types
from collections.abc import Iterator
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from funcnet._torch_functions import DRAWING_NAMES

_KNOWN_PACKAGES = ("torch", "funcnet", "math", "operator", "itertools", "functools")
_KNOWN_PYTHON_MODULES = ("torch.nn.functional", "torch.functional")
"""The modules of Python code in torch whose drawing functions are all listed."""
_KNOWN_BUILTINS = {
    getattr(builtins, name)
    for name in (
        *("abs", "all", "any", "bool", "dict", "enumerate", "float", "int", "isinstance", "len", "list", "map", "max"),
        *("min", "print", "range", "repr", "reversed", "round", "set", "slice", "sorted", "str", "sum", "tuple", "zip"),
        *("ValueError", "TypeError", "RuntimeError", "KeyError", "AssertionError", "NotImplementedError"),
    )
}
_VALUES = (int, float, complex, str, bytes, type(None), torch.dtype, torch.device, Tensor)


def never_draws(value: object, safe_classes: tuple[type, ...] = ()) -> bool:
    """Whether a function, or a value that code uses, is known never to draw from torch's global generator.

    Args:
        value: the function or value.
        safe_classes: classes of values that do not draw, or are asked about elsewhere.
    """
    return _never_draws(value, (*_VALUES, *safe_classes), set())


def _never_draws(value: object, safe_classes: tuple[type, ...], visited: set[int]) -> bool:
    if id(value) in visited or isinstance(value, safe_classes):
        return True
    visited.add(id(value))
    if isinstance(value, types.ModuleType):
        return value.__name__.split(".")[0] in _KNOWN_PACKAGES
    if isinstance(value, (tuple, list, frozenset)):
        return all(_never_draws(item, safe_classes, visited) for item in value)
    name, module = getattr(value, "__name__", ""), getattr(value, "__module__", None) or ""
    if isinstance(value, types.FunctionType) and not module.startswith(("torch.", "funcnet.")):
        return _code_never_draws(value, safe_classes, visited)
    if isinstance(value, type):
        return value in _KNOWN_BUILTINS or issubclass(value, Tensor)
    if isinstance(value, types.FunctionType) and module not in _KNOWN_PYTHON_MODULES:
        return False  # a function that it calls may draw
    is_known = module.split(".")[0] in ("torch", "funcnet", "math") or isinstance(value, types.BuiltinFunctionType)
    return value in _KNOWN_BUILTINS if module == "builtins" else is_known and name not in DRAWING_NAMES


def names_in_function(function: object) -> frozenset[str]:
    """The names that a function uses, and those of the functions that it calls, but not of torch's or funcnet's."""
    waiting: list[object] = [function]
    visited: set[int] = set()
    names: set[str] = set()
    while waiting:
        value = waiting.pop()
        if not isinstance(value, types.FunctionType) or id(value) in visited:
            continue
        visited.add(id(value))
        if (value.__module__ or "").startswith(("torch.", "funcnet.")):
            continue
        used = _names_in(value)
        names |= used
        waiting += [value.__globals__[name] for name in used if name in value.__globals__]
        waiting += [cell.cell_contents for cell in value.__closure__ or () if _holds_value(cell)]
    return frozenset(names)


def _code_never_draws(function: types.FunctionType, safe_classes: tuple[type, ...], visited: set[int]) -> bool:
    names = _names_in(function)
    if names & DRAWING_NAMES:
        return False
    namespace = {**vars(builtins), **function.__globals__}
    values = [namespace[name] for name in names if name in namespace]
    values += [getattr(home, name) for home in (torch, F) for name in names if hasattr(home, name)]
    values += [cell.cell_contents for cell in function.__closure__ or () if _holds_value(cell)]
    values += function.__defaults__ or ()
    return all(_never_draws(value, safe_classes, visited) for value in values)


@cache
def names_in_methods(cls: type) -> frozenset[str]:
    """The names that the methods of a class use, and those of functions in the same file that they name.

    ``__init__`` is left out, because no call of a module runs it. A name that stands for a method of a generator of
    Python or NumPy is given as ``"random"``.
    """
    bases = [base for base in cls.__mro__ if base.__module__ == cls.__module__]
    waiting = [value for base in bases for name, value in vars(base).items() if name != "__init__"]
    visited: set[int] = set()
    names: set[str] = set()
    while waiting:
        function = _underlying_function(waiting.pop())
        if function is None or id(function) in visited or function.__module__ != cls.__module__:
            continue
        visited.add(id(function))
        used = _names_in(function)
        values = [function.__globals__[name] for name in used if name in function.__globals__]
        names |= used
        if any(isinstance(getattr(value, "__self__", None), _generator_classes()) for value in values):
            names.add("random")
        waiting += values
    return frozenset(names)


def _generator_classes() -> tuple[type, ...]:
    numpy = sys.modules.get("numpy")
    return (random.Random,) if numpy is None else (random.Random, numpy.random.RandomState)


def _underlying_function(value: object) -> types.FunctionType | None:
    """The Python function of a property, a method or a decorated function; None for any other value."""
    value = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
    value = inspect.unwrap(value) if callable(value) else value
    return value if isinstance(value, types.FunctionType) else None


def _names_in(function: types.FunctionType) -> set[str]:
    """The names of globals and attributes in the code of a function, and in the functions defined inside of it."""
    return {name for code in _iter_code(function.__code__) for name in code.co_names}


def _iter_code(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _iter_code(constant)


def _holds_value(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # the name is not assigned yet
        return False
