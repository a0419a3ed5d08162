"""``"package.module:callable(args)"``: naming a module to compare, without running any text as code."""

from __future__ import annotations

import ast
import importlib
import inspect
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from funcnet.compare._errors import CompareError, brief

SYNTAX = 'A target is "package.module:callable(args)" with Python literals as arguments, as "torch.nn:Linear(3, 4)"'


@dataclass(frozen=True)
class Target:
    """What a text names: a module to import, a dotted name in it, and the arguments to call that with.

    ``args`` is None where the text has no parentheses.
    """

    text: str
    module: str
    name: str
    args: tuple[Any, ...] | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)


def parse_target(text: str) -> Target:
    """Read a target.

    Raises:
        CompareError: says what is not understood.

    >>> target = parse_target("torch.nn:Linear(3, 4, bias=False)")
    >>> target.module, target.name, target.args, target.kwargs
    ('torch.nn', 'Linear', (3, 4), {'bias': False})
    """
    module, colon, rest = text.partition(":")
    module, rest = module.strip(), rest.strip()
    if not colon or "(" in module:
        dotted, bracket, arguments = text.strip().partition("(")
        package, _, name = dotted.rpartition(".")
        meant = f' Did you mean "{package}:{name}{bracket}{arguments}"?' if package and "/" not in package else ""
        raise CompareError(f"{text!r} has no colon between the module to import and the name in it.{meant} {SYNTAX}.")
    if module.endswith(".py") or not all(key.isidentifier() for key in module.split(".")):
        path = module.removesuffix(".py").strip("./").replace("/", ".")
        meant = f" Did you mean {path!r}?" if path and all(key.isidentifier() for key in path.split(".")) else ""
        raise CompareError(
            f"{module!r} in {text!r} is not the name of a module, as it stands behind import.{meant} {SYNTAX}."
        )
    if not rest:
        raise CompareError(f"{text!r} names nothing behind the colon. {SYNTAX}.")
    try:
        node = ast.parse(rest, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        why = error.msg if isinstance(error, SyntaxError) else brief(error, 120)
        raise CompareError(f"{rest!r} in {text!r} is not a name with arguments: {why}. {SYNTAX}.") from None
    if not isinstance(node, ast.Call):
        return Target(text, module, _dotted(node, text))
    args = tuple(_literal(argument, text) for argument in node.args)
    kwargs = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise CompareError(f"** in {text!r} is not supported: write the keyword arguments out. {SYNTAX}.")
        kwargs[keyword.arg] = _literal(keyword.value, text)
    return Target(text, module, _dotted(node.func, text), args, kwargs)


def _dotted(node: ast.expr, text: str) -> str:
    names = []
    inner = node
    while isinstance(inner, ast.Attribute):
        names.append(inner.attr)
        inner = inner.value
    if not isinstance(inner, ast.Name):
        raise CompareError(f"{ast.unparse(node)!r} in {text!r} is not a name. {SYNTAX}.")
    return ".".join([inner.id, *reversed(names)])


def _literal(node: ast.expr, text: str) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError, MemoryError):
        raise CompareError(
            f"{ast.unparse(node)!r} in {text!r} is not a Python literal, and nothing else is evaluated. Write a "
            f"function without arguments that builds the module, and name that."
        ) from None


class Built(NamedTuple):
    """A module, the expression that gives it once its name is imported, and the class or factory called for it."""

    module: nn.Module
    expression: str
    factory: Any


def build(target: Target) -> Built:
    """The module a target names.

    A class or a factory is called, with or without parentheses; a module that is there already is taken as it is.

    Raises:
        CompareError: if any of that fails, or the result is no ``nn.Module``.
    """
    found = find(target)
    expression = target.text.partition(":")[2].strip()
    if isinstance(found, nn.Module):
        if target.args is not None:
            raise CompareError(
                f"{target.name!r} in {target.module} is a module that is built already ({type(found).__name__}), not a "
                f'class or a factory. Leave out the parentheses: "{target.module}:{target.name}".'
            )
        return Built(found, expression, None)
    if not callable(found):
        raise CompareError(
            f"{target.module}:{target.name} is of type {type(found).__name__}, and neither an nn.Module nor something "
            f"that builds one. Name a module, its class, or a function that returns it."
        )
    built = called(found, target)
    if not isinstance(built, nn.Module):
        raise CompareError(
            f"{target.text!r} gives something of type {type(built).__name__}, not an nn.Module. Name a module, its "
            f"class, or a function that returns it."
        )
    return Built(built, expression if target.args is not None else f"{expression}()", found)


def called(found: Any, target: Target) -> Any:
    """What a factory gives for the arguments of a target.

    Raises:
        CompareError: if it raises.
    """
    try:
        return found(*(target.args or ()), **target.kwargs)
    except (Exception, SystemExit) as error:
        raise CompareError(
            f"building {target.text!r} raised {brief(error)}{place(error)}. Its arguments are {signature(found)}."
        ) from error


def find(target: Target) -> Any:
    """What a target names, not called.

    Raises:
        CompareError: if there is none, or importing it fails.
    """
    try:
        found: Any = importlib.import_module(target.module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{target.module}.".startswith(f"{error.name}."):
            raise CompareError(f"importing {target.module!r} raised {brief(error)}{place(error)}.") from error
        raise CompareError(
            f"there is no module {error.name!r} to import for {target.text!r}. Run funcnet in the folder that holds "
            f"it, or install the package it belongs to."
        ) from None
    except (Exception, SystemExit) as error:
        raise CompareError(f"importing {target.module!r} raised {brief(error)}{place(error)}.") from error
    walked = target.module
    for key in target.name.split("."):
        try:
            found = getattr(found, key)
        except AttributeError:
            raise CompareError(f"{walked} has no {key!r}. {_nearest(found, key)}") from None
        except Exception as error:  # modules that import lazily
            raise CompareError(f"reading {key!r} from {walked} raised {brief(error)}.") from error
        walked = f"{walked}:{key}" if walked == target.module else f"{walked}.{key}"
    return found


def _nearest(found: Any, name: str) -> str:
    public = [other for other in dir(found) if not other.startswith("_")]
    near = get_close_matches(name, public, 3, 0.5)
    if near:
        return f"Did you mean {' or '.join(map(repr, near))}?"
    some = [other for other in public if callable(getattr(found, other, None))][:12]
    return f"What can be called there: {', '.join(some)}." if some else "There is nothing that can be called."


def signature(function: Any) -> str:
    """The arguments of something, in brackets, without their types."""
    try:
        full = inspect.signature(function)
    except (TypeError, ValueError):
        return "(...)"
    plain = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in full.parameters.values()]
    return brief(str(inspect.Signature(plain)), 300)


def place(error: BaseException) -> str:
    """Where an error came from, if that is in code of the user's."""
    ours = (str(Path(nn.__file__).parents[1]), str(Path(__file__).parents[1]), "<")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(ours)]
    return f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
