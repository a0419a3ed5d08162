"""A tree taken apart by path and put together again, and a tree with other values at some paths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar

from funcnet._errors import TreeError, bullet_list
from funcnet._typing import Selector, Tree, TreeLike
from funcnet.tree._absent import ABSENT, Absent
from funcnet.tree._paths import flatten, get, join
from funcnet.tree._select import describe_unmatched, select

T = TypeVar("T")


def partition(tree: TreeLike, selector: Selector) -> tuple[Tree, Tree]:
    """The selected leaves, and all other leaves: two trees with the keys of ``tree``, and ``ABSENT`` in the gaps.

    Args:
        tree: nested dicts.
        selector: which leaves are selected, see :func:`select`.

    Raises:
        TreeError: if a pattern matches no leaf.

    >>> params = {"body": {"weight": 1}, "head": {"weight": 2}}
    >>> trainable, frozen = partition(params, "head")
    >>> trainable, frozen
    ({'body': {'weight': ABSENT}, 'head': {'weight': 2}}, {'body': {'weight': 1}, 'head': {'weight': ABSENT}})
    >>> combine(trainable, frozen) == params
    True
    """
    selected = select_paths(tree, selector)
    return (
        _map_by_membership(tree, selected, inside=_keep, outside=_take_out),
        _map_by_membership(tree, selected, inside=_take_out, outside=_keep),
    )


def combine(*trees: TreeLike) -> Tree:
    """The tree that these are partitions of; the inverse of :func:`partition`.

    Raises:
        TreeError: if a path is a leaf in several trees or in none; names all of them.

    >>> from funcnet.tree import partition
    >>> head, rest = partition({"body": {"w": 1.0}, "head": {"w": 2.0}}, "head")
    >>> combine(head, rest)
    {'body': {'w': 1.0}, 'head': {'w': 2.0}}
    """
    flat_trees = [_flatten_with_absent(tree) for tree in trees]
    paths = list(dict.fromkeys(path for flat in flat_trees for path in flat))
    leaves_by_path = {
        path: [flat[path] for flat in flat_trees if flat.get(path, ABSENT) is not ABSENT] for path in paths
    }
    problems = [
        f"{path!r} is in {len(leaves) or 'none'} of the {len(trees)} trees"
        for path, leaves in leaves_by_path.items()
        if len(leaves) != 1
    ]
    if problems:
        raise TreeError(f"combine needs each leaf in exactly one tree:{bullet_list(problems)}")
    return _merge_nodes(trees, "", {path: leaves[0] for path, leaves in leaves_by_path.items()})


def select_paths(tree: TreeLike, selector: Selector) -> set[str]:
    """Paths of the leaves that a selector selects.

    Raises:
        TreeError: if a pattern matches none of them: then it is misspelt. Names those that are near.
    """
    paths = list(flatten(tree))
    problems = describe_unmatched(selector, paths)
    if problems:
        raise TreeError(f"{selector!r} does not fit the tree:{bullet_list(problems)}")
    is_selected = select(selector)
    return {path for path in paths if is_selected(path)}


LeafFunction: TypeAlias = Callable[[Any], Any]


def _keep(leaf: T) -> T:
    return leaf


def _take_out(leaf: object) -> Absent:
    return ABSENT


def _map_by_membership(
    tree: TreeLike, paths: set[str], *, inside: LeafFunction, outside: LeafFunction, prefix: str = ""
) -> Tree:
    """The tree with one function applied to the leaves at these paths, and a second function to all other leaves."""
    result: Tree = {}
    for key, value in tree.items():
        path = join(prefix, key)
        if isinstance(value, Mapping):
            result[key] = _map_by_membership(value, paths, inside=inside, outside=outside, prefix=path)
        else:
            result[key] = (inside if path in paths else outside)(value)
    return result


def _flatten_with_absent(tree: TreeLike, prefix: str = "") -> dict[str, Any]:
    """Leaves by path, the absent ones too, which :func:`flatten` leaves out."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = join(prefix, key)
        flat.update(_flatten_with_absent(value, path) if isinstance(value, Mapping) else {path: value})
    return flat


def _merge_nodes(nodes: tuple[TreeLike, ...], prefix: str, leaves: Mapping[str, Any]) -> Tree:
    """One node with the keys of several nodes at the same path, filled with the leaves by path."""
    result: Tree = {}
    for key in dict.fromkeys(key for node in nodes for key in node):
        path = join(prefix, key)
        children = tuple(node[key] for node in nodes if isinstance(node.get(key), Mapping))
        result[key] = _merge_nodes(children, path, leaves) if children else leaves[path]
    return result


def replace(tree: TreeLike, selector: Selector, value: Any) -> Tree:
    """The tree with other values at some paths; ``tree`` stays as it is, and all other leaves are shared with it.

    Args:
        tree: nested dicts.
        selector: the path of a leaf or of a subtree, or any other selector of leaves.
        value: what is put there: a leaf, or a subtree where ``selector`` is the path of one; or a function of each leaf
            that is selected.

    Raises:
        TreeError: if a pattern selects no leaf.

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
        return _replace_node(tree, selector.split(".") if selector else [], value)
    function = value if callable(value) else lambda leaf: value
    return _map_by_membership(tree, paths, inside=function, outside=_keep)


def _replace_node(tree: TreeLike, keys: list[str], value: TreeLike) -> Tree:
    if not keys:
        return dict(value)
    return {**tree, keys[0]: _replace_node(tree[keys[0]], keys[1:], value)}
