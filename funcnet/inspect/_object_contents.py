"""The contents of one object, one level deep: two readings can be compared, and the first can be written back."""

from __future__ import annotations

import functools
import gc
import random
import types
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from funcnet._global_settings import SETTINGS

_CACHED_FUNCTION = type(functools.cache(abs))
_PLAIN_CLASSES = (int, float, complex, str, bytes, bool, type(None), torch.device, torch.dtype)
_OWN_DICTS = frozenset({"_parameters", "_modules", "_buffers"})
_LEFT_OUT = frozenset({"_non_persistent_buffers_set", "_compiled_call_impl", "__dict__", "__weakref__"})
_LEFT_OUT_OF_MODULES = _LEFT_OUT | {*_OWN_DICTS, "_flat_weights", "_flat_weight_refs"}
"""Attributes that tell nothing: dicts that are read apart, compiled code, and the lists that recurrent layers keep of
their own weights."""


@dataclass(frozen=True)
class NamedGlobals:
    """Those globals of a Python module that some code names, as an object that holds them as attributes."""

    namespace: dict[str, Any]
    names: set[str]

    def __hash__(self) -> int:
        return id(self.namespace)


@dataclass(frozen=True)
class ClassAttributes:
    """Those attributes of a class that some code names."""

    cls: type
    names: set[str]

    def __hash__(self) -> int:
        return id(self.cls)


class ProcessSettings:
    """The settings of the process, such as ``torch.is_grad_enabled()``, as one object with an attribute for each."""


class Contents(NamedTuple):
    """The contents of an object: its items, its attributes, and an inner state without names; None if it lacks one."""

    items: Any = None
    attributes: dict[str, Any] | None = None
    inner: Any = None


class ContentDifference(NamedTuple):
    """A difference between two readings of an object.

    Attributes:
        suffix: what to write after the name of the object to read the value, as in ``".h"`` or ``"['k']"``.
        verb: what was done: "sets", "adds", "removes", "makes", "grows", ...
        values: words about the values, with a space before them; empty if there is nothing to say.
    """

    suffix: str
    verb: str
    values: str = ""


def read_contents(obj: Any, keeps_values: bool = False) -> Contents | None:
    """The present contents of an object; None if it has none that could change.

    Args:
        obj: the object.
        keeps_values: whether a tensor is cloned, so that its values can be written back.
    """
    if isinstance(obj, Tensor):
        return Contents(inner=_TensorState(_read_version(obj), obj.detach().clone() if keeps_values else None))
    if isinstance(obj, types.CellType):
        return Contents(attributes=_read_cell(obj))
    if isinstance(obj, NamedGlobals):
        return Contents(attributes={name: obj.namespace[name] for name in obj.names if name in obj.namespace})
    if isinstance(obj, ProcessSettings):
        return Contents(attributes={setting.name: setting.read() for setting in SETTINGS})
    if isinstance(obj, ClassAttributes):
        return Contents(attributes={name: value for name, value in vars(obj.cls).items() if name in obj.names})
    if isinstance(obj, types.FunctionType):
        return Contents(attributes=dict(obj.__dict__)) if obj.__dict__ else None
    if is_function_cache(obj):
        return Contents(inner=_read_cache_uses(obj))
    inner = _read_inner(obj)
    if inner is not None:
        return Contents(inner=inner)
    items: Any = None
    if isinstance(obj, (list, deque)):
        items = list(obj)
    elif isinstance(obj, set):
        items = set(obj)
    elif isinstance(obj, dict):
        items = dict(dict.items(obj))
    attributes = dict(iter_attributes(obj)) or None
    return None if items is None and attributes is None else Contents(items, attributes)


def iter_attributes(obj: Any) -> Iterator[tuple[str, Any]]:
    """The attributes that an instance holds itself, in its dict and in its slots."""
    own_dict = getattr(obj, "__dict__", None)
    if isinstance(own_dict, dict):
        left_out = _LEFT_OUT_OF_MODULES if isinstance(obj, nn.Module) else _LEFT_OUT
        yield from ((name, value) for name, value in own_dict.items() if name not in left_out)
    for base in type(obj).__mro__ if not isinstance(obj, type) else ():
        slots = base.__dict__.get("__slots__", ()) if base.__module__ not in ("builtins", "collections") else ()
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in _LEFT_OUT and hasattr(obj, name):
                yield name, getattr(obj, name)


