"""Calls by public names, without arguments that say what is so anyway."""

from __future__ import annotations

import ast
import inspect
from functools import cache
from types import FunctionType

import torch.nn.functional as F

from funcnet._torch_functions import LATER_ARGUMENTS, PUBLIC_NAMES, VARIADIC_SIZES
from funcnet.program._expressions import dotted_name, name_of_function


def shorten_calls(expression: ast.expr, assume_cpu: bool) -> ast.expr:
    """An expression whose calls use public names and leave out arguments that equal the defaults.

    Args:
        expression: it is changed in place.
        assume_cpu: leave out the device of the CPU, too, which is where tensors are made unless told otherwise.
    """
    result: ast.expr = _CallShortener(assume_cpu).visit(expression)
    return result


class _CallShortener(ast.NodeTransformer):
    def __init__(self, assume_cpu: bool) -> None:
        self.assume_cpu = assume_cpu

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        name = name_of_function(node)
        if name == "torch.Size" and len(node.args) == 1 and isinstance(node.args[0], (ast.List, ast.Tuple)):
            return ast.Tuple(node.args[0].elts)
        if isinstance(node.func, ast.Attribute) and node.func.attr in VARIADIC_SIZES and len(node.args) == 1:
            sizes = node.args[0]
            node.args = sizes.elts if isinstance(sizes, (ast.Tuple, ast.List)) and sizes.elts else node.args
        if self.assume_cpu:
            _drop_cpu(node, name)
        if name in PUBLIC_NAMES:
            name = PUBLIC_NAMES[name]
            node.func = dotted_name(name)
        if name in ("F.linear", "torch.amp.autocast"):
            while node.args and isinstance(node.args[-1], ast.Constant) and node.args[-1].value is None:
                node.args.pop()
        _drop_defaults(node, name)
        if name in LATER_ARGUMENTS:
            _name_later_arguments(node, *LATER_ARGUMENTS[name])
        if name == "torch.amp.autocast" and len(node.args) == 3:
            node.args[1:], node.keywords = [], [ast.keyword("enabled", node.args[2])]
        return node


def _drop_cpu(node: ast.Call, name: str) -> None:
    method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
    if method == "to" and len(node.args) + len(node.keywords) > 1:
        node.args = [arg for arg in node.args if not _is_cpu(arg)]
        node.keywords = [key for key in node.keywords if not _is_default_device(key)]
        if not node.args and [key.arg for key in node.keywords] == ["dtype"]:
            node.args, node.keywords = [node.keywords[0].value], []
    if name.startswith("torch.") or method in ("new_ones", "new_zeros", "new_tensor"):
        node.keywords = [key for key in node.keywords if not _is_default_device(key)]


def _is_default_device(key: ast.keyword) -> bool:
    return key.arg == "device" and _is_cpu(key.value)


def _is_cpu(node: ast.expr) -> bool:
    if name_of_function(node) == "torch.device" and isinstance(node, ast.Call):
        node = node.args[0]
    return isinstance(node, ast.Constant) and node.value == "cpu"


# --- defaults ---


def _drop_defaults(node: ast.Call, name: str) -> None:
    """Leave out what equals the defaults of a Python function of torch.nn.functional."""
    defaults = _defaults_of(name) if name.startswith("F.") else {}
    if not defaults or any(isinstance(arg, ast.Starred) for arg in node.args):
        return
    node.keywords = [
        key for key in node.keywords if not (key.arg in defaults and _equals(key.value, defaults[key.arg]))
    ]
    names = list(defaults)
    while node.args and not node.keywords and len(node.args) <= len(names):
        if not _equals(node.args[-1], defaults[names[len(node.args) - 1]]):
            break
        node.args.pop()


@cache
def _defaults_of(name: str) -> dict[str, object]:
    """The defaults of a function by its name, without a value for arguments that have none."""
    function = getattr(F, name.removeprefix("F."), None)
    if not isinstance(function, FunctionType) or function.__module__ != "torch.nn.functional":
        return {}
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is not parameter.POSITIONAL_OR_KEYWORD for parameter in parameters):
        return {}
    return {parameter.name: parameter.default for parameter in parameters}


def _equals(node: ast.expr, default: object) -> bool:
    value = constant_value(node)
    if value is None or default is None:
        return value is default
    return type(value) is type(default) and isinstance(value, (int, float, str)) and value == default


def _name_later_arguments(node: ast.Call, count: int, names: tuple[str, ...], defaults: tuple[object, ...]) -> None:
    """Give the arguments behind the first ones by name, without those that equal their defaults."""
    if len(node.args) > count + len(names) or any(isinstance(arg, ast.Starred) for arg in node.args):
        return
    later = [ast.keyword(name, arg) for name, arg in zip(names, node.args[count:], strict=False)]
    keywords: list[ast.keyword] = []
    for key in [*later, *node.keywords]:
        value = without_repetition(constant_value(key.value))
        default = defaults[names.index(key.arg)] if key.arg in names else UNKNOWN
        if type(value) is type(default) and value is not UNKNOWN and value == default:
            continue
        if isinstance(value, int) and not isinstance(value, bool) and isinstance(key.value, ast.Tuple):
            key = ast.keyword(key.arg, ast.Constant(value))
        keywords.append(key)
    del node.args[count:]
    if keywords and keywords[0].arg == "bias":
        node.args.append(keywords.pop(0).value)
    node.keywords = keywords


UNKNOWN = object()


def constant_value(node: ast.expr) -> object:
    """The value of an expression of constants; UNKNOWN for any other expression."""
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        return UNKNOWN


def without_repetition(value: object) -> object:
    """A tuple of one number as that number, as most authors write it; any other value as it is.

    >>> without_repetition((2, 2)), without_repetition((1, 2))
    (2, (1, 2))
    """
    if isinstance(value, tuple) and value and all(type(item) is int and item == value[0] for item in value):
        return value[0]
    return value
