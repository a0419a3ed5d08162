"""Whether a body wrote to what the caller gave it: to tensors in place, and to lists, dicts, sets and objects.

A list that grows in a call is a hidden output: the second call gives other numbers. The version counter of a
tensor shows that it was written to. For all other values, the watch remembers the objects they contained before the
call, one level deep, and compares them by identity. So it can name what changed, and restore the containers.
"""

from __future__ import annotations

import array
import dataclasses
import io
import pickle
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from functools import cached_property
from types import FunctionType
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from funcnet._context import unwrap_transforms
from funcnet._errors import PurityError
from funcnet._reachable import ATOM_CLASSES, slot_names
from funcnet._tensors import is_tensordict
from funcnet.core._body_functions import get_defaults
from funcnet.core._net import Net
from funcnet.random.internals import GeneratorStates

AccessPath: TypeAlias = "tuple[AccessPath | None, str, Any]"
"""How a value is read: the access path of its container, a format string, and the key for that format."""

_TENSORDICT_ENTRIES = ("_tensordict", "_non_tensordict", "tensordicts")
_PLAIN_CLASSES = (int, float, complex, str, bytes, bool, type(None))
_NOT_LOOKED_INTO = (*ATOM_CLASSES, nn.Module, Net, Enum)


class ContainerContents(NamedTuple):
    """The contents of a container: values by key for dicts and attributes, by position for sequences."""

    access_path: AccessPath
    container: Any
    kind: str
    keys: list[Any]
    values: list[Any]


