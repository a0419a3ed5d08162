"""What the bodies of a net hold from outside of their calls: fields, closures, globals, defaults and what they assign.

What code names in a class, a module or a function is held too: ``Model.cache``, ``state.counts`` and ``step.calls``.

All calls share these values, so a body that writes to one, or draws from a generator in one, is no function of its
arguments. Most bodies hold functions, modules, numbers and nets, and nothing is watched. What can be written to is
watched in every call, except:

* a list of which the code uses nothing but ``append``: a log, from which nothing comes back;
* records and dicts of plain values that the code only reads item by item, such as a configuration.
"""

from __future__ import annotations

import dis
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextvars import ContextVar
from enum import Enum
from types import CodeType, FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from funcnet._reachable import ATOM_CLASSES, is_assigned
from funcnet.core._body_functions import get_defaults, is_known, iter_code
from funcnet.core._input_watch import InputWatch, Variable, copy_state
from funcnet.core._net import Net
from funcnet.core._traced_watch import can_be_compared

_FOREIGN_PACKAGES = ("torch", "funcnet", "typing", "typing_extensions", "numpy", "builtins", "abc", "enum")
_LOADS = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF")
_GLOBAL_STORES, _CELL_STORES = ("STORE_GLOBAL", "DELETE_GLOBAL"), ("STORE_DEREF", "DELETE_DEREF")
_ATTRIBUTE_STORES = ("STORE_ATTR", "DELETE_ATTR")
_LARGE = 64  # tensors and containers; to look at so many takes longer than a small call
_GENERATED = "<string>"  # the file of methods that dataclasses make
_WRITING_NAMES = frozenset(("setattr", "__setattr__", "__dict__", "vars"))
_COPIES = ("COPY", "DUP_TOP")
_SETTING_NAMES = frozenset(("setattr", "delattr", "globals"))
_KEY_LOADS = ("LOAD_CONST", "LOAD_FAST", "LOAD_FAST_BORROW", "LOAD_SMALL_INT")


class SharedValues:
    """The values that the bodies of a net hold and could write to.

    Args:
        functions: what the code of the net consists of, foreign modules included: calls share their defaults too.
        own_functions: those of the bodies that are no foreign modules.
        own_bodies: these bodies.
        buffer_names: to assign to these attributes is to record a new buffer.
    """

    def __init__(
        self,
        functions: Iterable[FunctionType],
        own_functions: list[FunctionType],
        own_bodies: Iterable[Net],
        buffer_names: Collection[str],
    ) -> None:
        self.defaults = [pair for pair in _iter_defaults(functions) if InputWatch([pair]).size]
        """The defaults of arguments that can be written to, with their names."""
        watches = [(pair, InputWatch([pair])) for pair in _iter_held_values(own_functions, own_bodies, buffer_names)]
        self.named = [pair for pair, watch in watches if watch.size]
        """The other values that can be written to, with their names."""
        self._is_large = sum(watch.size for _, watch in watches) > _LARGE
        self.comparable = [(name, value) for name, value in self.named if can_be_compared(value)]
        """Those that compiled code can compare."""
        hidden = [name for name, value in self.named if isinstance(value, Variable) or copy_state(value) is not None]
        self.hidden_in_traces = hidden[0] if hidden else ""
        """The first that compiled code could write to unseen; "" if there is none."""

    def watch(self, is_first: bool, has_bits: bool) -> InputWatch | None:
        """A watch of these values in a call; None if they are too many to look at in every call."""
        if self._is_large and not is_first:
            return None
        return InputWatch(self.named, records_tensors=is_first, has_bits=has_bits, is_shared=True)


def _iter_held_values(
    functions: Iterable[FunctionType], nets: Iterable[Net], buffer_names: Collection[str]
) -> Iterator[tuple[str, Any]]:
    """The values that the bodies of nets hold, with their names; what is known not to be written to is left out.

    Args:
        functions: what the code of the bodies consists of.
        nets: those whose bodies these are, none of them foreign.
        buffer_names: to assign to these attributes is to record a new buffer.
    """
    visited: set[int] = set()
    functions = [function for function in functions if function.__code__.co_filename != _GENERATED]
    for name, value in _iter_named_values(functions, nets, buffer_names):
        if id(value) not in visited and (isinstance(value, Variable) or not _is_stateless(value)):
            visited.add(id(value))
            yield name, value
    for function in functions:
        yield from _iter_variables(function)


def _iter_defaults(functions: Iterable[FunctionType]) -> Iterator[tuple[str, Any]]:
    """The defaults of arguments, with their names in messages: all calls of a function share them."""
    for function in functions:
        for name, value in get_defaults(function).items():
            if not isinstance(value, Tensor):
                yield f"the default of {name!r} in {function.__qualname__}", value


