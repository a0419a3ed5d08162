"""What a generated text calls functions, classes and values, and the lines that import them."""

from __future__ import annotations

import ast
import dataclasses
import enum
import importlib
import math
import re
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx.immutable_collections import immutable_dict, immutable_list

from funcnet._torch import is_operator, native_functions
from funcnet.program._expressions import call_expression, dotted_name, number
from funcnet.program._statements import ForwardProgram, map_expressions

LeafExpression = Callable[[object], "ast.expr | None"]
"""Returns the expression for a leaf of nested data, a tensor for example; None where the leaf is a constant."""


class UnwritableError(Exception):
    """A value that cannot be written as an expression; ``where`` is its position inside the given value."""

    def __init__(self, where: str, value: object) -> None:
        super().__init__(where, value)
        self.where, self.value = where, value


class Vocabulary:
    """What functions, classes and values are called in a generated text, and what that text has to import.

    ``objects`` are those that cannot be imported by name, such as a class defined in a function; they are handed to the
    text together with its imports.
    """

    def __init__(self) -> None:
        self.imports: dict[str, None] = {}
        self.objects: dict[str, object] = {}

    def copy(self) -> Vocabulary:
        """A copy; what is added to it later is not added to this one."""
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

    def function_call(self, function: object, args: Sequence[ast.expr], keywords: Mapping[str, ast.expr]) -> ast.Call:
        """The expression that calls a function."""
        return call_expression(self.function_name(function), args, keywords)

    def value_expression(self, value: object, leaf: LeafExpression, where: str = "") -> ast.expr:
        """An expression that builds a value of containers and constants; ``leaf`` says what its tensors are called.

        Raises:
            UnwritableError: if there is no such expression.
        """
        known = leaf(value)
        if known is not None:
            return known
        kind = type(value)
        if kind in (tuple, torch.Size, list, immutable_list):
            items = self._item_expressions(value, leaf, where)  # type: ignore[arg-type]  # a sequence, as its kind says
            return ast.Tuple(items) if isinstance(value, tuple) else ast.List(items)
        if isinstance(value, Mapping) and kind in (dict, immutable_dict, OrderedDict):
            keys: list[ast.expr | None] = [self.constant_expression(key, where) for key in value]
            pairs = ast.Dict(
                keys, [self.value_expression(item, leaf, f"{where}[{key!r}]") for key, item in value.items()]
            )
            return self.function_call(OrderedDict, [pairs], {}) if kind is OrderedDict else pairs
        if isinstance(value, slice):
            parts = (value.start, value.stop, value.step)
            return call_expression("slice", [self.value_expression(part, leaf, where) for part in parts])
        if isinstance(value, tuple) and kind.__module__ == "torch.return_types":
            self.add_import("import torch")
            items = self._item_expressions(value, leaf, where)
            return call_expression(f"torch.return_types.{kind.__name__}", [ast.Tuple(items)])
        if _has_fields(value):
            fields = fields_of(value).items()
            return self.function_call(
                kind, [], {name: self.value_expression(item, leaf, f"{where}.{name}") for name, item in fields}
            )
        return self.constant_expression(value, where)

    def _item_expressions(self, value: Sequence[object], leaf: LeafExpression, where: str) -> list[ast.expr]:
        return [self.value_expression(item, leaf, f"{where}[{index}]") for index, item in enumerate(value)]

    def index_expression(self, value: object, leaf: LeafExpression) -> ast.expr:
        """The expression that stands between the brackets of ``x[...]``."""
        if isinstance(value, tuple) and value:
            return ast.Tuple([self.index_expression(item, leaf) for item in value])
        if isinstance(value, slice):
            parts = (value.start, value.stop, value.step)
            return ast.Slice(*(None if part is None else self.value_expression(part, leaf) for part in parts))
        return self.value_expression(value, leaf)

    def constant_expression(self, value: object, where: str = "") -> ast.expr:
        """An expression for an immutable value.

        Raises:
            UnwritableError: if it is not of a known type.
        """
        if isinstance(value, enum.Enum):
            return ast.Attribute(dotted_name(self.function_name(type(value))), value.name)
        if value is None or value is ... or type(value) in (bool, int, str, bytes):
            return ast.Constant(value)  # type: ignore[arg-type]  # of one of these types
        if type(value) is float:
            return number(value)
        if type(value) is complex and math.isfinite(value.real) and math.isfinite(value.imag):
            return ast.Constant(value)
        if isinstance(value, range):
            return call_expression("range", [ast.Constant(part) for part in (value.start, value.stop, value.step)])
        if isinstance(value, type):
            return dotted_name(self.function_name(value))
        if not isinstance(value, (torch.dtype, torch.memory_format, torch.layout, torch.device)):
            raise UnwritableError(where, value)
        self.add_import("import torch")
        is_device = isinstance(value, torch.device)
        return call_expression("torch.device", [ast.Constant(str(value))]) if is_device else dotted_name(str(value))


