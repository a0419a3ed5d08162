"""Whether a body wrote to what the caller gave it: to tensors in place, and to lists, dicts, sets and objects.

A list that grows in a call is a hidden output: the second call gives other numbers. The version counter of a
tensor shows that it was written to. For all other values, the watch remembers the objects they contained before the
call, one level deep, and compares them by identity. So it can name what changed, and restore the containers.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from enum import Enum
from functools import cached_property
from types import CellType, FunctionType
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from funcnet._context import unwrap_transforms
from funcnet._errors import PurityError
from funcnet._reachable import ATOM_CLASSES, is_assigned, slot_names
from funcnet._tensors import is_tensordict
from funcnet.core._inner_states import copy_inner_state, is_generator_of_numbers, read_progress
from funcnet.core._net import Net
from funcnet.core._tensor_records import TensorRecord, record_tensor

AccessPath: TypeAlias = "tuple[AccessPath | None, str, Any]"
"""How a value is read: the access path of its container, a format string, and the key for that format."""

_TENSORDICT_ENTRIES = ("_tensordict", "_non_tensordict", "tensordicts")
_NO_VALUE = object()
_PLAIN_CLASSES = (int, float, complex, str, bytes, bool, type(None))
_NOT_LOOKED_INTO = (*ATOM_CLASSES, Net, Enum)


@dataclasses.dataclass(frozen=True, eq=False)
class Variable:
    """A variable outside of a function that its code assigns to; the watch reads it, and puts it back."""

    home: dict[str, Any] | CellType | ContextVar[Any]
    name: str

    def read(self) -> list[Any]:
        """The value in a list, which is empty where there is none."""
        if isinstance(self.home, CellType):
            return [self.home.cell_contents] if is_assigned(self.home) else []
        if isinstance(self.home, ContextVar):
            value = self.home.get(_NO_VALUE)
            return [] if value is _NO_VALUE else [value]
        return [self.home[self.name]] if self.name in self.home else []

    def write(self, values: list[Any]) -> None:
        """Put back what :meth:`read` returned."""
        if isinstance(self.home, CellType):
            self.home.cell_contents = values[0] if values else None
        elif isinstance(self.home, ContextVar):
            if values:
                self.home.set(values[0])
        elif values:
            self.home[self.name] = values[0]
        else:
            self.home.pop(self.name, None)


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
        records_tensors: whether to look for what the version of a tensor does not show (see ``_tensor_records``).
        has_bits: whether to copy the numbers of tensors for that.
        is_shared: whether other calls and threads share the values, so that they are put back in a single thread only.
    """

    def __init__(
        self,
        named_values: Iterable[tuple[str, Any]],
        records_tensors: bool = False,
        has_bits: bool = False,
        is_shared: bool = False,
    ) -> None:
        self._is_shared = is_shared
        self._tensors: list[tuple[AccessPath, Tensor, int]] = []
        self._records: list[tuple[AccessPath, TensorRecord]] = []
        self._contents: list[ContainerContents] = []
        self._states: list[tuple[AccessPath, Any, object]] = []
        self._records_tensors, self._has_bits = records_tensors or has_bits, has_bits
        visited: set[int] = set()
        for name, value in named_values:
            if isinstance(value, (type, Net)):
                kind = "class" if isinstance(value, type) else "attributes"
                self._watch_contents((None, "{}", name), value, kind, visited)
            else:
                self._watch_value((None, "{}", name), value, visited)

    def _watch_value(self, name: AccessPath, value: Any, visited: set[int]) -> None:
        if type(value) is Tensor or isinstance(value, Tensor):  # the first test is faster
            self._tensors.append((name, value, read_version(value)))
            if self._records_tensors and (record := record_tensor(value, self._has_bits)) is not None:
                self._records.append((name, record))
            return
        if isinstance(value, _NOT_LOOKED_INTO) or id(value) in visited:
            return
        visited.add(id(value))
        if isinstance(value, tuple):
            for index, item in enumerate(value):
                self._watch_value((name, "{}[{!r}]", index), item, visited)
        state = None if isinstance(value, (tuple, list, dict)) else copy_state(value)
        if state is not None:
            self._states.append((name, value, state))
            return
        if is_tensordict(value):  # the attributes by which it holds its entries; others it sets when it is read
            for attribute in _TENSORDICT_ENTRIES:
                self._watch_value(name, vars(value).get(attribute), visited)
            return
        for kind in _kinds_of(value):
            self._watch_contents(name, value, kind, visited)

    def _watch_contents(self, name: AccessPath, container: Any, kind: str, visited: set[int]) -> None:
        keys, values = _read_contents(container, kind)
        self._contents.append(ContainerContents(name, container, kind, keys, values))
        if kind not in ("set", "class"):
            form = _format_of_key(kind)
            for key, item in zip(keys, values, strict=True):
                self._watch_value((name, form, key), item, visited)

    @property
    def size(self) -> int:
        """How many tensors and containers are watched."""
        return len(self._tensors) + len(self._contents) + len(self._states)

    def list_written_tensors(self) -> list[str]:
        """The names of the tensors that were written to in place, and of other values whose inner state moved."""
        names = [name for name, tensor, version in self._tensors if read_version(tensor) != version]
        names += [name for name, value, state in self._states if copy_state(value) != state]
        return list(map(_format_name, names))

    def list_used_generators(self) -> list[str]:
        """The names of the generators of random numbers that drew."""
        states = [(name, value, state) for name, value, state in self._states if is_generator_of_numbers(value)]
        return [_format_name(name) for name, value, state in states if copy_state(value) != state]

    def undo_changes_of_tensors(self) -> list[str]:
        """Undo what was done to tensors besides writing to them in place, and return a line for each change."""
        changes = [(name, change) for name, record in self._records for change in record.undo_changes()]
        return [f"{_format_name(name)} ({change})" for name, change in changes]

    def restore_containers(self) -> list[str]:
        """Restore the contents of containers, and return a line for each change that was undone."""
        lines: list[str] = []
        for contents in self._contents:
            keys, values = _read_contents(contents.container, contents.kind)
            if not _are_same(values, contents.values) or not _are_same(keys, contents.keys):
                lines += _describe_changes(contents, keys, values)
                if not self._is_shared or threading.active_count() == 1:
                    _write_contents(contents)
        return lines

    def check(self, title: str) -> None:
        """Refuse what the body of the net of this title did to the values, and undo what can be undone.

        Raises:
            PurityError: if it wrote to anything, or drew from a generator; names what, and how it changed.
        """
        if generators := self.list_used_generators():
            raise PurityError(
                f"the body of {title} wrote in place to {', '.join(generators)}: a draw moved it. Draw from the rng of "
                f"the call: funcnet.random.uniform(p.rng, shape), or torch.rand(shape)."
            )
        tensors = self.list_written_tensors()
        changes, undone = self.restore_containers(), self.undo_changes_of_tensors()
        if self._is_shared and (tensors or changes or undone):
            raise _shared_write_error(title, [*tensors, *changes, *undone])
        if tensors or changes:
            raise write_error(title, tensors, changes)
        if undone:
            raise PurityError(
                f"the body of {title} changed {'; '.join(undone)}. That belongs to the caller, and is as it was. Work "
                f"on x.detach().clone(), and return what is to be known outside."
            )

    def undo(self) -> None:
        """Put back what can be put back, after a body failed."""
        self.restore_containers()
        self.undo_changes_of_tensors()