def _iter_named_values(
    functions: list[FunctionType], nets: Iterable[Net], buffer_names: Collection[str]
) -> Iterator[tuple[str, Any]]:
    stores_attributes = any(_stores_attributes(function, buffer_names) for function in functions)
    namespaces = Namespaces(functions)
    for net in nets:
        for name, value in net._named_constants.items():
            yield f"the field {name!r} of {net.title()}", value
        if stores_attributes and not is_known(type(net).__module__):
            yield f"the net {net.title()}", net
            yield f"the class {type(net).__name__}", type(net)
        yield from namespaces.iter_values("", type(net))
    uses_by_function = [(function, _list_uses(function)) for function in functions]
    for function, uses in uses_by_function:
        stores = _stores_attributes(function, buffer_names)
        for name, pairs in uses.items():
            for value in _find_values(function, name):
                is_log = type(value) is list and _is_log(pairs)
                is_class_read = isinstance(value, type) and not stores
                if not (is_log or is_class_read or _is_only_read(value, pairs)):
                    yield f"{name!r} outside of {function.__qualname__}", value
                if isinstance(value, FunctionType) and stores:
                    yield f"the function {name!r}", vars(value)
                if stores_attributes and not isinstance(value, type) and not is_known(type(value).__module__):
                    yield f"the class {type(value).__name__}", type(value)
                yield from namespaces.iter_values(name, value)


class Namespaces:
    """What the code of some functions names in modules, classes and functions, all of which hold values by name.

    Args:
        functions: the functions.
    """

    def __init__(self, functions: list[FunctionType]) -> None:
        self._names = {name for function in functions for code in iter_code(function) for name in code.co_names}
        self._stored_by_name: dict[str, set[str]] = {}
        for function in functions:
            for name, pairs in _list_uses(function).items():
                self._stored_by_name.setdefault(name, set()).update(_iter_stored(pairs), _names_to_set(function))
        self._visited: set[int] = set()

    def iter_values(self, name: str, value: Any) -> Iterator[tuple[str, Any]]:
        """The values that the code reads, or assigns to, in a value that it names, with words for messages."""
        if id(value) in self._visited:
            return
        self._visited.add(id(value))
        if isinstance(value, ModuleType):
            if not is_known(value.__name__):
                yield from self._iter_items(value.__name__, vars(value), self._names)
                for attribute in self._stored_by_name.get(name, ()):
                    yield f"the variable {value.__name__}.{attribute}", Variable(vars(value), attribute)
        elif isinstance(value, FunctionType):
            if not is_known(value.__module__):
                yield from self._iter_items(name, vars(value), self._names)
        else:
            cls = value if isinstance(value, type) else type(value)
            for base in cls.__mro__:
                if not is_known(base.__module__) and not issubclass(base, Enum):
                    yield from self._iter_items(base.__name__, vars(base), self._names_used_in(base))

    def _names_used_in(self, cls: type) -> set[str]:
        methods = [getattr(value, "__func__", value) for value in vars(cls).values()]
        codes = [code for method in methods if isinstance(method, FunctionType) for code in iter_code(method)]
        return self._names.union(*[code.co_names for code in codes])

    def _iter_items(self, holder: str, items: Mapping[str, Any], names: set[str]) -> Iterator[tuple[str, Any]]:
        for name, value in list(items.items()):
            if name in names and not name.startswith("__"):
                if not isinstance(value, (type, ModuleType, FunctionType)):
                    yield f"the attribute {holder}.{name}", value
                if not isinstance(value, Tensor):
                    yield from self.iter_values(name, value)


def _iter_stored(uses: list[tuple[dis.Instruction, ...]]) -> Iterator[str]:
    """The attributes of a value that code assigns to, as ``state.n = 1`` and ``state.n += 1`` do."""
    for first, *others in filter(None, uses):
        if first.opname in _ATTRIBUTE_STORES:
            yield first.argval
        elif first.opname in _COPIES and others and others[0].opname == "LOAD_ATTR":
            yield others[0].argval


def _names_to_set(function: FunctionType) -> set[str]:
    """The names that ``setattr`` could set, if code calls it: all its texts that are names."""
    codes = [code for code in iter_code(function) if not _SETTING_NAMES.isdisjoint(code.co_names)]
    return {text for code in codes for text in code.co_consts if isinstance(text, str) and text.isidentifier()}


def _list_stores(code: CodeType) -> list[dis.Instruction]:
    return [one for one in dis.get_instructions(code) if one.opname in _ATTRIBUTE_STORES]


def _find_values(function: FunctionType, name: str) -> Iterator[Any]:
    """What a name stands for in the code of a function, if that comes from outside of it."""
    if name in function.__code__.co_freevars:
        cell = (function.__closure__ or ())[function.__code__.co_freevars.index(name)]
        if is_assigned(cell):
            yield cell.cell_contents
    elif name in function.__globals__:
        yield function.__globals__[name]