def write_back(obj: Any, contents: Contents) -> None:
    """Restore the contents that were read from an object."""
    if isinstance(obj, Tensor):
        version, values = contents.inner
        if values is not None and _read_version(obj) != version:
            with torch.no_grad():
                obj.detach().copy_(values)
        return
    if contents.inner is not None:
        _write_inner(obj, contents.inner)
    if isinstance(contents.items, list):
        obj.clear()
        obj.extend(contents.items)
    elif contents.items is not None:
        (OrderedDict if isinstance(obj, OrderedDict) else dict if isinstance(obj, dict) else set).clear(obj)
        obj.update(contents.items)
    if contents.attributes is not None:
        _write_attributes(obj, contents.attributes)


def _write_attributes(obj: Any, attributes: Mapping[str, Any]) -> None:
    if isinstance(obj, types.CellType):
        if attributes:
            obj.cell_contents = attributes[""]
    elif isinstance(obj, NamedGlobals):
        for name in obj.names - set(attributes):
            obj.namespace.pop(name, None)
        obj.namespace.update(attributes)
    elif isinstance(obj, ProcessSettings):
        for setting in SETTINGS:
            if setting.read() != attributes[setting.name]:
                setting.write(attributes[setting.name])
    elif isinstance(obj, ClassAttributes):
        for name, value in list(vars(obj.cls).items()):
            if name in obj.names and name not in attributes:
                delattr(obj.cls, name)
            elif name in obj.names and value is not attributes[name]:
                setattr(obj.cls, name, attributes[name])
    else:
        own_dict = getattr(obj, "__dict__", {})
        for name in [name for name, _ in iter_attributes(obj) if name not in attributes]:
            object.__delattr__(obj, name)
        for name, value in attributes.items():
            if name in own_dict:
                own_dict[name] = value
            else:
                object.__setattr__(obj, name, value)


# --- comparing ---


def find_differences(before: Contents, after: Contents, is_own_dict: bool = False) -> list[ContentDifference]:
    """The differences between two readings of one object.

    Args:
        before, after: the readings.
        is_own_dict: whether the object is the dict in which a module holds its parameters or submodules.
    """
    differences: list[ContentDifference] = []
    if before.inner is not None and not _are_equal_inside(before.inner, after.inner):
        differences.append(ContentDifference("", "writes to"))
    if isinstance(before.items, dict):
        differences += _compare_named(before.items, after.items, ".{}" if is_own_dict else "[{}]", is_own_dict)
    elif isinstance(before.items, list):
        if len(before.items) != len(after.items):
            differences.append(_describe_size(len(before.items), len(after.items)))
        else:
            differences += _compare_named(dict(enumerate(before.items)), dict(enumerate(after.items)), "[{}]")
    elif before.items is not None and before.items != after.items:
        differences.append(_describe_size(len(before.items), len(after.items)))
    differences += _compare_named(before.attributes or {}, after.attributes or {}, ".{}")
    return differences


def _describe_size(before: int, after: int) -> ContentDifference:
    verb = "grows" if after > before else "shrinks" if after < before else "changes"
    return ContentDifference("", verb, f" from {before} to {after} entries")


def _compare_named(
    before: Mapping[Any, Any], after: Mapping[Any, Any], suffix: str, is_own_dict: bool = False
) -> Iterator[ContentDifference]:
    def suffix_of(name: Any) -> str:
        key = name if suffix == ".{}" else format_key(name)
        return suffix.format(key) if key != "" else ""

    for name, value in after.items():
        name_suffix = suffix_of(name)
        if name not in before:
            if is_own_dict:
                yield ContentDifference(name_suffix, "makes", f", {describe_object(value)}, in the call")
            else:
                yield ContentDifference(name_suffix, "sets", f" to {describe_object(value)}")
        elif not is_same(before[name], value):
            yield ContentDifference(
                name_suffix, "sets", f" from {describe_object(before[name])} to {describe_object(value)}"
            )
    for name in before:
        if name not in after:
            yield ContentDifference(suffix_of(name), "removes")


def format_key(key: object) -> str:
    """A key of a dict as it stands in brackets."""
    return f"{key!r:.60}" if is_plain(key) else describe_object(key)


def is_same(left: Any, right: Any) -> bool:
    """Whether two values are one object, or equal values that cannot change."""
    if left is right:
        return True
    if type(left) is not type(right):
        return False
    if isinstance(left, _PLAIN_CLASSES):
        return bool(left == right or (left != left and right != right))
    if isinstance(left, tuple):
        return len(left) == len(right) and all(map(is_same, left, right))
    if isinstance(left, types.MethodType):
        return left.__func__ is right.__func__ and left.__self__ is right.__self__
    return False


