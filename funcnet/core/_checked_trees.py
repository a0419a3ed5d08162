"""Which params and buffers a net was last called with, so that it need not check them again."""

from __future__ import annotations

import weakref
from typing import Any

from funcnet._typing import TreeLike


class CheckedTrees:
    """The params and buffers that were last found to fit a net.

    They are recognised by identity and by their outermost leaves, and not kept alive.

    Args:
        outer_keys: nested keys of the first and the last leaf of params.
        params, buffers: what was checked.
    """

    __slots__ = ("_ids", "_leaves", "_sizes")

    def __init__(self, outer_keys: list[tuple[str, ...]], params: TreeLike, buffers: TreeLike) -> None:
        self._ids = (id(params), id(buffers))
        self._sizes = (len(params), len(buffers))
        self._leaves = [(keys, weakref.ref(_leaf_at(params, keys))) for keys in outer_keys]

    def matches(self, params: TreeLike, buffers: TreeLike) -> bool:
        """Whether these dicts are the ones that were checked."""
        if self._ids != (id(params), id(buffers)) or self._sizes != (len(params), len(buffers)):
            return False
        try:
            for keys, ref in self._leaves:
                if ref() is not _leaf_at(params, keys):
                    return False
        except (KeyError, TypeError):
            return False
        return True


def _leaf_at(tree: TreeLike, keys: tuple[str, ...]) -> Any:
    for key in keys:
        tree = tree[key]
    return tree
