"""The functions that a call of a net may run, as far as funcnet did not write them."""

from __future__ import annotations

from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any

from funcnet.core._function import Function
from funcnet.core._kinds import ForeignNet
from funcnet.core._net import Net


def iter_functions(net: Net) -> Iterator[FunctionType]:
    """The functions that the body of a net may run, parts not included; none where funcnet wrote all of its code.

    These are the methods of its class, or of the classes of a foreign module, functions among its constants, and those
    functions of the same file that any of these names.
    """
    if isinstance(net, ForeignNet):
        waiting = [value for cls in net.code_classes() for value in _list_methods(cls)]
    elif net._facts.is_trusted:
        return
    elif isinstance(net, Function):
        waiting = [net.function]
    else:
        waiting = [*_list_methods(type(net)), net.forward, *net._named_constants.values()]
    visited: set[int] = set()
    while waiting:
        value = waiting.pop()
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if not isinstance(function, FunctionType) or id(function) in visited:
            continue
        visited.add(id(function))
        yield function
        names = {name for code in iter_code(function) for name in code.co_names}
        named = [function.__globals__[name] for name in names if name in function.__globals__]
        waiting += [value for value in named if getattr(value, "__module__", None) == function.__module__]


def _list_methods(cls: type) -> list[Any]:
    """What stands in the body of a class and of the classes that it extends, except those of torch and funcnet."""
    bases = [base for base in cls.__mro__ if not f"{base.__module__}.".startswith(("torch.", "funcnet.", "builtins."))]
    return [value for base in bases for name, value in vars(base).items() if name != "__init__"]


def iter_code(function: FunctionType) -> Iterator[CodeType]:
    """The code of a function and of the functions that are defined in it."""
    waiting = [function.__code__]
    while waiting:
        code = waiting.pop()
        yield code
        waiting += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
