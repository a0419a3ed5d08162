"""Tied tensors during a call: one entry in the trees, read under each of its names.

Aliases are paths in the whole net, so they are resolved once, at the start of a call, and no view knows about them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from funcnet._errors import TreeError
from funcnet._typing import Tree, TreeLike
from funcnet.core._entries import Buffer, Param
from funcnet.tree import get


def check_aliases(aliases: Mapping[str, str], specs: Mapping[str, Param | Buffer]) -> None:
    """Refuse aliases, alias path -> owner path, that do not fit the declared tensors of a net."""
    problems = [
        f"{path!r} is not a tensor of the net" for pair in aliases.items() for path in pair if path not in specs
    ]
    problems += [
        f"{owner!r} owns {alias!r} and is an alias itself" for alias, owner in aliases.items() if owner in aliases
    ]
    problems += [
        f"{alias!r} has shape {specs[alias].shape}, {owner!r} has {specs[owner].shape}"
        for alias, owner in aliases.items()
        if alias in specs and owner in specs and specs[alias].shape != specs[owner].shape
    ]
    if problems:
        raise TreeError(f"cannot tie: {'; '.join(problems)}. The tensors of the net are {sorted(specs)}.")


def resolve_aliases(params: TreeLike, aliases: Mapping[str, str]) -> Tree:
    """The params with the tensor of its owner at every alias; changed dicts are copies."""
    full = dict(params)
    copies: dict[str, Tree] = {"": full}
    for alias, owner in aliases.items():
        parent, _, leaf = alias.rpartition(".")
        _copy_node(parent, copies)[leaf] = get(params, owner)
    return full


def _copy_node(path: str, copies: dict[str, Tree]) -> Tree:
    """The copied node at a path; it is copied once, with all nodes on the way to it. ``copies`` holds the root."""
    if path not in copies:
        parent_path, _, key = path.rpartition(".")
        parent = _copy_node(parent_path, copies)
        copies[path] = parent[key] = dict(parent.get(key, {}))
    return copies[path]


def link_buffers(buffers: TreeLike, aliases: Mapping[str, str]) -> Tree:
    """The buffers of one call, aliases resolved. A layer at two paths is one dict, so both paths see its updates."""
    full = resolve_aliases(buffers, aliases)
    names_by_nodes: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for alias, owner in aliases.items():
        names_by_nodes[alias.rpartition(".")[0], owner.rpartition(".")[0]].append(alias.rpartition(".")[2])
    for (parent_path, owner_parent_path), names in names_by_nodes.items():
        if parent_path != owner_parent_path and set(get(full, parent_path)) == set(get(full, owner_parent_path)) == set(
            names
        ):
            parent, _, key = parent_path.rpartition(".")
            get(full, parent)[key] = get(full, owner_parent_path)
    return full


def drop_aliases(full: TreeLike, buffers: TreeLike) -> Tree:
    """The tree of :func:`link_buffers` after a call, reduced to the entries that ``buffers`` has."""
    return {
        key: drop_aliases(full[key], value) if isinstance(value, Mapping) else full[key]
        for key, value in buffers.items()
    }
