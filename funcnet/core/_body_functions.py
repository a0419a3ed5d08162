"""The functions that a call of a net may run, as far as funcnet did not write them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

from funcnet._reachable import is_assigned
from funcnet.core._function import Function
from funcnet.core._kinds import ForeignNet
from funcnet.core._net import Net

# pytest writes calls of its own into code that asserts, and its other threads change what they hold.
_KNOWN_PACKAGES = frozenset((*sys.stdlib_module_names, "torch", "funcnet", "numpy", "_pytest"))


def iter_functions(nets: Iterable[Net], across_files: bool = False) -> Iterator[tuple[str, FunctionType]]:
    """The functions of users that the bodies of some nets may run, each under every name by which code reaches it.

    The name is "" where code needs none: for the body itself, and for what it holds in fields, closures and defaults.

    These are the methods of their classes, or of the classes of a foreign module, functions among their constants, and
    those functions of the same file that any of these names; none of Python, torch, NumPy or this package. What those
    write to is known: ``F.relu``, whose code names ``torch.relu_``, writes to nothing unless it is told to.

    Args:
        nets: the nets, parts not included.
        across_files: whether functions of other files, in closures and in defaults count too.
    """
    waiting: list[tuple[str, Any]] = []
    classes: set[type] = set()
    for net in nets:
        classes |= net._facts.foreign_classes
        if not net._facts.is_trusted and not isinstance(net, ForeignNet):
            classes.add(type(net))
            held = [net.function if isinstance(net, Function) else net.forward, *net._named_constants.values()]
            waiting += [("", value) for value in held]
    waiting += [pair for cls in classes for pair in _list_methods(cls)]
    visited: set[tuple[str, int]] = set()
    while waiting:
        name, value = waiting.pop()
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if not isinstance(function, FunctionType) or is_known(function.__module__) or (name, id(function)) in visited:
            continue
        visited.add((name, id(function)))
        yield name, function
        waiting.append((name, getattr(function, "__wrapped__", None)))
        names = {name for code in iter_code(function) for name in code.co_names}
        named = [(name, function.__globals__[name]) for name in names if name in function.__globals__]
        if across_files:
            modules = [value for _, value in named if isinstance(value, ModuleType)]
            named += [(name, getattr(module, name, None)) for module in modules for name in names]
            held = [cell.cell_contents for cell in function.__closure__ or () if is_assigned(cell)]
            waiting += [*named, *(("", value) for value in (*held, *get_defaults(function).values()))]
        else:
            waiting += [pair for pair in named if getattr(pair[1], "__module__", None) == function.__module__]


def is_known(module_name: str | None) -> bool:
    """Whether what a module defines is of Python, torch, NumPy, pytest or this package."""
    return (module_name or "").partition(".")[0] in _KNOWN_PACKAGES


def _list_methods(cls: type) -> list[tuple[str, Any]]:
    """What stands in the body of a class and of the classes that it extends, except those of known packages."""
    bases = [base for base in cls.__mro__ if not is_known(base.__module__)]
    return [(name, value) for base in bases for name, value in vars(base).items() if name != "__init__"]


def get_defaults(function: FunctionType) -> dict[str, Any]:
    """The defaults of the arguments of a function by name."""
    count = function.__code__.co_argcount
    defaults = function.__defaults__ or ()
    by_position = dict(zip(function.__code__.co_varnames[count - len(defaults) : count], defaults, strict=True))
    return by_position | (function.__kwdefaults__ or {})


def iter_code(function: FunctionType) -> Iterator[CodeType]:
    """The code of a function and of the functions that are defined in it."""
    waiting = [function.__code__]
    while waiting:
        code = waiting.pop()
        yield code
        waiting += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
