"""Targets such as ``"package.module:callable(args)"``, which name a module to compare; no text is run as code."""

from __future__ import annotations

import ast
import importlib
import inspect
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from funcnet.compare._errors import CompareError, summarize_error

SYNTAX = 'A target is "package.module:callable(args)" with Python literals as arguments, as "torch.nn:Linear(3, 4)"'


@dataclass(frozen=True)
class Target:
    """A parsed target: a Python module to import, a dotted name in it, and the arguments for calling it.

    ``args`` is None if the text has no parentheses.
    """

    text: str
    module: str
    name: str
    args: tuple[Any, ...] | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)


def parse_target(text: str) -> Target:
    """Parse a target.

    Raises:
        CompareError: if the text is not a target; the message says which part is wrong.

    >>> target = parse_target("torch.nn:Linear(3, 4, bias=False)")
    >>> target.module, target.name, target.args, target.kwargs
    ('torch.nn', 'Linear', (3, 4), {'bias': False})
    """
    module, colon, expression = text.partition(":")
    module, expression = module.strip(), expression.strip()
    if not colon or "(" in module:
        raise _missing_colon_error(text)
    if module.endswith(".py") or not _is_dotted_name(module):
        path = module.removesuffix(".py").strip("./").replace("/", ".")
        suggestion = f" Did you mean {path!r}?" if _is_dotted_name(path) else ""
        raise CompareError(
            f"{module!r} in {text!r} is not the name of a module, as it stands behind import.{suggestion} {SYNTAX}."
        )
    if not expression:
        raise CompareError(f"{text!r} names nothing behind the colon. {SYNTAX}.")
    try:
        node = ast.parse(expression, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else summarize_error(error, 120)
        raise CompareError(f"{expression!r} in {text!r} is not a name with arguments: {reason}. {SYNTAX}.") from None
    if not isinstance(node, ast.Call):
        return Target(text, module, _dotted_name(node, text))
    args = tuple(_evaluate_literal(argument, text) for argument in node.args)
    kwargs = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise CompareError(f"** in {text!r} is not supported: write the keyword arguments out. {SYNTAX}.")
        kwargs[keyword.arg] = _evaluate_literal(keyword.value, text)
    return Target(text, module, _dotted_name(node.func, text), args, kwargs)


def _missing_colon_error(text: str) -> CompareError:
    dotted, bracket, arguments = text.strip().partition("(")
    package, _, name = dotted.rpartition(".")
    suggestion = f' Did you mean "{package}:{name}{bracket}{arguments}"?' if package and "/" not in package else ""
    return CompareError(f"{text!r} has no colon between the module to import and the name in it.{suggestion} {SYNTAX}.")


def _is_dotted_name(text: str) -> bool:
    return all(key.isidentifier() for key in text.split("."))


def _dotted_name(node: ast.expr, text: str) -> str:
    names = []
    inner = node
    while isinstance(inner, ast.Attribute):
        names.append(inner.attr)
        inner = inner.value
    if not isinstance(inner, ast.Name):
        raise CompareError(f"{ast.unparse(node)!r} in {text!r} is not a name. {SYNTAX}.")
    return ".".join([inner.id, *reversed(names)])


def _evaluate_literal(node: ast.expr, text: str) -> object:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError, MemoryError):
        raise CompareError(
            f"{ast.unparse(node)!r} in {text!r} is not a Python literal, and nothing else is evaluated. Write a "
            f"function without arguments that builds the module, and name that."
        ) from None


class BuiltModule(NamedTuple):
    """A module, the expression that builds it once its name is imported, and the class or factory that was called."""

    module: nn.Module
    expression: str
    factory: Callable[..., object] | None


def build_target(target: Target) -> BuiltModule:
    """Build the module that a target names.

    A class or a factory is called, with or without parentheses; a module that exists already is taken as it is.

    Raises:
        CompareError: if any of that fails, or if the result is not an ``nn.Module``.
    """
    value = import_target(target)
    expression = target.text.partition(":")[2].strip()
    if isinstance(value, nn.Module):
        if target.args is not None:
            raise CompareError(
                f"{target.name!r} in {target.module} is a module that is built already ({type(value).__name__}), not a "
                f'class or a factory. Leave out the parentheses: "{target.module}:{target.name}".'
            )
        return BuiltModule(value, expression, None)
    if not callable(value):
        raise CompareError(
            f"{target.module}:{target.name} is of type {type(value).__name__}, and neither an nn.Module nor something "
            f"that builds one. Name a module, its class, or a function that returns it."
        )
    module = call_target(value, target)
    if not isinstance(module, nn.Module):
        raise CompareError(
            f"{target.text!r} gives something of type {type(module).__name__}, not an nn.Module. Name a module, its "
            f"class, or a function that returns it."
        )
    return BuiltModule(module, expression if target.args is not None else f"{expression}()", value)


def call_target(factory: Any, target: Target) -> Any:
    """Call a factory with the arguments of a target.

    Raises:
        CompareError: if the call raises.
    """
    try:
        return factory(*(target.args or ()), **target.kwargs)
    except (Exception, SystemExit) as error:
        raise CompareError(
            f"building {target.text!r} raised {summarize_error(error)}{format_location(error)}. "
            f"Its arguments are {format_signature(factory)}."
        ) from error


def import_target(target: Target) -> Any:
    """Import what a target names, without calling it.

    Raises:
        CompareError: if nothing has that name, or if importing it fails.
    """
    try:
        value: Any = importlib.import_module(target.module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{target.module}.".startswith(f"{error.name}."):
            raise _import_error(target, error) from error
        raise CompareError(
            f"there is no module {error.name!r} to import for {target.text!r}. Run funcnet in the folder that holds "
            f"it, or install the package it belongs to."
        ) from None
    except (Exception, SystemExit) as error:
        raise _import_error(target, error) from error
    prefix = target.module
    for key in target.name.split("."):
        try:
            value = getattr(value, key)
        except AttributeError:
            raise CompareError(f"{prefix} has no {key!r}. {_suggest_names(value, key)}") from None
        except Exception as error:  # packages that import their contents lazily may raise anything here
            raise CompareError(f"reading {key!r} from {prefix} raised {summarize_error(error)}.") from error
        prefix = f"{prefix}:{key}" if prefix == target.module else f"{prefix}.{key}"
    return value


def _import_error(target: Target, error: BaseException) -> CompareError:
    return CompareError(f"importing {target.module!r} raised {summarize_error(error)}{format_location(error)}.")


def _suggest_names(owner: object, name: str) -> str:
    public = [attribute for attribute in dir(owner) if not attribute.startswith("_")]
    matches = get_close_matches(name, public, 3, 0.5)
    if matches:
        return f"Did you mean {' or '.join(map(repr, matches))}?"
    callables = [attribute for attribute in public if callable(getattr(owner, attribute, None))][:12]
    if not callables:
        return "There is nothing that can be called."
    return f"What can be called there: {', '.join(callables)}."


def format_signature(function: Callable[..., object]) -> str:
    """The arguments of a function or class in brackets, without their types."""
    try:
        full = inspect.signature(function)
    except (TypeError, ValueError):
        return "(...)"
    untyped = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in full.parameters.values()]
    return summarize_error(str(inspect.Signature(untyped)), 300)


def format_location(error: BaseException) -> str:
    """The file and line that raised an error, if they belong to the user: neither to torch nor to funcnet."""
    libraries = (str(Path(nn.__file__).parents[1]), str(Path(__file__).parents[1]), "<")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(libraries)]
    return f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
