"""A tree taken apart by path and put together again, and a tree with other values at some paths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from funcnet._errors import TreeError, bullet_list
from funcnet._typing import Selector, Tree, TreeLike
from funcnet.tree._absent import ABSENT, Absent
from funcnet.tree._paths import flatten, get, join
from funcnet.tree._select import select


def partition(tree: TreeLike, selector: Selector) -> tuple[Tree, Tree]:
    """The leaves that are meant, and the others: two trees with the keys of the first, and ``ABSENT`` in the gaps.

    Args:
        tree: nested dicts.
        selector: which leaves are meant, see :func:`select`.

    Raises:
        TreeError: if a pattern means no leaf.

    >>> params = {"body": {"weight": 1}, "head": {"weight": 2}}
    >>> trainable, frozen = partition(params, "head")
    >>> trainable, frozen
    ({'body': {'weight': ABSENT}, 'head': {'weight': 2}}, {'body': {'weight': 1}, 'head': {'weight': ABSENT}})
    >>> combine(trainable, frozen) == params
    True
    """
    meant = select_paths(tree, selector)
    return _kept(tree, meant, _absent, _same), _kept(tree, meant, _same, _absent)


def combine(*trees: TreeLike) -> Tree:
    """The tree of which these are partitions; the inverse of :func:`partition`.

    Raises:
        TreeError: if a path is a leaf in several trees or in none; names all of them.
    """
    paths = list(dict.fromkeys(path for tree in trees for path in _places(tree)))
    flat = [_places(tree) for tree in trees]
    held = {path: [leaves[path] for leaves in flat if leaves.get(path, ABSENT) is not ABSENT] for path in paths}
    wrong = [
        f"{path!r} is in {len(found) or 'none'} of the {len(trees)} trees"
        for path, found in held.items()
        if len(found) != 1
    ]
    if wrong:
        raise TreeError(f"combine needs each leaf in exactly one tree:{bullet_list(wrong)}")
    return _merged(trees, "", held)


def select_paths(tree: TreeLike, selector: Selector) -> set[str]:
    """Paths of the leaves that a selector means.

    Raises:
        TreeError: if a pattern means none of them: then it is misspelt.
    """
    paths = list(flatten(tree))
    patterns = [selector] if isinstance(selector, str) else selector if isinstance(selector, (list, tuple)) else []
    for pattern in patterns:
        if not any(map(select(pattern.removeprefix("!")), paths)):
            more = " ..." if len(paths) > 8 else ""
            raise TreeError(f"{pattern!r} means no leaf of the tree. Its paths are {', '.join(paths[:8])}{more}.")
    test = select(selector)
    return {path for path in paths if test(path)}


def _same(leaf: Any) -> Any:
    return leaf


def _absent(leaf: Any) -> Absent:
    return ABSENT


def _kept(tree: TreeLike, meant: set[str], outside: Any, inside: Any, at: str = "") -> Tree:
    """The tree with one function applied to the leaves that are not meant, and another to those that are."""
    kept: Tree = {}
    for key, value in tree.items():
        path = join(at, key)
        if isinstance(value, Mapping):
            kept[key] = _kept(value, meant, outside, inside, path)
        else:
            kept[key] = (inside if path in meant else outside)(value)
    return kept


def _places(tree: TreeLike, at: str = "") -> dict[str, Any]:
    """Leaves by path, the absent ones too."""
    places: dict[str, Any] = {}
    for key, value in tree.items():
        places.update(_places(value, join(at, key)) if isinstance(value, Mapping) else {join(at, key): value})
    return places


def _merged(trees: tuple[TreeLike, ...], at: str, held: Mapping[str, list[Any]]) -> Tree:
    merged: Tree = {}
    for key in dict.fromkeys(key for tree in trees for key in tree):
        nodes = tuple(tree[key] for tree in trees if isinstance(tree.get(key), Mapping))
        merged[key] = _merged(nodes, join(at, key), held) if nodes else held[join(at, key)][0]
    return merged


def replace(tree: TreeLike, selector: Selector, value: Any) -> Tree:
    """The tree with another value at some places; the given one stays as it is, and the rest is shared.

    Args:
        tree: nested dicts.
        selector: the path of a leaf or of a subtree, or any other selector of leaves.
        value: what is put there: a leaf, or a subtree where ``selector`` is the path of one; or a function of each leaf
            that is meant.

    Raises:
        TreeError: if a pattern means no leaf.

    >>> params = {"fc": {"weight": 1, "bias": 2}, "head": {"weight": 3}}
    >>> replace(params, "head", {"weight": 4})
    {'fc': {'weight': 1, 'bias': 2}, 'head': {'weight': 4}}
    >>> replace(params, "*.weight", lambda leaf: leaf * 10)
    {'fc': {'weight': 10, 'bias': 2}, 'head': {'weight': 30}}
    """
    paths = select_paths(tree, selector)
    if isinstance(value, Mapping):
        if not isinstance(selector, str) or "*" in selector or not isinstance(get(tree, selector), Mapping):
            raise TreeError(f"a subtree is put in the place of one subtree, and {selector!r} is not the path of one.")
        return _put(tree, selector.split(".") if selector else [], value)
    replaced = value if callable(value) else lambda _: value
    return _kept(tree, paths, _same, replaced)


def _put(tree: TreeLike, keys: list[str], value: TreeLike) -> Tree:
    if not keys:
        return dict(value)
    return {**tree, keys[0]: _put(tree[keys[0]], keys[1:], value)}
