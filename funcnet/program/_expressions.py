"""Small expressions, and calls without arguments that say what is so anyway."""

from __future__ import annotations

import ast
import inspect
import keyword
import math
import operator
from collections.abc import Mapping, Sequence
from functools import cache
from types import FunctionType

import torch.nn.functional as F

from funcnet._torch_functions import LATER_ARGUMENTS, PUBLIC_NAMES, VARIADIC_SIZES

_BINARY = """add:Add sub:Sub mul:Mult truediv:Div floordiv:FloorDiv mod:Mod pow:Pow matmul:MatMult
and_:BitAnd or_:BitOr xor:BitXor lshift:LShift rshift:RShift"""
_COMPARE = "lt:Lt le:LtE eq:Eq ne:NotEq gt:Gt ge:GtE"
_UNARY = "neg:USub pos:UAdd invert:Invert not_:Not"


def _operators(table: str, in_place: bool = False) -> dict[object, type]:
    """Function of Python's ``operator`` module -> the kind of operator that it stands for in an expression."""
    pairs = (pair.split(":") for pair in table.split())
    return {getattr(operator, f"i{name}".rstrip("_") if in_place else name): getattr(ast, kind) for name, kind in pairs}


IN_PLACE = _operators(_BINARY, in_place=True)
INFIX = _operators(_BINARY) | _operators(_COMPARE)
PREFIX = _operators(_UNARY)


def operator_expression(function: object, operands: Sequence[ast.expr]) -> ast.expr:
    """The expression with the operator that a function of Python's ``operator`` module stands for."""
    if function in PREFIX:
        return ast.UnaryOp(PREFIX[function](), operands[0])
    symbol = (INFIX.get(function) or IN_PLACE[function])()
    if isinstance(symbol, ast.cmpop):
        return ast.Compare(operands[0], [symbol], [operands[1]])
    return ast.BinOp(operands[0], symbol, operands[1])


def dotted_name(name: str) -> ast.expr:
    """The expression for a name with dots, ``F.linear``."""
    first, *attributes = name.split(".")
    expression: ast.expr = ast.Name(first)
    for attribute in attributes:
        expression = ast.Attribute(expression, attribute)
    return expression


def name_of_function(expression: ast.expr) -> str:
    """The dotted name of the function that an expression calls; empty for methods of values and for other expressions.

    >>> name_of_function(ast.parse("F.linear(x, w)", mode="eval").body)
    'F.linear'
    """
    node = expression.func if isinstance(expression, ast.Call) else None
    attributes: list[str] = []
    while isinstance(node, ast.Attribute):
        attributes.append(node.attr)
        node = node.value
    is_value = isinstance(node, ast.Name) and (node.id.startswith("%") or ":" in node.id)
    return ".".join([node.id, *reversed(attributes)]) if isinstance(node, ast.Name) and not is_value else ""


def call_expression(
    function: str | ast.expr, args: Sequence[ast.expr], keywords: Mapping[str, ast.expr] | None = None
) -> ast.Call:
    """The call of a function; arguments whose names are words of Python's language are given as ``**{"from": x}``."""
    keywords = keywords or {}
    named = [ast.keyword(name, value) for name, value in keywords.items() if not keyword.iskeyword(name)]
    reserved = [name for name in keywords if keyword.iskeyword(name)]
    if reserved:
        pairs = ast.Dict([ast.Constant(name) for name in reserved], [keywords[name] for name in reserved])
        named.append(ast.keyword(None, pairs))
    return ast.Call(dotted_name(function) if isinstance(function, str) else function, list(args), named)


def number(value: float) -> ast.expr:
    """An expression for a number, infinite and undefined ones included."""
    if isinstance(value, float) and not math.isfinite(value):
        return call_expression("float", [ast.Constant(str(value))])
    return ast.Constant(value)


def writes_in_place(call: ast.AST) -> bool:
    """Whether a call, or one within an expression, is of a method like ``add_`` or says ``inplace=`` or ``out=``."""
    if not isinstance(call, ast.Call):
        return any(map(writes_in_place, ast.iter_child_nodes(call)))
    method = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    is_in_place = method.endswith("_") and not method.endswith("__")
    named = any(key.arg in ("inplace", "out") for key in call.keywords)
    return is_in_place or named or any(map(writes_in_place, ast.iter_child_nodes(call)))


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


def shorten_calls(expression: ast.expr, assume_cpu: bool) -> ast.expr:
    """An expression whose calls use public names and leave out arguments that equal the defaults; it is changed itself.

    With ``assume_cpu``, the device of the CPU is left out as well: tensors are made there unless told otherwise.
    """
    result: ast.expr = _CallShortener(assume_cpu).visit(expression)
    return result


