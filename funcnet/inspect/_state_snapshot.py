"""Everything that a call could leave changed, with the expression by which user code reads it.

A module holds attributes, its inputs hold containers, and the code of its forward names closures, globals, attributes
of classes, default arguments and caches of functions. All of it is read before the call and again after it.
"""

from __future__ import annotations

import logging
import sys
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from funcnet.core import Net
from funcnet.foreign.internals import named_modules
from funcnet.inspect._code_locations import is_of_users
from funcnet.inspect._object_contents import (
    ClassAttributes,
    ContentDifference,
    Contents,
    NamedGlobals,
    ProcessSettings,
    find_differences,
    format_key,
    is_function_cache,
    is_generator,
    iter_attributes,
    read_contents,
    write_back,
)
from funcnet.tree import join

_MAX_OBJECTS = 50_000
_MAX_ITEMS = 10_000  # the items of longer containers are compared, and not looked into
_UNWATCHED_CLASSES = (
    *(str, bytes, int, float, complex, bool, type(None), type(...), slice, range, types.BuiltinFunctionType),
    *(types.CodeType, logging.Logger),
)


class Place(NamedTuple):
    """Where something is held.

    Attributes:
        owner: the path of the module that holds it; None for inputs, globals and what else no module holds.
        name: how it is read: after ``self`` where a module holds it, as in ``".cache['k']"``; else in words.
    """

    owner: str | None
    name: str

    def describe_place(self, path: str) -> str:
        """The place as the code of the module at a path would name it."""
        if self.owner is None:
            return self.name
        if self.owner == path or not self.owner:
            return f"self{self.name}" if self.owner == path else f"{self.name.lstrip('.')} of the root"
        return join(self.owner, self.name.lstrip("."))


class Change(NamedTuple):
    """One place that holds something else after a call.

    Attributes:
        place: the place.
        holder: the place of the object that holds it.
        kind: the kind of effect that it is.
        verb, values: words about what was done.
    """

    place: Place
    holder: Place
    kind: str
    verb: str
    values: str


class _Record(NamedTuple):
    obj: Any
    place: Place
    role: str  # "module", "inputs" or "code"
    is_own_dict: bool
    before: Contents


