"""Values, functions and operators as expressions, and the names that a text has to import for them."""

from __future__ import annotations

import ast
import dataclasses
import enum
import importlib
import keyword
import math
import operator
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx.immutable_collections import immutable_dict, immutable_list

from funcnet._torch import is_operator, native_functions

INFIX: dict[object, type[ast.operator | ast.cmpop]] = {
    operator.add: ast.Add,
    operator.sub: ast.Sub,
    operator.mul: ast.Mult,
    operator.truediv: ast.Div,
    operator.floordiv: ast.FloorDiv,
    operator.mod: ast.Mod,
    operator.pow: ast.Pow,
    operator.matmul: ast.MatMult,
    operator.and_: ast.BitAnd,
    operator.or_: ast.BitOr,
    operator.xor: ast.BitXor,
    operator.lshift: ast.LShift,
    operator.rshift: ast.RShift,
    operator.lt: ast.Lt,
    operator.le: ast.LtE,
    operator.eq: ast.Eq,
    operator.ne: ast.NotEq,
    operator.gt: ast.Gt,
    operator.ge: ast.GtE,
}
IN_PLACE: dict[object, type[ast.operator]] = {
    operator.iadd: ast.Add,
    operator.isub: ast.Sub,
    operator.imul: ast.Mult,
    operator.itruediv: ast.Div,
    operator.ifloordiv: ast.FloorDiv,
    operator.imod: ast.Mod,
    operator.ipow: ast.Pow,
    operator.imatmul: ast.MatMult,
    operator.iand: ast.BitAnd,
    operator.ior: ast.BitOr,
    operator.ixor: ast.BitXor,
    operator.ilshift: ast.LShift,
    operator.irshift: ast.RShift,
}
PREFIX: dict[object, type[ast.unaryop]] = {
    operator.neg: ast.USub,
    operator.pos: ast.UAdd,
    operator.invert: ast.Invert,
    operator.not_: ast.Not,
}

LeafExpression = Callable[[object], "ast.expr | None"]
"""Says which expression stands for a leaf of nested data, a tensor for example; None where the leaf is a constant."""


class UnwritableError(Exception):
    """A value that no expression stands for: ``where`` it is within what was asked about, and the value."""

    def __init__(self, where: str, value: object) -> None:
        super().__init__(where, value)
        self.where, self.value = where, value


# --- small expressions ---


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
    if not isinstance(expression, ast.Call):
        return ""
    node = expression.func
    attributes: list[str] = []
    while isinstance(node, ast.Attribute):
        attributes.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id.startswith("%") or ":" in node.id:
        return ""
    return ".".join([node.id, *reversed(attributes)])


def subscript(value: ast.expr, index: ast.expr) -> ast.Subscript:
    """The expression ``value[index]``."""
    return ast.Subscript(value, index)


def operator_expression(function: object, operands: Sequence[ast.expr]) -> ast.expr:
    """The expression with the operator that a function of Python's ``operator`` module stands for."""
    if function in PREFIX:
        return ast.UnaryOp(PREFIX[function](), operands[0])
    symbol = (INFIX.get(function) or IN_PLACE[function])()
    if isinstance(symbol, ast.cmpop):
        return ast.Compare(operands[0], [symbol], [operands[1]])
    return ast.BinOp(operands[0], symbol, operands[1])


# --- values ---


