"""Calls as text."""

from __future__ import annotations

import inspect
import keyword
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import FunctionType
from typing import Any

Expr = Callable[[Any], str]


def operand(expr: Expr, value: Any) -> str:
    """A value beside an operator."""
    text = expr(value)
    return f"({text})" if text.startswith("-") else text


def index(expr: Expr, value: Any) -> str:
    """What stands between the brackets of ``x[...]``."""
    if isinstance(value, tuple) and value:
        return ", ".join(index(expr, item) for item in value) + ("," if len(value) == 1 else "")
    if isinstance(value, slice):
        start, stop, step = ("" if part is None else expr(part) for part in (value.start, value.stop, value.step))
        return f"{start}:{stop}" + (f":{step}" if step else "")
    return expr(value)


def arguments(expr: Expr, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """What stands between the parentheses of a call."""
    named = [f"{key}={expr(value)}" for key, value in kwargs.items() if not keyword.iskeyword(key)]
    others = [f'"{key}": {expr(value)}' for key, value in kwargs.items() if keyword.iskeyword(key)]
    return ", ".join([*map(expr, args), *named, *([f"**{{{', '.join(others)}}}"] if others else [])])


def without_defaults(
    function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """The arguments of a function of torch.nn.functional that say more than its defaults do."""
    if not isinstance(function, FunctionType) or function.__module__ != "torch.nn.functional":
        return args, kwargs
    defaults = _defaults(function)
    names = list(defaults)
    kwargs = {
        key: value for key, value in kwargs.items() if not _same(value, defaults.get(key, inspect.Parameter.empty))
    }
    args = list(args)
    while args and len(args) <= len(names) and not kwargs and _same(args[-1], defaults[names[len(args) - 1]]):
        args.pop()
    return args, kwargs


@cache
def _defaults(function: Any) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    fixed = all(parameter.kind is parameter.POSITIONAL_OR_KEYWORD for parameter in parameters)
    return {parameter.name: parameter.default for parameter in parameters} if fixed else {}


def _same(value: Any, default: Any) -> bool:
    return value is default or (
        type(value) is type(default) and isinstance(value, (int, float, str)) and value == default
    )