class StateSnapshot:
    """What can be reached from a module, its inputs and its code, as it is when the snapshot is made.

    Args:
        module: the module that will be called.
        inputs: pairs of a name and an input.
        only: record these places alone; None for all of them.
    """

    def __init__(self, module: nn.Module, inputs: Iterable[tuple[str, object]], only: set[Place] | None = None) -> None:
        self.is_complete = True
        self._only = only
        self._records: list[_Record] = []
        self._seen: dict[int, object] = {}
        self._exempt = {id(tensor) for tensor in (*module.parameters(), *module.buffers())}
        self._packages = {type(part).__module__.partition(".")[0] for part in module.modules()}
        self._classes: dict[type, set[str]] = {}
        self._globals: dict[int, NamedGlobals] = {}
        self._names = {"forward", "__call__"}
        self._user_code: dict[str, bool] = {}
        parts = [(part, Place(path, ""), "module") for path, part in named_modules(module)]
        self._walk(parts)
        self._walk([(value, Place(None, name), "inputs") for name, value in inputs])
        self._walk_code()
        self._note_contents(ProcessSettings(), Place(None, "the settings of the process"), "code")

    def list_changes(self) -> dict[Place, Change]:
        """What is held now where something else was held when the snapshot was made."""
        changes: dict[Place, Change] = {}
        for record in self._records:
            for difference in self._compare(record, record.before):
                change = _make_change(record, difference)
                if change is not None:
                    changes.setdefault(change.place, change)
        return changes

    def make_poll(self) -> Callable[[], list[Place]]:
        """A function that returns the places that have changed since it was called last."""
        return _Poll(self._records)

    def restore_contents(self) -> None:
        """Put back what was held."""
        for record in self._records:
            if self._compare(record, record.before):
                write_back(record.obj, record.before)

    def restore_generators(self) -> None:
        """Put back the generators of random numbers that the module holds."""
        for record in self._records:
            if is_generator(record.obj):
                write_back(record.obj, record.before)

    @staticmethod
    def _compare(record: _Record, before: Contents) -> list[ContentDifference]:
        after = read_contents(record.obj)
        return [] if after is None else find_differences(before, after, record.is_own_dict)

    # --- what is reached ---

    def _walk(self, starts: Sequence[tuple[Any, Place, str]]) -> None:
        """Record objects and everything that they hold, those that are nearest first."""
        waiting = deque(starts)
        while waiting:
            obj, place, role = waiting.popleft()
            if not self._is_new(obj):
                continue
            if len(self._seen) > _MAX_OBJECTS:
                self.is_complete = False
                return
            self._seen[id(obj)] = obj
            if isinstance(obj, type):
                self._classes.setdefault(obj, set())
                continue
            self._note_contents(obj, place, role)
            waiting.extend((child, child_place, role) for child, child_place in self._iter_children(obj, place))

    def _note_contents(self, obj: Any, place: Place, role: str, is_own_dict: bool = False) -> None:
        if self._only is not None and place not in self._only:
            return
        if isinstance(obj, Tensor) and (id(obj) in self._exempt or role == "inputs"):
            return
        if isinstance(obj, (Net, types.ModuleType)):
            return  # nets are immutable, and of a Python module only those globals matter that the code names
        contents = read_contents(obj, keeps_values=role == "code")
        if contents is not None:
            self._records.append(_Record(obj, place, role, is_own_dict, contents))

    def _is_new(self, obj: object) -> bool:
        """Whether an object was not reached before, and can hold something."""
        if id(obj) in self._seen:
            return False
        if isinstance(obj, type):
            return self._is_user_code(obj.__module__)
        return not isinstance(obj, _UNWATCHED_CLASSES)

    def _iter_children(self, obj: Any, place: Place) -> Iterator[tuple[Any, Place]]:
        owner, name = place
        yield type(obj), place
        if isinstance(obj, nn.Module):
            for dict_name in ("_parameters", "_modules"):
                self._note_contents(obj.__dict__[dict_name], place, "module", is_own_dict=True)
        if isinstance(obj, types.FunctionType):
            yield from self._iter_children_of_function(obj)
            return
        if isinstance(obj, types.CellType):
            contents = read_contents(obj) or Contents()
            yield from ((value, place) for value in (contents.attributes or {}).values())
            return
        if isinstance(obj, types.ModuleType):
            if self._is_user_code(obj.__name__):
                self._globals.setdefault(id(vars(obj)), NamedGlobals(vars(obj), set()))
            return
        if isinstance(obj, (types.MethodType, partial)):
            yield obj.__func__ if isinstance(obj, types.MethodType) else obj.func, place
            values = (obj.__self__,) if isinstance(obj, types.MethodType) else (*obj.args, *obj.keywords.values())
            yield from ((value, place) for value in values)
            return
        if is_function_cache(obj):
            yield obj.__wrapped__, place
        if isinstance(obj, (list, tuple, deque, set, frozenset)) and len(obj) <= _MAX_ITEMS:
            yield from ((value, Place(owner, f"{name}[{index}]")) for index, value in enumerate(obj))
        elif isinstance(obj, dict) and len(obj) <= _MAX_ITEMS:
            yield from ((value, Place(owner, f"{name}[{format_key(key)}]")) for key, value in dict.items(obj))
        if not isinstance(obj, Tensor):
            yield from ((value, Place(owner, f"{name}.{attribute}")) for attribute, value in iter_attributes(obj))

    # --- what code names ---

    def _is_user_code(self, module_name: str) -> bool:
        """Whether a Python module belongs to the user, or to the library that the module comes from."""
        if module_name not in self._user_code:
            package = module_name.partition(".")[0]
            file = getattr(sys.modules.get(module_name), "__file__", None) or ""
            is_installed = "site-packages" in file or "dist-packages" in file
            self._user_code[module_name] = is_of_users(package) and (package in self._packages or not is_installed)
        return self._user_code[module_name]

    def _iter_children_of_function(self, function: types.FunctionType) -> Iterator[tuple[Any, Place]]:
        code = function.__code__
        for variable, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            yield cell, Place(None, f"{variable} (closed over by {function.__name__})")
        positional = code.co_varnames[: code.co_argcount]
        defaults = function.__defaults__ or ()
        named = dict(zip(positional[len(positional) - len(defaults) :], defaults, strict=True))
        for argument, value in {**named, **(function.__kwdefaults__ or {})}.items():
            yield value, Place(None, f"{argument} (a default of {function.__name__})")
        if self._is_user_code(function.__module__ or ""):
            names = set(_iter_names(code))
            self._names |= names
            named_globals = self._globals.setdefault(
                id(function.__globals__), NamedGlobals(function.__globals__, set())
            )
            named_globals.names.update(names & set(function.__globals__))
            named_globals.names.update(_iter_global_assignments(code))

    def _walk_code(self) -> None:
        """Walk what the code names in globals and classes, until it names nothing new."""
        walked: set[tuple[int, str]] = set()
        while True:
            starts: list[tuple[Any, Place, str]] = []
            for named_globals in list(self._globals.values()):
                named_globals.names.update(name for name in self._names if name in named_globals.namespace)
                for name in sorted(
                    named_globals.names - {name for key, name in walked if key == id(named_globals.namespace)}
                ):
                    walked.add((id(named_globals.namespace), name))
                    if not name.startswith("__"):
                        starts.append((named_globals.namespace.get(name), Place(None, f"the global {name}"), "code"))
            for cls, names in list(self._classes.items()):
                for name in sorted(self._names - names):
                    names.add(name)
                    if name in vars(cls):
                        member = vars(cls)[name]
                        values = [getattr(member, "__func__", member)]
                        values += [getattr(member, part, None) for part in ("fget", "fset")]
                        place = Place(None, f"{cls.__qualname__.rpartition('.')[2]}.{name}")
                        starts.extend((value, place, "code") for value in values)
                starts.extend((base, Place(None, ""), "code") for base in cls.__mro__[1:])
            starts = [start for start in starts if self._is_new(start[0])]
            if not starts:
                break
            self._walk(starts)
        for named_globals in self._globals.values():
            named_globals.names.difference_update({name for name in named_globals.names if name.startswith("__")})
            self._note_contents(named_globals, Place(None, "the global"), "code")
        for cls in self._classes:
            names = {name for name in self._names if not (name.startswith("__") and name.endswith("__"))}
            place = Place(None, cls.__qualname__.rpartition(".")[2])
            self._note_contents(ClassAttributes(cls, names), place, "code")


