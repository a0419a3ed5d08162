"""The dicts, lists and tuples that the names of a checkpoint come from.

Every format knows tensors and values by name: keys joined with dots. Names do not tell a list from a dict, 0 from "0",
the keys "a.b" from the keys "a" and "b", or the order of keys. A structure does: it is what was saved, with None in
place of each tensor and value. Where names alone give the same structure, none is stored.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from funcnet._errors import TreeError
from funcnet.checkpoint._json_values import decode_value, encode_value
from funcnet.checkpoint._pickles._opaque import Opaque, iter_children
from funcnet.checkpoint._pickles._pickled_tensors import PickledStorage, PickledTensor
from funcnet.tree import ABSENT, unflatten

Structure: TypeAlias = Any
"""Nested dicts, lists and tuples; None stands for a tensor or value with a name, and ABSENT for itself."""

_ABSENT_TEXT = "absent"
_MAX_DEPTH = 100


class ObjectNode(dict[str, Any]):
    """An object of a pickle that holds tensors, in a structure: a dict of them, which remembers the object.

    Attributes:
        obj: the object.
        names: for each tensor in any object of the file, by its ``id``: the name it has.
    """

    def __init__(self, obj: Opaque, names: dict[int, str], parts: Mapping[str, Any]) -> None:
        super().__init__(parts)
        self.obj = obj
        self.names = names

    def is_complete(self, names: Collection[str]) -> bool:
        """Whether all tensors that the object refers to, at any depth, are among these names."""
        pending: list[object] = [self.obj]
        visited: set[int] = set()
        while pending:
            value = pending.pop()
            if isinstance(value, (PickledTensor, PickledStorage)):
                if self.names.get(id(value)) not in names:
                    return False
            elif isinstance(value, (Opaque, Mapping, list, tuple)) and id(value) not in visited:
                visited.add(id(value))
                pending += iter_children(value)
        return True


def make_dict_like(node: Mapping[Any, Any], items: Mapping[Any, Any]) -> dict[Any, Any]:
    """A dict of items that is of the class of another one, with its attributes: an ``OrderedDict`` or a ``Counter``."""
    if type(node) is Counter:
        return Counter(items)
    if type(node) is not OrderedDict:
        return dict(items)
    result = OrderedDict(items)
    result.__dict__.update(vars(node))  # the _metadata of a state_dict
    return result


def join_key(path: str, key: object) -> str:
    """The name of what a container with this name has at a key."""
    return f"{path}.{key}" if path else str(key)


def iter_items(container: Structure) -> Iterable[tuple[Any, Any]]:
    """Keys and values of a dict, indices and items of a list or tuple."""
    return container.items() if isinstance(container, Mapping) else enumerate(container)


def is_state_dict(structure: Structure) -> bool:
    """Whether it is one flat dict of joined paths, as a state_dict: it means the nested dicts, and is read as those."""
    is_flat = isinstance(structure, dict) and all(value is None for value in structure.values())
    return is_flat and all(type(key) is str for key in structure) and any("." in key for key in structure)


def is_told_by_names(structure: Structure, names: Collection[str]) -> bool:
    """Whether names in this order give the same structure, order included."""
    try:
        implied = unflatten(dict.fromkeys(names))
    except TreeError:
        return False
    return _is_same(structure, implied)


def _is_same(left: Structure, right: Structure) -> bool:
    if type(left) is not type(right) or not isinstance(left, dict):
        return left is right
    return [*left] == [*right] and all(type(key) is str and _is_same(value, right[key]) for key, value in left.items())


def iter_names(structure: Structure, path: str = "") -> Iterator[str]:
    """The names of all tensors and values in it, in order."""
    if structure is None:
        yield path
    elif structure is not ABSENT:
        for key, value in iter_items(structure):
            yield from iter_names(value, join_key(path, key))


def iter_paths(structure: Structure, path: str = "", keys: tuple[str | int, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Each name with its path as torch's distributed checkpoints have it: of keys as text, and of indices of lists."""
    if structure is None:
        yield from [(path, keys)] * bool(keys)
    elif structure is not ABSENT:
        is_dict = isinstance(structure, dict)
        for key, value in iter_items(structure):
            yield from iter_paths(value, join_key(path, key), (*keys, str(key) if is_dict else key))


def fill(structure: Structure, flat: Mapping[str, Any], path: str = "", *, for_pickle: bool = False) -> Any:
    """What was saved, of its structure and the tensors and values by name.

    Args:
        structure: the structure.
        flat: tensors and values by name.
        path: the name of the whole.
        for_pickle: whether it is written to a file that has a place for objects, which then stand as they are, but not
            for ``ABSENT``, which is left out; in lists None stands there.
    """
    if structure is None:
        return flat[path]
    if structure is ABSENT:
        return None if for_pickle else ABSENT
    if for_pickle and isinstance(structure, ObjectNode) and structure.is_complete(flat):
        return structure
    items = {
        key: fill(value, flat, join_key(path, key), for_pickle=for_pickle)
        for key, value in iter_items(structure)
        if not (for_pickle and value is ABSENT and isinstance(structure, dict))
    }
    return make_dict_like(structure, items) if isinstance(structure, dict) else type(structure)(items.values())