def _has_fields(value: object) -> bool:
    is_named_tuple = isinstance(value, tuple) and hasattr(value, "_fields")
    return is_named_tuple or (dataclasses.is_dataclass(value) and not isinstance(value, type))


def fields_of(value: object) -> dict[str, object]:
    """The fields of a NamedTuple or dataclass that its class is called with; those of a ModelOutput that are set.

    Raises:
        UnwritableError: if calling the class with its fields would not give the value back.
    """
    if isinstance(value, tuple):
        return dict(zip(value._fields, value, strict=True))  # type: ignore[attr-defined]  # a NamedTuple
    fields = dataclasses.fields(value)  # type: ignore[arg-type]  # a dataclass
    if not all(field.init for field in fields):
        raise UnwritableError("", value)
    # a ModelOutput, which is an OrderedDict, holds no item for a field that is None
    names = [field.name for field in fields if not isinstance(value, OrderedDict) or field.name in value]
    return {name: getattr(value, name) for name in names}


_IMPORTS = {"F": "import torch.nn.functional as F", "torch": "import torch", "math": "import math"}


@cache
def _public_names() -> dict[int, str]:
    """Id of a function -> its shortest public name."""
    homes: list[tuple[str, object]] = [
        *native_functions().items(),
        *((f"torch.{name}", getattr(torch, name)) for name in ("special", "linalg", "fft", "sparse")),
        *(("torch.Tensor", Tensor), ("math", math), ("torch", torch), ("F", F)),
    ]
    return {
        id(value): f"{home}.{name}"
        for home, space in homes
        for name in dir(space)
        if callable(value := getattr(space, name, None)) and not (name.startswith("__") and home != "torch.Tensor")
    }


def _resolve_name(module: str, qualified_name: str) -> object:
    """The object with a name in a module; None if there is no such object."""
    try:
        result: object = importlib.import_module(module)
        for name in qualified_name.split("."):
            result = getattr(result, name)
    except (ImportError, AttributeError, ValueError):
        return None
    return result


class _ImportedNames(ast.NodeTransformer):
    """Replaces ``package.module.Name`` by ``Name``, and remembers the names."""

    def __init__(self, modules: set[str]) -> None:
        self.modules = modules
        self.names: dict[str, str] = {}

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        text = ast.unparse(node)
        module, _, name = text.rpartition(".")
        is_taken = any(text != full_name and name == known for full_name, known in self.names.items())
        if module in self.modules and not is_taken:
            self.names[text] = name
            return ast.Name(name)
        return self.generic_visit(node)


def import_names(program: ForwardProgram, imports: Sequence[str]) -> dict[str, str]:
    """Replace ``package.module.Name`` by ``Name`` in a program. Returns full name -> name."""
    change = _ImportedNames({line.split()[1] for line in imports if " as " not in line and "." in line})
    map_expressions(program, change.visit)
    return change.names


def import_lines(text: str, imports: Sequence[str], imported: Mapping[str, str]) -> list[str]:
    """The lines that a text needs, in the order and groups that isort gives them.

    ``imports`` are lines that it may need; ``imported`` says which names it uses for which full names.
    """
    text = re.sub(r'"""[\s\S]*?"""|# .*', "", text)  # comments and docstrings need no imports
    used = [line for line in imports if re.search(rf"(?<![\w.\"]){re.escape(line.split()[-1])}\.", text)]
    lines = {*used, *(f"from {name.rpartition('.')[0]} import {short}" for name, short in imported.items())}
    if re.search(r"(?<![\w.\"])fn\.", text):
        lines.add("import funcnet as fn")
    standard = {line for line in lines if line.split()[1].split(".")[0] in sys.stdlib_module_names}
    # first those that import whole modules
    groups = [sorted(group, key=lambda line: (line[:5] == "from ", line)) for group in (standard, lines - standard)]
    return [*groups[0], *([""] if groups[0] and groups[1] else []), *groups[1]]