def _list_uses(function: FunctionType) -> dict[str, list[tuple[dis.Instruction, ...]]]:
    """The names that code reads from outside; for each use, the two instructions that follow."""
    uses: dict[str, list[tuple[dis.Instruction, ...]]] = {}
    for code in iter_code(function):
        instructions = _list_instructions(code)
        for index, instruction in enumerate(instructions):
            if instruction.opname in _LOADS:
                uses.setdefault(instruction.argval, []).append(tuple(instructions[index + 1 : index + 3]))
    return uses


def _list_instructions(code: CodeType) -> list[dis.Instruction]:
    return [
        one for one in dis.get_instructions(code) if one.opname not in ("CACHE", "PRECALL", "PUSH_NULL", "COPY_FREE")
    ]


def _is_log(uses: list[tuple[dis.Instruction, ...]]) -> bool:
    """Whether a list is used for nothing but ``append``, whose result is None."""
    return all(pair and _is_method(pair[0]) and pair[0].argval == "append" for pair in uses)


def _is_method(instruction: dis.Instruction) -> bool:
    """Whether an attribute is loaded to be called."""
    name = instruction.opname
    return name == "LOAD_METHOD" or (name == "LOAD_ATTR" and "NULL" in str(instruction.argrepr))


def _is_only_read(value: Any, uses: list[tuple[dis.Instruction, ...]]) -> bool:
    """Whether plain values are read one by one, as ``config.size``, ``config["size"]`` and ``sizes[0]`` do."""
    items = value if isinstance(value, list) else value.values() if type(value) is dict else _attribute_values(value)
    if not all(isinstance(item, ATOM_CLASSES) for item in items):
        return False
    return all(len(pair) == 2 and _reads_item(*pair) for pair in uses)


def _attribute_values(value: Any) -> list[Any]:
    attributes = getattr(value, "__dict__", None)
    return list(attributes.values()) if isinstance(attributes, dict) else [value]


def _reads_item(first: dis.Instruction, second: dis.Instruction) -> bool:
    if first.opname == "LOAD_ATTR":
        return not _is_method(first)
    is_item = second.opname == "BINARY_SUBSCR" or (second.opname == "BINARY_OP" and second.argrepr == "[]")
    return first.opname in _KEY_LOADS and is_item


def _stores_attributes(function: FunctionType, buffer_names: Collection[str]) -> bool:
    codes = list(iter_code(function))
    return any(not _WRITING_NAMES.isdisjoint(code.co_names) for code in codes) or any(
        one.argval not in buffer_names for code in codes for one in _list_stores(code)
    )


def _iter_variables(function: FunctionType) -> Iterator[tuple[str, Variable]]:
    """The variables outside of a function that its code assigns to, also by ``globals()["n"]``; and its contexts'."""
    names = function.__code__.co_freevars
    for name in {name for code in iter_code(function) for name in code.co_names}:
        value = function.__globals__.get(name)
        if isinstance(value, ContextVar):
            yield f"the context variable {value.name!r}", Variable(value, value.name)
    if any("globals" in code.co_names for code in iter_code(function)):
        for name in _names_to_set(function):
            yield f"the global {name!r} of {function.__qualname__}", Variable(function.__globals__, name)
    for code in iter_code(function):
        for one in dis.get_instructions(code):
            if one.opname in _GLOBAL_STORES:
                yield (
                    f"the global {one.argval!r} of {function.__qualname__}",
                    Variable(function.__globals__, one.argval),
                )
            elif one.opname in _CELL_STORES and one.argval in names:
                cell = (function.__closure__ or ())[names.index(one.argval)]
                yield f"{one.argval!r} outside of {function.__qualname__}", Variable(cell, one.argval)


def _is_stateless(value: Any) -> bool:
    """Whether nothing can be written to a value, or nothing that a body would read again."""
    if isinstance(value, Net):
        return type(value).__module__.partition(".")[0] == "funcnet"
    if isinstance(value, (*ATOM_CLASSES, FunctionType)) and not _is_class_of_user(value):
        return True
    package = type(value).__module__.partition(".")[0]
    if package in ("torch", "funcnet", "functools") and not isinstance(value, (Tensor, torch.Generator, nn.Module)):
        return True
    if isinstance(value, nn.Module) and type(value).__module__.startswith("torch.nn.modules."):
        return not (value._parameters or value._buffers or value._modules)  # a loss or an activation
    return False


def _is_class_of_user(value: Any) -> bool:
    return isinstance(value, type) and value.__module__.partition(".")[0] not in _FOREIGN_PACKAGES