class _CallShortener(ast.NodeTransformer):
    def __init__(self, assume_cpu: bool) -> None:
        self.assume_cpu = assume_cpu

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        name, method = name_of_function(node), node.func.attr if isinstance(node.func, ast.Attribute) else ""
        sizes = node.args[0] if len(node.args) == 1 else None
        if isinstance(sizes, (ast.List, ast.Tuple)):
            if name == "torch.Size":
                return ast.Tuple(sizes.elts)
            if method in VARIADIC_SIZES and sizes.elts:
                node.args = sizes.elts
        if self.assume_cpu:
            _drop_cpu(node, name, method)
        if name in PUBLIC_NAMES:
            name = PUBLIC_NAMES[name]
            node.func = dotted_name(name)
        if name in ("F.linear", "torch.amp.autocast"):
            while node.args and constant_value(node.args[-1]) is None:
                node.args.pop()
        _drop_defaults(node, _defaults_of(name))
        if name in LATER_ARGUMENTS:
            _name_later_arguments(node, *LATER_ARGUMENTS[name])
        if name == "torch.amp.autocast" and len(node.args) == 3 and constant_value(node.args[2]) is False:
            node.args[1:], node.keywords = [], [ast.keyword("enabled", node.args[2])]
        return node


def _drop_cpu(node: ast.Call, name: str, method: str) -> None:
    is_cast = method == "to" and len(node.args) + len(node.keywords) > 1
    if is_cast or name.startswith("torch.") or method in ("new_ones", "new_zeros", "new_tensor"):
        node.keywords = [key for key in node.keywords if key.arg != "device" or not _is_cpu(key.value)]
    if is_cast:
        node.args = [arg for arg in node.args if not _is_cpu(arg)]
        if not node.args and [key.arg for key in node.keywords] == ["dtype"]:
            node.args, node.keywords = [node.keywords[0].value], []


def _is_cpu(node: ast.expr) -> bool:
    device = node.args[0] if isinstance(node, ast.Call) and name_of_function(node) == "torch.device" else node
    return isinstance(device, ast.Constant) and device.value == "cpu"


@cache
def _defaults_of(name: str) -> dict[str, object]:
    """The defaults of a Python function of torch.nn.functional by its name; nothing for other functions."""
    function = getattr(F, name[2:], None) if name.startswith("F.") else None
    if not isinstance(function, FunctionType) or function.__module__ != "torch.nn.functional":
        return {}
    parameters = inspect.signature(function).parameters.values()
    is_plain = all(parameter.kind is parameter.POSITIONAL_OR_KEYWORD for parameter in parameters)
    return {parameter.name: parameter.default for parameter in parameters} if is_plain else {}


def _drop_defaults(node: ast.Call, defaults: Mapping[str, object]) -> None:
    """Leave out arguments that equal the defaults: those by name, and then the last ones by position."""
    if not defaults or any(isinstance(arg, ast.Starred) for arg in node.args):
        return
    node.keywords = [key for key in node.keywords if not _equals(key.value, defaults.get(key.arg or "", UNKNOWN))]
    names = list(defaults)
    while node.args and not node.keywords and len(node.args) <= len(names):
        if not _equals(node.args[-1], defaults[names[len(node.args) - 1]]):
            break
        node.args.pop()


def _equals(node: ast.expr, default: object) -> bool:
    value = constant_value(node)
    if value is None or default is None:
        return value is default
    return type(value) is type(default) and isinstance(value, (int, float, str)) and value == default


def _name_later_arguments(node: ast.Call, count: int, names: tuple[str, ...], defaults: tuple[object, ...]) -> None:
    """Pass the arguments after the first ones by name, without those that equal their defaults."""
    if len(node.args) > count + len(names) or any(isinstance(arg, ast.Starred) for arg in node.args):
        return
    later = [ast.keyword(name, arg) for name, arg in zip(names, node.args[count:], strict=False)]
    keywords: list[ast.keyword] = []
    for key in [*later, *node.keywords]:
        value = without_repetition(constant_value(key.value))
        default = defaults[names.index(key.arg)] if key.arg in names else UNKNOWN
        if type(value) is type(default) and value is not UNKNOWN and value == default:
            continue
        if type(value) is int and isinstance(key.value, ast.Tuple):
            key = ast.keyword(key.arg, ast.Constant(value))
        keywords.append(key)
    del node.args[count:]
    if keywords and keywords[0].arg == "bias":
        node.args.append(keywords.pop(0).value)
    node.keywords = keywords
