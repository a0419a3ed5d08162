"""Nested dict <-> flat dict of joined paths, and maps over the leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import optree
from torch import Tensor

from funcnet._errors import TreeError
from funcnet._tensors import is_inexact
from funcnet._torch import parse_to_arguments
from funcnet._typing import Tree, TreeLike
from funcnet.tree._absent import ABSENT


def join(*keys: str) -> str:
    """The path of nested keys, with empty keys (the root) left out.

    >>> join("", "layers", "0"), join("", "")
    ('layers.0', '')
    """
    return ".".join(key for key in keys if key)


def flatten(tree: TreeLike, prefix: str = "") -> dict[str, Any]:
    """Leaves by joined path, in the tree's own order; empty dicts and absent leaves leave no trace.

    Args:
        tree: nested dicts; any value that is not a dict is a leaf.
        prefix: path to put before every key.

    Raises:
        TypeError: if ``tree`` is not a dict, as ``module.parameters()`` is not.

    >>> flatten({"fc": {"weight": 1, "bias": 2}, "act": {}})
    {'fc.weight': 1, 'fc.bias': 2}
    """
    _require_dict(tree)
    flat: dict[str, Any] = {}
    _flatten_into(flat, tree, prefix)
    return flat


def _require_dict(tree: object) -> None:
    if not isinstance(tree, Mapping):
        raise TypeError(f"a tree is nested dicts, and this is of type {type(tree).__name__}.")


def _flatten_into(flat: dict[str, Any], tree: TreeLike, prefix: str) -> None:
    for key, value in tree.items():
        path = f"{prefix}.{key}" if prefix else str(key)
        kind = type(value)
        if kind is dict or (kind is not Tensor and isinstance(value, Mapping)):  # asking for a Mapping takes longer
            _flatten_into(flat, value, path)
        elif value is not ABSENT:
            flat[path] = value


def paths(tree: TreeLike) -> list[str]:
    """The joined paths of all leaves, in the tree's own order.

    >>> paths({"fc": {"weight": 1, "bias": 2}})
    ['fc.weight', 'fc.bias']
    """
    return list(flatten(tree))


def unflatten(flat: Mapping[str, Any]) -> Tree:
    """The nested dict whose joined paths are the keys of ``flat``; inverse of :func:`flatten`.

    Raises:
        TreeError: if one path is both a leaf and a node (``"a"`` and ``"a.b"``).

    >>> unflatten({"fc.weight": 1, "fc.bias": 2})
    {'fc': {'weight': 1, 'bias': 2}}
    """
    tree: Tree = {}
    for path, value in flat.items():
        *parents, leaf = path.split(".")
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                raise TreeError(f"{path!r} lies below {key!r}, which is a leaf. Rename one of them.")
        if leaf in node:
            raise TreeError(f"{path!r} is a leaf, and other entries lie below it. Rename one of them.")
        node[leaf] = value
    return tree


def get(tree: TreeLike, path: str) -> Any:
    """The leaf or subtree at a joined path.

    Raises:
        TreeError: if nothing is there; names the longest part of the path that exists.

    >>> get({"fc": {"weight": 1}}, "fc.weight")
    1
    """
    node: Any = tree
    prefix = ""
    for key in path.split(".") if path else ():
        if not isinstance(node, Mapping) or key not in node:
            content = f"holds {list(node)}" if isinstance(node, Mapping) else "is a leaf"
            raise TreeError(f"nothing at {path!r}: {prefix or 'the root'!r} {content}, not {key!r}.")
        node, prefix = node[key], join(prefix, key)
    return node


def map(function: Callable[..., Any], tree: TreeLike, *trees: TreeLike) -> Tree:
    """Apply ``function`` to every leaf (and to the leaves at the same paths of ``trees``).

    Keys keep the order of ``tree``.

    Raises:
        TreeError: if the trees do not have the same paths; names those that differ.

    >>> map(lambda w, g: w - 0.5 * g, {"b": 1.0, "a": 2.0}, {"a": 2.0, "b": 2.0})
    {'b': 0.0, 'a': 1.0}
    """
    try:
        return optree.tree_map(function, tree, *trees)  # type: ignore[arg-type, return-value]
    except ValueError:
        require_same_paths("map", tree, *trees)
        raise


def require_same_paths(function_name: str, tree: TreeLike, *trees: TreeLike) -> None:
    """Refuse trees with different paths; ``None`` and ``ABSENT`` do not count as leaves.

    Raises:
        TreeError: names ``function_name`` and the paths that differ.
    """
    paths = _leaf_paths(tree)
    unmatched = sorted({path for tree in trees for path in paths ^ _leaf_paths(tree)})
    if unmatched:
        raise TreeError(
            f"{function_name} needs trees of one structure; these paths are not in all of them: {', '.join(unmatched)}."
        ) from None


def _leaf_paths(tree: TreeLike) -> set[str]:
    return {path for path, leaf in flatten(tree).items() if leaf is not None}


def map_with_path(function: Callable[..., Any], tree: TreeLike, *trees: TreeLike) -> Tree:
    """Apply ``function`` to the path and the leaf of every leaf (and to the leaves at the same paths of ``trees``).

    The calls come in the order of ``tree``, which the result keeps. ``None`` and ``ABSENT`` stay as they are.

    Args:
        function: called as ``function(path, leaf, *leaves)``.
        tree: nested dicts; any value that is not a dict is a leaf.
        trees: more of them, with the same paths.

    Raises:
        TreeError: if the trees do not have the same paths; names those that differ.

    >>> map_with_path(lambda path, leaf: f"{path}={leaf}", {"fc": {"weight": 1, "bias": 2}})
    {'fc': {'weight': 'fc.weight=1', 'bias': 'fc.bias=2'}}
    """
    if trees:
        require_same_paths("map_with_path", tree, *trees)
    _require_dict(tree)
    return _map_nodes(function, tree, [flatten(tree) for tree in trees], "")


def _map_nodes(function: Callable[..., Any], tree: TreeLike, other_leaves: list[dict[str, Any]], prefix: str) -> Tree:
    result: Tree = {}
    for key, value in tree.items():
        path = f"{prefix}.{key}" if prefix else str(key)
        kind = type(value)
        if kind is dict or (kind is not Tensor and isinstance(value, Mapping)):
            result[key] = _map_nodes(function, value, other_leaves, path)
        elif value is None or value is ABSENT:
            result[key] = value
        else:
            result[key] = function(path, value, *(leaves[path] for leaves in other_leaves))
    return result


def to(tree: TreeLike, *args: Any, **kwargs: Any) -> Tree:
    """Move or cast every tensor, as ``nn.Module.to`` does: a dtype applies to floating and complex tensors only.

    Args:
        args, kwargs: what ``torch.Tensor.to`` takes: a device, a dtype, or both.

    >>> import torch
    >>> moved = to({"weight": torch.ones(2), "steps": torch.tensor(3)}, torch.float64)
    >>> moved["weight"].dtype, moved["steps"].dtype
    (torch.float64, torch.int64)
    """
    device, dtype, non_blocking, memory_format = parse_to_arguments(*args, **kwargs)
    if memory_format is not None:
        raise TypeError("funcnet.tree.to takes no memory_format: map tensor.to(memory_format=...) over 4-d leaves.")

    def move(leaf: Tensor) -> Tensor:
        return leaf.to(device, dtype if is_inexact(leaf) else None, non_blocking)

    return map(move, tree)