def _shared_write_error(title: str, changes: list[str]) -> PurityError:
    """The error for a body that wrote to what all its calls share."""
    return PurityError(
        f"the body of {title} wrote to {'; '.join(changes)}. All calls share that, so calls with equal arguments would "
        f"differ. Take it as an input and return the new one, or hold a tensor in a buffer; to compute a value once, "
        f"decorate the function that computes it with functools.cache."
    )


def write_error(title: str, tensors: list[str], changes: Iterable[str] = ()) -> PurityError:
    """The error for a body that wrote to what its caller gave it, or to what all calls share."""
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
    for cls, kind in ((list, "list"), (deque, "deque"), (dict, "dict"), (set, "set"), (Variable, "variable")):
        if isinstance(value, cls):
            yield kind
            if kind == "variable":
                return
    if callable(value) and not any(
        isinstance(vars(base).get("__call__"), FunctionType) for base in type(value).__mro__
    ):
        return  # functions, and callables of Python itself
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
    if kind == "variable":
        values = container.read()
        return [container.name] * len(values), values
    if kind == "class":
        items = [(name, value) for name, value in vars(container).items() if not name.startswith("_abc_")]
    elif kind == "attributes":
        items = [(name, value) for name, value in vars(container).items() if not _is_cached(container, name)]
    else:
        items = [(name, getattr(container, name)) for name in slot_names(type(container)) if hasattr(container, name)]
    return [name for name, _ in items], [value for _, value in items]


def _is_cached(container: Any, name: str) -> bool:
    """Whether an attribute holds what was computed once: a ``cached_property``, or what a net remembers of itself."""
    if isinstance(container, Net):
        return name.startswith("_")
    return any(isinstance(vars(base).get(name), cached_property) for base in type(container).__mro__)


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
    elif kind == "variable":
        container.write(values)
    elif kind == "class":
        before = dict(zip(keys, values, strict=True))
        for name in set(_read_contents(container, kind)[0]) - set(keys):
            delattr(container, name)
        for name, value in before.items():
            if vars(container).get(name) is not value:
                setattr(container, name, value)
    elif kind == "attributes":
        for name in [name for name in vars(container) if not _is_cached(container, name)]:
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
    form = _format_of_key(contents.kind)
    before, after = (dict(zip(contents.keys, contents.values, strict=True)), dict(zip(keys, values, strict=True)))
    for key in {**before, **after}:
        if key not in before or key not in after or not _is_same(after[key], before[key]):
            change = "new" if key not in before else "gone" if key not in after else "another value"
            yield f"{form.format(container_name, key)} ({change})"
    if list(before) != list(after) and before.keys() == after.keys():
        yield f"{container_name} (another order)"


def _format_of_key(kind: str) -> str:
    """How a container of a kind and a key are put together to the name of a value."""
    return "{}" if kind == "variable" else "{}.{}" if kind in ("attributes", "slots", "class") else "{}[{!r}]"


def _format_name(name: AccessPath) -> str:
    holder, form, key = name
    return form.format(key) if holder is None else form.format(_format_name(holder), key)


def copy_state(value: Any) -> object:
    """What shows that a value which holds no others was written to, or moved on; None for other values."""
    state = copy_inner_state(value)
    return read_progress(value) if state is None else state


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
