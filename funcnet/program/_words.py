"""Values and functions as Python expressions."""

from __future__ import annotations

import dataclasses
import enum
import importlib
import math
import operator
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx.immutable_collections import immutable_dict, immutable_list

INFIX: dict[Any, str] = {
    operator.add: "+",
    operator.sub: "-",
    operator.mul: "*",
    operator.truediv: "/",
    operator.floordiv: "//",
    operator.mod: "%",
    operator.pow: "**",
    operator.matmul: "@",
    operator.and_: "&",
    operator.or_: "|",
    operator.xor: "^",
    operator.lshift: "<<",
    operator.rshift: ">>",
    operator.lt: "<",
    operator.le: "<=",
    operator.eq: "==",
    operator.ne: "!=",
    operator.gt: ">",
    operator.ge: ">=",
}
IN_PLACE: dict[Any, Any] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    operator.ifloordiv: operator.floordiv,
    operator.imod: operator.mod,
    operator.ipow: operator.pow,
    operator.imatmul: operator.matmul,
    operator.iand: operator.and_,
    operator.ior: operator.or_,
    operator.ixor: operator.xor,
    operator.ilshift: operator.lshift,
    operator.irshift: operator.rshift,
}
PREFIX: dict[Any, str] = {operator.neg: "-", operator.pos: "+", operator.invert: "~", operator.not_: "not "}

Leaf = Callable[[Any], "str | None"]


class UnspeakableError(Exception):
    """A value that no expression stands for: ``where`` it is within what was asked about, and the value."""

    def __init__(self, where: str, value: Any) -> None:
        super().__init__(where, value)
        self.where, self.value = where, value


class Words:
    """What functions, classes and values are called in a generated text, and what that text has to import.

    ``objects`` are those that cannot be imported by name, such as a class defined in a function; they are handed to the
    text beside its imports.
    """

    def __init__(self) -> None:
        self.imports: dict[str, None] = {}
        self.objects: dict[str, Any] = {}

    def copy(self) -> Words:
        """Words that start from these and do not add to them."""
        made = Words()
        made.imports, made.objects = dict(self.imports), dict(self.objects)
        return made

    @property
    def roots(self) -> set[str]:
        """Names that mean something at the top of the text."""
        return {line.split()[-1].split(".")[0] for line in self.imports} | set(self.objects)

    def function(self, target: Any) -> str:
        """A function or class by its public name, or by the module it is defined in."""
        if isinstance(target, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)):
            self.imports["import torch"] = None
            return f"torch.ops.{target}"
        module, name = getattr(target, "__module__", None) or "", getattr(target, "__qualname__", "")
        if module == "builtins" and isinstance(target, type):
            return name
        known = _public().get(id(target))
        if known is not None:
            self.imports[_IMPORTS[known.split(".")[0]]] = None
            return known
        if _found(module, name) is target:
            self.imports[f"import {module}"] = None
            return f"{module}.{name}"
        alias = next((key for key, value in self.objects.items() if value is target), None)
        if alias is None:
            alias = name.rpartition(".")[2] or type(target).__name__
            while alias in self.objects or not alias.isidentifier():
                alias = f"{alias}_" if alias.isidentifier() else "thing"
            self.objects[alias] = target
        return alias

    def value(self, value: Any, leaf: Leaf, where: str = "") -> str:
        """An expression that builds a value of containers and constants; ``leaf`` says what tensors are called.

        Raises:
            UnspeakableError: if there is none.
        """
        named = leaf(value)
        if named is not None:
            return named
        kind = type(value)
        if kind in (tuple, torch.Size):
            items = [self.value(item, leaf, f"{where}[{index}]") for index, item in enumerate(value)]
            return f"({', '.join(items)}{',' if len(items) == 1 else ''})"
        if kind in (list, immutable_list):
            return f"[{', '.join(self.value(item, leaf, f'{where}[{index}]') for index, item in enumerate(value))}]"
        if kind in (dict, immutable_dict):
            return f"{{{', '.join(self._pairs(value, leaf, where))}}}"
        if kind is OrderedDict:
            return f"{self.function(OrderedDict)}({{{', '.join(self._pairs(value, leaf, where))}}})"
        if isinstance(value, slice):
            parts = (self.value(part, leaf, where) for part in (value.start, value.stop, value.step))
            return f"slice({', '.join(parts)})"
        if isinstance(value, tuple) and hasattr(value, "_fields"):  # a NamedTuple
            items = [f"{name}={self.value(item, leaf, f'{where}.{name}')}" for name, item in fields_of(value).items()]
            return f"{self.function(kind)}({', '.join(items)})"
        if isinstance(value, tuple) and kind.__module__ == "torch.return_types":
            items = [self.value(item, leaf, f"{where}[{index}]") for index, item in enumerate(value)]
            self.imports["import torch"] = None
            return f"torch.return_types.{kind.__name__}(({', '.join(items)}))"
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            items = [f"{name}={self.value(item, leaf, f'{where}.{name}')}" for name, item in fields_of(value).items()]
            return f"{self.function(kind)}({', '.join(items)})"
        return self.constant(value, where)

    def _pairs(self, value: Mapping[Any, Any], leaf: Leaf, where: str) -> list[str]:
        return [
            f"{self.constant(key, where)}: {self.value(item, leaf, f'{where}[{key!r}]')}" for key, item in value.items()
        ]

    def constant(self, value: Any, where: str = "") -> str:
        """An expression for an immutable value.

        Raises:
            UnspeakableError: if it is none of those that are known.
        """
        if isinstance(value, enum.Enum):
            return f"{self.function(type(value))}.{value.name}"
        if type(value) is str and value.isprintable() and not {*value} & {*"\"\\'"}:
            return f'"{value}"'
        if value is None or type(value) in (bool, int, str, bytes):
            return repr(value)
        if value is ...:
            return "..."
        if type(value) is float:
            return repr(value) if math.isfinite(value) else f'float("{value}")'
        if type(value) is complex and math.isfinite(value.real) and math.isfinite(value.imag):
            return repr(value)
        if isinstance(value, (torch.dtype, torch.memory_format, torch.layout)):
            self.imports["import torch"] = None
            return str(value)
        if isinstance(value, torch.device):
            self.imports["import torch"] = None
            return f'torch.device("{value}")'
        if isinstance(value, range):
            return repr(value)
        if isinstance(value, type):
            return self.function(value)
        raise UnspeakableError(where, value)


def fields_of(value: Any) -> dict[str, Any]:
    """The fields of a NamedTuple or dataclass that its class is called with; those of a ModelOutput that are set.

    Raises:
        UnspeakableError: if calling the class with its fields would not give the value back.
    """
    if isinstance(value, tuple):
        return dict(zip(value._fields, value, strict=True))  # type: ignore[attr-defined]
    names = [field.name for field in dataclasses.fields(value) if field.init]
    if len(names) != len(dataclasses.fields(value)):
        raise UnspeakableError("", value)
    if isinstance(value, OrderedDict):  # a ModelOutput holds no item for a field that is None
        return {name: getattr(value, name) for name in names if name in value}
    return {name: getattr(value, name) for name in names}


_IMPORTS = {"F": "import torch.nn.functional as F", "torch": "import torch", "math": "import math"}


@cache
def _public() -> dict[int, str]:
    """Id of a function -> its shortest public name."""
    homes: list[tuple[str, Any]] = [
        ("torch._C._nn", torch._C._nn),
        ("torch._C", torch._C),
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


def _found(module: str, qualified: str) -> Any:
    try:
        found: Any = importlib.import_module(module)
        for name in qualified.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError, ValueError):
        return None
    return found
