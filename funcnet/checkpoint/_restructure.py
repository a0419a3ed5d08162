"""The structure of a checkpoint whose names have changed: that of the source, wherever the names still lead there."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

from funcnet.checkpoint._structure import Structure, is_state_dict, iter_items
from funcnet.tree import ABSENT


def restructure(structure: Structure | None, names: Iterable[str]) -> Structure | None:
    """The structure for new names, in the style of an old one.

    A flat ``state_dict`` stays one at its place, keys that were numbers are numbers, and what was a list is one if its
    indices still run from 0. Where the old structure does not reach, dots part dicts.

    Args:
        structure: the old one; None for a single flat dict.
        names: all new names, in order.

    Returns:
        The new one; None if a name lies below another.

    >>> restructure({"model": {"a.w": None}, "state": {0: {"m": None}}}, ["model.b.w", "state.0.m", "state.1.m"])
    {'model': {'b.w': None}, 'state': {0: {'m': None}, 1: {'m': None}}}
    """
    if structure is None:
        return dict.fromkeys(names)
    root: dict[Any, Any] = {}
    for name in names:
        if not _insert(root, structure, name):
            return None
    return _finish(root, structure)


def _insert(node: dict[Any, Any], old: Structure, name: str) -> bool:
    """Put a name into new dicts, with the keys of the old structure; returns whether there was room."""
    rest = name
    while True:
        key, rest = _split_key(old, rest)
        old = _child(old, key)
        if not rest:
            has_room = key not in node
            node[key] = None
            return has_room
        node = node.setdefault(key, {})
        if node is None:
            return False


def _split_key(old: Structure, name: str) -> tuple[Any, str]:
    """The key that a name begins with below an old container, and the rest of the name."""
    if is_state_dict(old):
        return name, ""
    if isinstance(old, (Mapping, list, tuple)):
        keys = [key for key, _ in iter_items(old) if name == str(key) or name.startswith(f"{key}.")]
        if keys:
            key = max(keys, key=lambda key: len(str(key)))
            return key, name[len(str(key)) + 1 :]
    first, _, rest = name.partition(".")
    has_numbers = isinstance(old, (list, tuple)) or (
        isinstance(old, Mapping) and bool(old) and all(type(key) is int for key in old)
    )
    return (int(first) if has_numbers and first.isdecimal() else first), rest


def _child(old: Structure, key: object) -> Structure:
    if isinstance(old, Mapping):
        child = old.get(key)
    elif isinstance(old, (list, tuple)) and isinstance(key, int) and key < len(old):
        child = old[key]
    else:
        child = None
    return None if child is ABSENT else child


def _finish(node: Structure, old: Structure) -> Structure:
    """The new structure with lists where the old one has them, and with its order of keys where there are no others."""
    if not isinstance(node, dict):
        return node
    kind = OrderedDict if type(old) is OrderedDict else dict
    children = kind((key, _finish(child, _child(old, key))) for key, child in node.items())
    if isinstance(old, (list, tuple)) and sorted(map(str, children)) == sorted(map(str, range(len(children)))):
        return type(old)(children[index] for index in range(len(children)))
    if isinstance(old, Mapping) and children.keys() <= old.keys():
        return kind((key, children[key]) for key in old if key in children)
    return children
