"""The state before the first step: the dicts of params, with an entry in place of each tensor."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from funcnet._tensors import is_inexact
from funcnet._typing import Tree, TreeLike
from funcnet.optim._pairing import format_place, require_tree
from funcnet.tree import ABSENT


class FirstState:
    """A state for these params, in which the entries of those that have a gradient are still to be put_entry.

    Attributes:
        tree: the state; integers have the entry ``{}``, and what is absent stays.
        paths: the joined paths of all leaves.
        params: the leaves that have a gradient, by their index in ``paths``.
    """

    def __init__(self, params: TreeLike) -> None:
        require_tree(params)
        self.paths: list[str] = []
        self.params: dict[int, Tensor] = {}
        self._places: list[tuple[Tree, str]] = []
        self.tree = self._start_node(params, "")

    def _start_node(self, tree: TreeLike, prefix: str) -> Tree:
        state: Tree = {}
        for key, value in tree.items():
            path = f"{prefix}.{key}" if prefix else key
            if isinstance(value, Mapping):
                state[key] = self._start_node(value, path)
                continue
            if isinstance(value, Tensor) and is_inexact(value):
                self.params[len(self.paths)] = value
            state[key] = {} if isinstance(value, Tensor) else value
            self.paths.append(path)
            self._places.append((state, key))
        return state

    def put_entry(self, index: int, entry: Tree) -> None:
        """Put the entry of a param where it belongs."""
        node, key = self._places[index]
        node[key] = entry

    def describe_strangers(self) -> list[str]:
        """A line for each leaf that is neither a tensor nor absent."""
        return [
            f"{format_place('params', path)}: expected a tensor, got {type(node[key]).__name__}"
            for path, (node, key) in zip(self.paths, self._places, strict=True)
            if not isinstance(node[key], dict) and node[key] is not None and node[key] is not ABSENT
        ]