def iter_objects(structure: Structure, path: str = "") -> Iterator[tuple[str, ObjectNode]]:
    """The objects that hold tensors, each with its path; those within another object are left out."""
    if isinstance(structure, ObjectNode):
        yield path, structure
    elif structure is not None and structure is not ABSENT:
        for key, value in iter_items(structure):
            yield from iter_objects(value, join_key(path, key))


def has_absent(structure: Structure) -> bool:
    """Whether there is ``ABSENT`` in it."""
    if structure is None or structure is ABSENT:
        return structure is ABSENT
    return any(has_absent(value) for _, value in iter_items(structure))


def find_part(structure: Structure, part: str) -> Structure | None:
    """The structure of what has a name; None if nothing has it, or there is no structure."""
    start = len(part) + 1
    found = _find_part(structure, part, "")
    return rename_in_objects(found, lambda name: name[start:] if name.startswith(f"{part}.") else None)


def rename_in_objects(structure: Structure, new_name: Callable[[str], str | None]) -> Structure:
    """The structure for other names of the tensors; None stands for a name that is not there any more."""
    tables: dict[int, dict[int, str]] = {}  # the nodes of one file share one table of names

    def rename(node: Structure) -> Structure:
        if isinstance(node, ObjectNode):
            if id(node.names) not in tables:
                new_names = {key: new_name(name) for key, name in node.names.items()}
                tables[id(node.names)] = {key: name for key, name in new_names.items() if name is not None}
            return ObjectNode(node.obj, tables[id(node.names)], {key: rename(part) for key, part in node.items()})
        if isinstance(node, dict):
            return make_dict_like(node, {key: rename(part) for key, part in node.items()})
        return type(node)(map(rename, node)) if isinstance(node, (list, tuple)) else node

    return rename(structure)


def _find_part(structure: Structure, part: str, path: str) -> Structure | None:
    if structure is None or structure is ABSENT:
        return None
    for key, value in iter_items(structure):
        name = join_key(path, key)
        if name == part:
            return value
        if part.startswith(f"{name}.") and (found := _find_part(value, part, name)) is not None:
            return found
    return None


def add_name(structure: Structure, name: str) -> None:
    """Put one more name into a structure of dicts.

    Raises:
        TreeError: if it lies below something that is no dict.
    """
    if is_state_dict(structure):
        structure[name] = None
        return
    *parents, last = name.split(".")
    node = structure
    for key in parents:
        node = node.setdefault(key, {}) if isinstance(node, dict) else None
    if not isinstance(node, dict):
        raise TreeError(f"{name!r} lies below what is no dict")
    node[last] = None


def structure_of_paths(path_by_name: Mapping[str, Sequence[Any]]) -> Structure | None:
    """The structure in which each name has a path of keys and of indices of lists; None if there is no such one."""
    root: dict[Any, Any] = {}
    for name, keys in path_by_name.items():
        path, node = "", root
        if not keys or not isinstance(name, str) or not all(type(key) in (str, int) for key in keys):
            return None
        for key in keys[:-1]:
            path = join_key(path, key)
            node = node.setdefault(key, {})
            if node is None:
                return None
        if join_key(path, keys[-1]) != name or keys[-1] in node:
            return None
        node[keys[-1]] = None
    return _with_lists(root)


def _with_lists(node: Structure) -> Structure:
    """The structure with lists in place of dicts whose keys are 0, 1, 2 and so on."""
    if node is None:
        return None
    values = {key: _with_lists(value) for key, value in node.items()}
    is_list = bool(values) and all(type(key) is int for key in values) and sorted(values) == [*range(len(values))]
    return [values[index] for index in range(len(values))] if is_list else values


def encode_structure(structure: Structure) -> Any:
    """A structure as what JSON can hold.

    >>> encode_structure({"state": [None, ABSENT], 0: None})
    {'items': [['state', [None, 'absent']], [0, None]]}
    """
    return encode_value(_replace_absent(structure))


def _replace_absent(structure: Structure) -> Any:
    if structure is ABSENT:
        return _ABSENT_TEXT
    if isinstance(structure, dict):
        items = {key: _replace_absent(value) for key, value in structure.items()}
        return OrderedDict(items) if type(structure) is OrderedDict else items
    if isinstance(structure, (list, tuple)):
        return type(structure)(map(_replace_absent, structure))
    return structure


def decode_structure(encoded: object) -> Structure:
    """Inverse of :func:`encode_structure`.

    Raises:
        ValueError: if the file has something else there.
    """
    return _restore_absent(decode_value(encoded), 0)


def _restore_absent(value: object, depth: int) -> Structure:
    if value is None:
        return None
    if value == _ABSENT_TEXT:
        return ABSENT
    if depth > _MAX_DEPTH:
        raise ValueError("a structure that is nested too deep")
    if isinstance(value, dict):
        return type(value)((key, _restore_absent(item, depth + 1)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return type(value)(_restore_absent(item, depth + 1) for item in value)
    raise ValueError(f"a structure with a {type(value).__name__} in it")
