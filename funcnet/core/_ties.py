"""Tied tensors during a call: one entry in the trees, read under each of its names.

Aliases are paths in the whole net, so they are filled in once, at the start of a call, and no view knows about them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from funcnet._typing import Tree, TreeLike
from funcnet.tree import get


def filled_in(params: TreeLike, aliases: Mapping[str, str]) -> Tree:
    """The params with every alias read from its owner; nodes on the way are copied, never written to."""
    full = dict(params)
    copied: dict[str, Tree] = {"": full}
    for alias, owner in aliases.items():
        parent, _, leaf = alias.rpartition(".")
        _own(full, parent, copied)[leaf] = get(params, owner)
    return full


def _own(full: Tree, path: str, copied: dict[str, Tree]) -> Tree:
    """The node at a path, copied once with all nodes above it."""
    if path not in copied:
        parent, _, key = path.rpartition(".")
        above = _own(full, parent, copied)
        copied[path] = above[key] = dict(above.get(key, {}))
    return copied[path]


def linked(buffers: TreeLike, aliases: Mapping[str, str]) -> Tree:
    """A call's own tree of buffers with aliases filled in; a layer at two places is one node and sees its updates."""
    full = filled_in(buffers, aliases)
    nodes: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for alias, owner in aliases.items():
        nodes[alias.rpartition(".")[0], owner.rpartition(".")[0]].append(alias.rpartition(".")[2])
    for (place, owner_place), names in nodes.items():
        if place != owner_place and set(get(full, place)) == set(get(full, owner_place)) == set(names):
            parent, _, key = place.rpartition(".")
            get(full, parent)[key] = get(full, owner_place)
    return full


def unlinked(full: TreeLike, buffers: TreeLike) -> Tree:
    """What a call made of :func:`linked` buffers, with the entries of ``buffers`` only."""
    return {
        key: unlinked(full[key], value) if isinstance(value, Mapping) else full[key] for key, value in buffers.items()
    }