class _Poll:
    """The places that have changed since it was called last."""

    def __init__(self, records: Sequence[_Record]) -> None:
        self._last = [(record, record.before) for record in records]

    def __call__(self) -> list[Place]:
        places: list[Place] = []
        for index, (record, before) in enumerate(self._last):
            after = read_contents(record.obj)
            if after is None:
                continue
            differences = find_differences(before, after, record.is_own_dict)
            if differences:
                self._last[index] = (record, after)
                changes = (_make_change(record, difference) for difference in differences)
                places += [change.place for change in changes if change is not None]
        return places


def _make_change(record: _Record, difference: ContentDifference) -> Change | None:
    """A difference in the words of the report; None for a draw from torch's own generator, which is reported so."""
    suffix, verb, values = difference
    name = record.place.name
    if isinstance(record.obj, NamedGlobals):
        suffix = suffix.replace(".", " ", 1)
    if isinstance(record.obj, ProcessSettings):
        shown = "" if values.startswith(" from (") else values  # the whole environment would not be
        return Change(Place(None, suffix.lstrip(".")), record.place, "changes setting", "changes", shown)
    place = Place(record.place.owner, name + suffix)
    if is_generator(record.obj):
        if type(record.obj).__module__.startswith("torch"):
            return None
        return Change(place, record.place, "draws", "advances", "")
    if is_function_cache(record.obj):
        place = Place(None, f"the cache of {getattr(record.obj, '__name__', name)}")
        return Change(place, record.place, "keeps state", "uses", "")
    kind = "mutates input" if record.role == "inputs" else "keeps state"
    return Change(place, record.place, kind, verb, values)


def _iter_names(code: types.CodeType) -> Iterator[str]:
    """The globals and attributes that code names, also in the functions that it makes."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _iter_names(constant)


def _iter_global_assignments(code: types.CodeType) -> Iterator[str]:
    """The globals that code assigns, which need not exist before."""
    import dis

    for instruction in dis.get_instructions(code):
        if instruction.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            yield str(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _iter_global_assignments(constant)