def describe_object(value: object) -> str:
    """A value in a few words."""
    if isinstance(value, Tensor):
        kind = "a parameter" if isinstance(value, nn.Parameter) else "a tensor"
        return f"{kind} of shape {tuple(value.shape)}"
    if is_plain(value):
        text = repr(value)
        return text if len(text) <= 40 else f"{text[:37]}..."
    if isinstance(value, (list, tuple, dict, set, deque)):
        return f"a {type(value).__name__} of {len(value)}"
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def is_plain(value: object) -> bool:
    """Whether a value is a number, text, or the like, or a tuple of such."""
    return isinstance(value, _PLAIN_CLASSES) or (isinstance(value, tuple) and all(map(is_plain, value)))


# --- states without names ---


def is_function_cache(obj: object) -> bool:
    """Whether an object is a function with a cache, as functools.cache and functools.lru_cache make them."""
    return isinstance(obj, _CACHED_FUNCTION)


def _read_cache_uses(cached_function: Any) -> tuple[int, ...]:
    """How often a cache was used, as far as that matters.

    It does not for results without arguments, which are constants of the process, and for numbers and texts, such as
    the answer whether a package is installed.
    """
    referents = gc.get_referents(cached_function)
    cache = next((obj for obj in referents if type(obj) is dict and obj is not vars(cached_function)), {})
    links = {type(value) for value in cache.values() if type(value).__name__ == "_lru_list_elem"}
    if links:  # a cache of limited size is a list of links, whose keys and results stand before their class
        ends = [index for index, obj in enumerate(referents[: referents.index(cache)]) if obj in links and index >= 2]
        results = {index: (referents[index - 2], referents[index - 1]) for index in ends}
    else:
        results = dict(enumerate(cache.items()))
    uses = cached_function.cache_info()
    matters = any(not is_plain(value) and not (type(key) is tuple and not key) for key, value in results.values())
    return (uses.misses, uses.hits) if matters else ()


def _read_version(tensor: Tensor) -> int | None:
    try:
        return tensor._version
    except RuntimeError:  # tensors made in inference mode count no versions
        return None


def _read_cell(cell: types.CellType) -> dict[str, Any]:
    try:
        return {"": cell.cell_contents}
    except ValueError:
        return {}


class _TensorState(NamedTuple):
    """How often a tensor was written to, which is compared, and its values, if they are kept."""

    version: int | None
    values: Tensor | None


class _NumpyState(NamedTuple):
    """The state of a generator of NumPy, and the same as text, because it may hold arrays, which have no equality."""

    text: str
    state: Any


def _read_inner(obj: Any) -> Any:
    if isinstance(obj, (random.Random, torch.Generator)):
        return (obj.getstate if isinstance(obj, random.Random) else obj.get_state)()
    if isinstance(obj, bytearray):
        return bytes(obj)
    # the class is asked, because an object may answer for every name, and import something for it
    if hasattr(type(obj), "__array_interface__"):
        return obj.copy() if obj.dtype != object else None
    if is_generator(obj):
        state = obj.bit_generator.state if hasattr(obj, "bit_generator") else obj.get_state()
        return _NumpyState(repr(state), state)
    return None


def _write_inner(obj: Any, inner: Any) -> None:
    if isinstance(obj, random.Random):
        obj.setstate(inner)
    elif isinstance(obj, torch.Generator):
        obj.set_state(inner)
    elif isinstance(obj, bytearray):
        obj[:] = inner
    elif hasattr(type(obj), "__array_interface__"):
        if obj.flags.writeable:
            obj[...] = inner
    elif hasattr(obj, "bit_generator"):
        obj.bit_generator.state = inner.state
    elif isinstance(inner, _NumpyState):
        obj.set_state(inner.state)


def _are_equal_inside(before: Any, after: Any) -> bool:
    if isinstance(before, Tensor):
        return torch.equal(before, after)
    if hasattr(before, "tobytes"):
        return bool(before.shape == after.shape and before.tobytes() == after.tobytes())
    if isinstance(before, (_NumpyState, _TensorState)):
        return bool(before[0] == after[0])
    return bool(before == after)


def is_generator(obj: object) -> bool:
    """Whether an object is a generator of random numbers."""
    is_of_numpy = type(obj).__module__.partition(".")[0] == "numpy" and type(obj).__name__ in (
        "Generator",
        "RandomState",
    )
    return is_of_numpy or isinstance(obj, (random.Random, torch.Generator))