class Vocabulary:
    """What functions, classes and values are called in a generated text, and what that text has to import.

    ``objects`` are those that cannot be imported by name, such as a class defined in a function; they are handed to the
    text beside its imports.
    """

    def __init__(self) -> None:
        self.imports: dict[str, None] = {}
        self.objects: dict[str, object] = {}

    def copy(self) -> Vocabulary:
        """A vocabulary that starts with everything in this one and adds nothing to it."""
        result = Vocabulary()
        result.imports, result.objects = dict(self.imports), dict(self.objects)
        return result

    @property
    def global_names(self) -> set[str]:
        """Names that mean something at the top of the text."""
        return {line.split()[-1].split(".")[0] for line in self.imports} | set(self.objects)

    def add_import(self, line: str) -> None:
        """Have the text import something."""
        self.imports[line] = None

    def function_name(self, function: object) -> str:
        """A function or class by its public name, or by the module it is defined in."""
        if is_operator(function):
            self.add_import("import torch")
            return f"torch.ops.{function}"
        module, name = getattr(function, "__module__", None) or "", getattr(function, "__qualname__", "")
        if module == "builtins" and isinstance(function, type):
            return str(name)
        public_name = _public_names().get(id(function))
        if public_name is not None:
            self.add_import(_IMPORTS[public_name.split(".")[0]])
            return public_name
        if _resolve_name(module, name) is function:
            self.add_import(f"import {module}")
            return f"{module}.{name}"
        alias = next((key for key, value in self.objects.items() if value is function), None)
        if alias is None:
            alias = name.rpartition(".")[2] or type(function).__name__
            while alias in self.objects or not alias.isidentifier():
                alias = f"{alias}_" if alias.isidentifier() else "object_"
            self.objects[alias] = function
        return alias

    def call(self, function: object, args: Sequence[ast.expr], keywords: Mapping[str, ast.expr]) -> ast.Call:
        """The expression that calls a function."""
        return call_expression(dotted_name(self.function_name(function)), args, keywords)

    def expression(self, value: object, leaf: LeafExpression, where: str = "") -> ast.expr:
        """An expression that builds a value of containers and constants; ``leaf`` says what its tensors are called.

        Raises:
            UnwritableError: if there is none.
        """
        known = leaf(value)
        if known is not None:
            return known
        kind = type(value)
        if kind in (tuple, torch.Size, list, immutable_list):
            items = self._items(value, leaf, where)  # type: ignore[arg-type]
            return ast.Tuple(items) if isinstance(value, tuple) else ast.List(items)
        if kind in (dict, immutable_dict, OrderedDict):
            keys: list[ast.expr | None] = [self.constant(key, where) for key in value]  # type: ignore[attr-defined]
            items = [self.expression(item, leaf, f"{where}[{key!r}]") for key, item in value.items()]  # type: ignore[attr-defined]
            pairs = ast.Dict(keys, items)
            return self.call(OrderedDict, [pairs], {}) if kind is OrderedDict else pairs
        if isinstance(value, slice):
            return ast.Call(ast.Name("slice"), [self.expression(part, leaf, where) for part in _slice_parts(value)], [])
        if isinstance(value, tuple) and kind.__module__ == "torch.return_types":
            self.add_import("import torch")
            function = dotted_name(f"torch.return_types.{kind.__name__}")
            return call_expression(function, [ast.Tuple(self._items(value, leaf, where))], {})
        if (isinstance(value, tuple) and hasattr(value, "_fields")) or (
            dataclasses.is_dataclass(value) and not isinstance(value, type)
        ):
            fields = fields_of(value).items()
            return self.call(kind, [], {name: self.expression(item, leaf, f"{where}.{name}") for name, item in fields})
        return self.constant(value, where)

    def _items(self, value: Sequence[object], leaf: LeafExpression, where: str) -> list[ast.expr]:
        return [self.expression(item, leaf, f"{where}[{index}]") for index, item in enumerate(value)]

    def index(self, value: object, leaf: LeafExpression) -> ast.expr:
        """The expression that stands between the brackets of ``x[...]``."""
        if isinstance(value, tuple) and value:
            return ast.Tuple([self.index(item, leaf) for item in value])
        if isinstance(value, slice):
            return ast.Slice(*(None if part is None else self.expression(part, leaf) for part in _slice_parts(value)))
        return self.expression(value, leaf)

    def constant(self, value: object, where: str = "") -> ast.expr:
        """An expression for an immutable value.

        Raises:
            UnwritableError: if it is none of those that are known.
        """
        if isinstance(value, enum.Enum):
            return ast.Attribute(dotted_name(self.function_name(type(value))), value.name)
        if value is None or value is ... or type(value) in (bool, int, str, bytes):
            return ast.Constant(value)  # type: ignore[arg-type]
        if type(value) is float:
            return number(value)
        if type(value) is complex and math.isfinite(value.real) and math.isfinite(value.imag):
            return ast.Constant(value)
        if isinstance(value, (torch.dtype, torch.memory_format, torch.layout)):
            self.add_import("import torch")
            return dotted_name(str(value))
        if isinstance(value, torch.device):
            self.add_import("import torch")
            return ast.Call(dotted_name("torch.device"), [ast.Constant(str(value))], [])
        if isinstance(value, range):
            bounds = [value.start, value.stop, *([value.step] if value.step != 1 else [])]
            return ast.Call(ast.Name("range"), [ast.Constant(bound) for bound in bounds], [])
        if isinstance(value, type):
            return dotted_name(self.function_name(value))
        raise UnwritableError(where, value)


