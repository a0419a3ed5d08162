"""The words in the code that calls of a foreign module may run, without running it.

Some protections of a call cost time, and few modules need them. A module needs one only if its code names a certain
function or attribute. To find too many names costs time, and to find too few a protection, so every function is read
that the code of a class may call: its methods, what they name in the globals of their files, the methods of those
names in its bases, hooks, and functions that it holds or has closed over.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

from funcnet._reachable import collect_reachable, is_assigned


def words_in_code(module: nn.Module) -> frozenset[str]:
    """The names and strings in the code that calls of a module may run; that of torch and of Python is not read.

    A class of torch has its own name even where the code imports it under another. The name of an argument, in a call
    that passes it by name, has ``=`` behind it.
    """
    words: set[str] = set()
    for function, names in iter_code_of_calls(module):
        words |= names
        values = (function.__globals__.get(name) for name in names)
        words.update(value.__name__ for value in values if isinstance(value, type))
    return frozenset(words)


def iter_code_of_calls(module: nn.Module) -> Iterator[tuple[types.FunctionType, set[str]]]:
    """The functions that calls of a module may run, each with the names and strings in its code."""
    functions = [obj for obj in collect_reachable(module).values() if isinstance(obj, types.FunctionType)]
    classes = {type(submodule) for submodule in module.modules()}
    members: dict[str, list[types.FunctionType]] = {}
    for cls in classes:
        for base in cls.__mro__:
            own = [(name, function) for name, member in vars(base).items() for function in _iter_functions(member)]
            if base.__module__ == cls.__module__:
                functions += [function for name, function in own if name != "__init__"]
            for name, function in own:
                members.setdefault(name, []).append(function)
    visited: set[types.CodeType] = set()
    waiting = list(functions)
    while waiting:
        function = waiting.pop()
        if function.__code__ in visited or not is_foreign_code(function.__module__):
            continue
        visited.add(function.__code__)
        names = set(_iter_words(function.__code__))
        yield function, names
        cells = [cell.cell_contents for cell in function.__closure__ or () if is_assigned(cell)]
        waiting += [item for value in cells for item in _iter_functions(value)]
        for name in names:
            value = function.__globals__.get(name)
            waiting += [*_iter_functions(value), *(members.get(name, ()) if name != "__init__" else ())]
            if isinstance(value, types.ModuleType) and is_foreign_code(value.__name__):
                waiting += [item for attribute in names for item in _iter_functions(vars(value).get(attribute))]


def is_foreign_code(module_name: str | None) -> bool:
    """Whether a Python module belongs neither to torch, nor to funcnet, nor to the standard library."""
    package = (module_name or "").partition(".")[0]
    return package not in ("torch", "funcnet") and package not in sys.stdlib_module_names


def _iter_functions(member: Any) -> Iterator[types.FunctionType]:
    """The Python functions of a member of a class or of a file: of a property, a method or a decorated function."""
    for value in (member.fget, member.fset) if isinstance(member, property) else (member,):
        value = getattr(value, "__func__", value)
        if isinstance(value, types.FunctionType):
            yield value
            wrapped = getattr(value, "__wrapped__", None)
            if isinstance(wrapped, types.FunctionType):
                yield wrapped


def _iter_words(code: types.CodeType) -> Iterable[str]:
    """The names and the strings in code, also in the functions that it makes."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _iter_words(constant)
        elif isinstance(constant, str):
            yield constant
        elif isinstance(constant, tuple):
            yield from (f"{name}=" for name in constant if isinstance(name, str))
