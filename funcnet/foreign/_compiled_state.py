"""What a forward changes in its copy while the compiler traces it, and how it is put back in the code that is traced.

The compiler keeps what the code that it traces does to objects, and does it again in every call. The copy that it
traces is one for all calls, so a counter, a cache or a log would reach the next call. Here all that the code of the
module can write to is put back at the end of the call, in words that the compiler traces: it sees that nothing has
changed. (A deque it does not trace, and runs such a forward as plain code.)
"""

from __future__ import annotations

import dis
import inspect
from collections.abc import Iterator
from types import FunctionType
from typing import Any, TypeAlias

from torch import Tensor, nn

from funcnet._errors import TransformError, bullet_list
from funcnet._reachable import collect_reachable
from funcnet.core.internals import iter_code
from funcnet.foreign._code_words import iter_code_of_calls

_OwnerAndName: TypeAlias = tuple[Any, str]

_DICTS_OF_TORCH = frozenset({"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "training"})
_SETTERS = frozenset({"setattr", "__setattr__", "__dict__", "vars", "delattr"})
_WRITING_METHODS = frozenset(
    {"append", "extend", "insert", "pop", "popitem", "remove", "clear", "update", "setdefault", "add", "discard"}
    | {"sort", "reverse", "difference_update", "intersection_update", "symmetric_difference_update"}
)
_SETTERS_OF_PLAIN_OBJECTS: tuple[object, ...] = (object.__setattr__, nn.Module.__setattr__)


class CompiledState:
    """The attributes and containers of a module that its code can write to, as they were when this was made.

    Args:
        module: the copy that the compiler traces.
        words: the words in its code.
        writes_in_place: whether its code may write to tensors.

    Raises:
        TransformError: if its code assigns to a variable outside of a function, which the compiler cannot put back.
    """

    def __init__(self, module: nn.Module, words: frozenset[str], writes_in_place: bool) -> None:
        stored = set(_iter_stored_names(function for function, _ in iter_code_of_calls(module)))
        stores_any = not words.isdisjoint(_SETTERS)
        stores_items = not words.isdisjoint(_WRITING_METHODS) or "" in stored
        tensor_ids = {id(tensor) for tensor in (*module.parameters(), *module.buffers())}
        objects = [obj for obj in collect_reachable(module).values() if not isinstance(obj, (Tensor, FunctionType))]
        dicts_of_objects = {id(vars(obj)) for obj in objects if hasattr(obj, "__dict__")}
        for submodule in module.modules():
            dicts_of_objects |= {id(vars(submodule)[name]) for name in _DICTS_OF_TORCH - {"training"}}
        self._attributes: list[tuple[Any, str, Any]] = []
        self._absent: list[_OwnerAndName] = []
        self._tensors: list[tuple[Any, str, Tensor]] = []
        self._lists: list[tuple[list[Any], tuple[Any, ...]]] = []
        self._dicts: list[tuple[dict[Any, Any], tuple[tuple[Any, Any], ...]]] = []
        self._sets: list[tuple[set[Any], tuple[Any, ...]]] = []
        self._items: list[tuple[Any, Any, Tensor]] = []
        _refuse_outer_variables(module)
        for obj in objects:
            if isinstance(obj, list) and stores_items:
                self._lists.append((obj, tuple(obj)))
            elif isinstance(obj, dict) and stores_items and id(obj) not in dicts_of_objects:
                self._dicts.append((obj, tuple(obj.items())))
            elif isinstance(obj, set) and stores_items and id(obj) not in dicts_of_objects:
                self._sets.append((obj, tuple(obj)))
            if writes_in_place and isinstance(obj, (list, dict)) and id(obj) not in dicts_of_objects:
                pairs = obj.items() if isinstance(obj, dict) else enumerate(obj)
                self._items += [
                    (obj, key, item) for key, item in pairs if isinstance(item, Tensor) and id(item) not in tensor_ids
                ]
            is_of_library = type(obj).__module__.startswith(("torch.", "funcnet."))
            if not hasattr(obj, "__dict__") or is_of_library or type(obj).__setattr__ not in _SETTERS_OF_PLAIN_OBJECTS:
                continue
            _adopt_defaults(obj, stored)
            attributes = vars(obj)
            for name, value in attributes.items():
                if name in _DICTS_OF_TORCH or id(value) in tensor_ids:
                    continue
                if isinstance(value, Tensor) and writes_in_place:
                    self._tensors.append((obj, name, value))
                elif name in stored or (stores_any and name in words):
                    self._attributes.append((obj, name, value))
            known = {*attributes, *dir(type(obj))}
            if isinstance(obj, nn.Module):
                known.update(obj._parameters, obj._buffers, obj._modules)
            self._absent += [(obj, name) for name in stored.difference(known, ("",))]

    def begin(self) -> None:
        """Put copies of the tensors in the place of those that the code may write to."""
        for owner, name, tensor in self._tensors:
            setattr(owner, name, tensor.clone())
        for container, key, tensor in self._items:
            container[key] = tensor.clone()

    def restore(self) -> None:
        """Put everything back; what has not changed costs nothing once it is compiled."""
        for owner, name, tensor in self._tensors:
            setattr(owner, name, tensor)
        for owner, name, value in self._attributes:
            setattr(owner, name, value)
        for owner, name in self._absent:
            if hasattr(owner, name):
                delattr(owner, name)
        for container, key, tensor in self._items:
            container[key] = tensor
        for values, items in self._lists:
            if len(values) != len(items) or any(left is not right for left, right in zip(values, items, strict=True)):
                values[:] = items
        for members, items in self._sets:
            if len(members) != len(items) or any(item not in members for item in items):
                members.clear()
                members.update(items)
        for mapping, pairs in self._dicts:
            if len(mapping) != len(pairs) or any(mapping.get(key, self) is not item for key, item in pairs):
                mapping.clear()
                mapping.update(pairs)


def _adopt_defaults(obj: object, names: set[str]) -> None:
    """Give an object attributes of its own in the place of the plain values in its class that code assigns to."""
    for name in names.intersection(dir(type(obj))).difference(vars(obj)):
        value = inspect.getattr_static(type(obj), name)
        if not (callable(value) or hasattr(type(value), "__get__")):
            setattr(obj, name, value)


def _refuse_outer_variables(module: nn.Module) -> None:
    """Refuse functions that a module holds and that assign to variables outside of them."""
    names = [
        f"{instruction.argval!r} in {function.__qualname__}"
        for function in collect_reachable(module).values()
        if isinstance(function, FunctionType)
        for instruction in dis.get_instructions(function)
        if instruction.opname in ("STORE_DEREF", "DELETE_DEREF") and instruction.argval in function.__code__.co_freevars
    ]
    if names:
        raise TransformError(
            f"{type(module).__name__} assigns to variables outside of its functions, which torch.compile cannot put "
            f"back at the end of a call{bullet_list(dict.fromkeys(names))}\n"
            f"Hold the values in attributes of the module."
        )


def _iter_stored_names(functions: Iterator[FunctionType]) -> Iterator[str]:
    """The names of the attributes that code assigns to or deletes; "" where it does so with an item."""
    for function in functions:
        for code in iter_code(function):
            for instruction in dis.get_instructions(code):
                if instruction.opname in ("STORE_ATTR", "DELETE_ATTR"):
                    yield str(instruction.argval)
                elif instruction.opname in ("STORE_SUBSCR", "DELETE_SUBSCR"):
                    yield ""