def _slice_parts(value: slice) -> tuple[object, object, object]:
    return value.start, value.stop, value.step


def number(value: float) -> ast.expr:
    """An expression for a number, infinite and undefined ones included."""
    if isinstance(value, float) and not math.isfinite(value):
        return ast.Call(ast.Name("float"), [ast.Constant(str(value))], [])
    return ast.Constant(value)


def call_expression(function: ast.expr, args: Sequence[ast.expr], keywords: Mapping[str, ast.expr]) -> ast.Call:
    """The call of a function; arguments whose names are words of Python's language are given as ``**{"from": x}``."""
    named = [ast.keyword(name, value) for name, value in keywords.items() if not keyword.iskeyword(name)]
    reserved = [name for name in keywords if keyword.iskeyword(name)]
    if reserved:
        pairs = ast.Dict([ast.Constant(name) for name in reserved], [keywords[name] for name in reserved])
        named.append(ast.keyword(None, pairs))
    return ast.Call(function, list(args), named)


def fields_of(value: object) -> dict[str, object]:
    """The fields of a NamedTuple or dataclass that its class is called with; those of a ModelOutput that are set.

    Raises:
        UnwritableError: if calling the class with its fields would not give the value back.
    """
    if isinstance(value, tuple):
        return dict(zip(value._fields, value, strict=True))  # type: ignore[attr-defined]
    fields = dataclasses.fields(value)  # type: ignore[arg-type]
    names = [field.name for field in fields if field.init]
    if len(names) != len(fields):
        raise UnwritableError("", value)
    if isinstance(value, OrderedDict):  # a ModelOutput holds no item for a field that is None
        return {name: getattr(value, name) for name in names if name in value}
    return {name: getattr(value, name) for name in names}


_IMPORTS = {"F": "import torch.nn.functional as F", "torch": "import torch", "math": "import math"}


@cache
def _public_names() -> dict[int, str]:
    """Id of a function -> its shortest public name."""
    homes: list[tuple[str, object]] = [
        *native_functions().items(),
        *((f"torch.{name}", getattr(torch, name)) for name in ("special", "linalg", "fft", "sparse")),
        ("torch.Tensor", Tensor),
        ("math", math),
        ("torch", torch),
        ("F", F),
    ]
    return {
        id(value): f"{home}.{name}"
        for home, space in homes
        for name in dir(space)
        if callable(value := getattr(space, name, None)) and not (name.startswith("__") and home != "torch.Tensor")
    }


def _resolve_name(module: str, qualified_name: str) -> object:
    """The object that a name stands for in a module; None if there is none."""
    try:
        result: object = importlib.import_module(module)
        for name in qualified_name.split("."):
            result = getattr(result, name)
    except (ImportError, AttributeError, ValueError):
        return None
    return result
