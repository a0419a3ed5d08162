"""What a value holds, one level or all the way down: containers, attributes, slots, closures and defaults."""

from __future__ import annotations

import logging
import types
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from funcnet._tensors import is_tensordict
from funcnet._torch import module_inside_wrapper

ATOM_CLASSES = (
    *(str, bytes, int, float, complex, bool, type(None), type(...), type, slice, range),
    *(types.ModuleType, types.BuiltinFunctionType, types.CodeType, logging.Logger),
    *(torch.dtype, torch.device, torch.Size, torch.memory_format, torch.layout, torch.finfo, torch.iinfo),
)
"""Classes of values that hold nothing which could be changed."""


class CellContents(MutableMapping[types.CellType, Any]):
    """The contents of closures as a mapping whose keys are the cells."""

    def __getitem__(self, cell: types.CellType) -> Any:
        return cell.cell_contents

    def __setitem__(self, cell: types.CellType, value: object) -> None:
        cell.cell_contents = value

    def __delitem__(self, cell: types.CellType) -> None: ...
    def __iter__(self) -> Iterator[types.CellType]:
        return iter(())

    def __len__(self) -> int:
        return 0


_CELL_CONTENTS = CellContents()


def iter_containers(value: object) -> Iterator[tuple[Any, Iterable[Any]]]:
    """What a value holds, as pairs of a container and its keys: each ``container[key]`` is one value that it holds."""
    if isinstance(value, (*ATOM_CLASSES, Tensor, weakref.ref)):
        return
    if isinstance(value, types.FunctionType):
        yield _CELL_CONTENTS, [cell for cell in value.__closure__ or () if is_assigned(cell)]
        yield value.__defaults__ or (), range(len(value.__defaults__ or ()))
        yield value.__kwdefaults__ or {}, list(value.__kwdefaults__ or {})
        yield value.__dict__, list(value.__dict__)
        return
    if isinstance(value, (types.MethodType, partial)):
        parts = (value.__func__, value.__self__) if isinstance(value, types.MethodType) else value.__reduce__()[2]
        yield parts, range(len(parts))
        return
    if isinstance(value, (list, tuple, deque)):
        yield value, range(len(value))
    elif isinstance(value, (set, frozenset)):
        yield (items := list(value)), range(len(items))
    elif isinstance(value, Mapping) and not is_tensordict(value):  # a TensorDict holds its entries in an attribute
        yield value, list(value)
        yield (keys := list(value)), range(len(keys))
    attributes = getattr(value, "__dict__", None)
    if isinstance(attributes, dict):
        # The attribute left out is the code that module.compile() made; it is not copied.
        yield attributes, [name for name in attributes if name != "_compiled_call_impl"]
    slots = {name: getattr(value, name) for name in slot_names(type(value)) if hasattr(value, name)}
    yield slots, list(slots)


def collect_reachable(value: object) -> dict[int, Any]:
    """All objects that can be reached from a value, itself included, by id."""
    objects_by_id: dict[int, Any] = {}
    waiting = [value]
    while waiting:
        obj = waiting.pop()
        if id(obj) in objects_by_id or isinstance(obj, ATOM_CLASSES):
            continue
        objects_by_id[id(obj)] = obj
        if isinstance(obj, nn.Module) and (inner := module_inside_wrapper(obj)) is not None:
            waiting.append(inner)  # the compiler's own state is not looked at
            continue
        for container, keys in iter_containers(obj):
            waiting += [container[key] for key in keys]
    return objects_by_id


def is_assigned(cell: types.CellType) -> bool:
    """Whether the name that a cell stands for has a value yet."""
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def slot_names(cls: type) -> Iterator[str]:
    """The names of the attributes that instances hold in slots."""
    for base in cls.__mro__:
        if base.__module__ not in ("builtins", "collections"):
            names = base.__dict__.get("__slots__", ())
            yield from (
                name
                for name in ((names,) if isinstance(names, str) else names)
                if name not in ("__dict__", "__weakref__")
            )