class InputWatch:
    """The tensors and containers in some values, as they were before a call.

    Args:
        named_values: pairs of a name for messages, such as "input 0", and a value.
    """

    def __init__(self, named_values: Iterable[tuple[str, Any]]) -> None:
        self._tensors: list[tuple[AccessPath, Tensor, int]] = []
        self._contents: list[ContainerContents] = []
        self._states: list[tuple[AccessPath, Any, object]] = []
        visited: set[int] = set()
        for name, value in named_values:
            self._watch_value((None, "{}", name), value, visited)

    def _watch_value(self, name: AccessPath, value: Any, visited: set[int]) -> None:
        if type(value) is Tensor or isinstance(value, Tensor):  # the first test is faster
            self._tensors.append((name, value, read_version(value)))
            return
        if isinstance(value, _NOT_LOOKED_INTO) or id(value) in visited:
            return
        visited.add(id(value))
        if isinstance(value, tuple):
            for index, item in enumerate(value):
                self._watch_value((name, "{}[{!r}]", index), item, visited)
        state = None if isinstance(value, (tuple, list, dict)) else copy_inner_state(value)
        if state is not None:
            self._states.append((name, value, state))
            return
        if is_tensordict(value):  # the attributes by which it holds its entries; others it sets when it is read
            for attribute in _TENSORDICT_ENTRIES:
                self._watch_value(name, vars(value).get(attribute), visited)
            return
        for kind in _kinds_of(value):
            keys, values = _read_contents(value, kind)
            self._contents.append(ContainerContents(name, value, kind, keys, values))
            if kind != "set":
                form = "{}.{}" if kind in ("attributes", "slots") else "{}[{!r}]"
                for key, item in zip(keys, values, strict=True):
                    self._watch_value((name, form, key), item, visited)

    @property
    def is_empty(self) -> bool:
        """Whether there was nothing that could be written to."""
        return not (self._tensors or self._contents or self._states)

    def list_written_tensors(self) -> list[str]:
        """The names of the tensors that were written to in place, and of other values whose inner state moved."""
        names = [name for name, tensor, version in self._tensors if read_version(tensor) != version]
        names += [name for name, value, state in self._states if copy_inner_state(value) != state]
        return list(map(_format_name, names))

    def restore_containers(self) -> list[str]:
        """Restore the contents of containers, and return a line for each change that was undone."""
        lines: list[str] = []
        for contents in self._contents:
            keys, values = _read_contents(contents.container, contents.kind)
            if not _are_same(values, contents.values) or not _are_same(keys, contents.keys):
                lines += _describe_changes(contents, keys, values)
                _write_contents(contents)
        return lines

    def run_watched(
        self, title: str, body: Callable[..., Any], inputs: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """Run the body of the net of this title; containers are as they were afterwards, also if it fails.

        Raises:
            PurityError: if the body wrote to anything; names what, and how it changed.
        """
        try:
            output = body(*inputs, **kwargs)
        except BaseException:
            self.restore_containers()
            raise
        tensors, changes = self.list_written_tensors(), self.restore_containers()
        if tensors or changes:
            raise write_error(title, tensors, changes)
        return output


def write_error(title: str, tensors: list[str], changes: Iterable[str] = ()) -> PurityError:
    """The error for a body that wrote to what its caller gave it."""
    if tensors:
        return PurityError(
            f"the body of {title} wrote in place to {', '.join(tensors)}, which belongs to the caller and is changed "
            f"now. Write x = x + 1 for x += 1, or work on a clone()."
        )
    return PurityError(
        f"the body of {title} wrote to {'; '.join(changes)}. That belongs to the caller, and is as it was. Build a "
        f"new one and return it: cache = [*cache, new] for cache.append(new), state = {{**state, 'h': new}} for "
        f"state['h'] = new."
    )


def _kinds_of(value: Any) -> Iterator[str]:
    """The ways in which a value contains others."""
    for cls, kind in ((list, "list"), (deque, "deque"), (dict, "dict"), (set, "set")):
        if isinstance(value, cls):
            yield kind
    if callable(value):
        return  # functions, and objects that act as one
    if isinstance(getattr(value, "__dict__", None), dict):
        yield "attributes"
    if type(value).__module__ != "builtins" and next(slot_names(type(value)), None) is not None:
        yield "slots"


def _read_contents(container: Any, kind: str) -> tuple[list[Any], list[Any]]:
    """The keys and values of a container; methods that its class overrides are not called."""
    if kind == "list":
        values = list.copy(container)
        return list(range(len(values))), values
    if kind == "deque":
        values = list(deque.__iter__(container))
        return list(range(len(values))), values
    if kind == "dict":
        base = OrderedDict if isinstance(container, OrderedDict) else dict
        return list(base.keys(container)), list(base.values(container))
    if kind == "set":
        items = sorted(set.__iter__(container), key=id)
        return list(range(len(items))), items
    if kind == "attributes":
        cached = _cached_names(type(container))
        items = [(name, value) for name, value in vars(container).items() if name not in cached]
    else:
        items = [(name, getattr(container, name)) for name in slot_names(type(container)) if hasattr(container, name)]
    return [name for name, _ in items], [value for _, value in items]


def _cached_names(cls: type) -> set[str]:
    """``cached_property`` names; filling one does not count as a write."""
    return {name for base in cls.__mro__ for name, value in vars(base).items() if isinstance(value, cached_property)}


def _write_contents(contents: ContainerContents) -> None:
    """Restore the contents of a container."""
    _, container, kind, keys, values = contents
    if kind == "list":
        list.__setitem__(container, slice(None), values)
    elif kind == "deque":
        deque.clear(container)
        deque.extend(container, values)
    elif kind == "set":
        set.clear(container)
        set.update(container, values)
    elif kind == "dict":
        base = OrderedDict if isinstance(container, OrderedDict) else dict
        base.clear(container)
        for key, value in zip(keys, values, strict=True):
            base.__setitem__(container, key, value)
    elif kind == "attributes":
        for name in set(vars(container)) - _cached_names(type(container)):
            del vars(container)[name]
        vars(container).update(zip(keys, values, strict=True))
    else:
        for name in set(_read_contents(container, kind)[0]) - set(keys):
            object.__delattr__(container, name)
        for name, value in zip(keys, values, strict=True):
            object.__setattr__(container, name, value)


def _are_same(values: list[Any], before: list[Any]) -> bool:
    return len(values) == len(before) and all(map(_is_same, values, before))


def _is_same(value: Any, before: Any) -> bool:
    return value is before or (type(value) is type(before) and type(value) in _PLAIN_CLASSES and value == before)


def _describe_changes(contents: ContainerContents, keys: list[Any], values: list[Any]) -> Iterator[str]:
    """Words for what was added to a container, taken out of it or replaced in it."""
    container_name = _format_name(contents.access_path)
    if contents.kind in ("list", "deque", "set") and len(values) != len(contents.values):
        yield f"{container_name} ({len(contents.values)} items became {len(values)})"
        return
    if contents.kind == "set":
        yield f"{container_name} (other items)"
        return
    form = "{}.{}" if contents.kind in ("attributes", "slots") else "{}[{!r}]"
    before, after = (dict(zip(contents.keys, contents.values, strict=True)), dict(zip(keys, values, strict=True)))
    for key in {**before, **after}:
        if key not in before or key not in after or not _is_same(after[key], before[key]):
            change = "new" if key not in before else "gone" if key not in after else "another value"
            yield f"{form.format(container_name, key)} ({change})"
    if list(before) != list(after) and before.keys() == after.keys():
        yield f"{container_name} (another order)"


def _format_name(name: AccessPath) -> str:
    holder, form, key = name
    return form.format(key) if holder is None else form.format(_format_name(holder), key)


def name_inputs(inputs: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The inputs of a call with their names in messages."""
    named: list[tuple[str, Any]] = [(f"input {index}", value) for index, value in enumerate(inputs)]
    return named + [(f"input {name!r}", value) for name, value in kwargs.items()]


def read_version(tensor: Tensor) -> int:
    """How often a tensor was written to; constant for inference tensors, which do not count."""
    if not torch.compiler.is_compiling():
        tensor = unwrap_transforms(tensor)  # a batch has the version of the tensor that it is a view of
    try:
        return tensor._version
    except RuntimeError:  # not asked by is_inference, which the compiler cannot trace
        return -1


def copy_inner_state(value: Any) -> object:
    """A copy of the inner state of a value such as a generator; None for other values."""
    if type(value) is torch.Generator:
        return GeneratorStates([value])
    if hasattr(value, "getstate"):  # random.Random; the compiler cannot test for this class
        state: object = value.getstate()
        return state
    if isinstance(value, (bytearray, memoryview, array.array)) or hasattr(value, "__array_interface__"):
        return bytes(value) if isinstance(value, bytearray) else value.tobytes()
    if isinstance(value, (io.StringIO, io.BytesIO)):
        return value.tell(), value.getvalue()
    if type(value).__module__.partition(".")[0] == "numpy" and (state := _state_of_numpy_generator(value)) is not None:
        return pickle.dumps(state)  # it holds arrays, which have no equality
    return None


def _state_of_numpy_generator(value: Any) -> object:
    """The state of a Generator, a BitGenerator or a RandomState of NumPy; None for other values."""
    if hasattr(value, "bit_generator"):
        value = value.bit_generator
    if hasattr(value, "get_state"):
        legacy_state: object = value.get_state(legacy=False)
        return legacy_state
    return getattr(value, "state", None)


def iter_mutable_defaults(functions: list[FunctionType]) -> Iterator[tuple[str, Any]]:
    """Defaults of arguments that a body could write to, with their names: all calls of the function share them."""
    for function in functions:
        for name, value in get_defaults(function).items():
            named = [(f"the default of {name!r} in {function.__qualname__}", value)]
            if not isinstance(value, Tensor) and not InputWatch(named).is_empty:
                yield named[0]


# --- in compiled code ---


def run_and_compare_when_compiled(
    title: str, body: Callable[..., Any], inputs: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """Run a body that is being compiled, and refuse writes to lists, dicts and dataclasses, which the compiler repeats.

    The compiler traces this function, so it uses only what the compiler supports, and checks no other objects.
    """
    before = [(name, value, _copy_simple(value)) for name, value in _list_simple(name_inputs(inputs, kwargs))]
    output = body(*inputs, **kwargs)
    for name, value, items in before:
        now = _copy_simple(value)
        if len(now) != len(items) or not all(
            key == old_key and item is old_item
            for (key, item), (old_key, old_item) in zip(now, items)  # noqa: B905  # the compiler knows no strict=
        ):
            raise write_error(title, [], [name])
    return output


def _list_simple(named_values: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """The lists, dicts and dataclasses in some values."""
    simple = []
    for name, value in named_values:
        is_record = is_tensordict(value) or dataclasses.is_dataclass(value)
        if isinstance(value, (list, dict)) or is_record:
            simple.append((name, value))
        if isinstance(value, (list, dict, tuple)) or is_record:
            simple += _list_simple([(f"{name}[{key!r}]", item) for key, item in _copy_simple(value)])
    return simple


def _copy_simple(value: Any) -> list[tuple[Any, Any]]:
    """Keys and values, or positions and items, at this moment."""
    if isinstance(value, (list, tuple)):
        return list(enumerate(value))
    if isinstance(value, dict) or is_tensordict(value):
        return list(value.items())
    return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
