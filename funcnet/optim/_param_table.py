"""The params that an optimizer of torch knows by number or by name, and their paths in the trees of funcnet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor, nn

from funcnet._tensors import is_inexact
from funcnet._typing import Tree, TreeLike
from funcnet.adapters.internals import list_params, rename_unwrapped
from funcnet.optim._groups import assign_groups
from funcnet.optim._pairing import find_owners
from funcnet.tree import ABSENT, flatten, unflatten

Layout: TypeAlias = list[list[str]]
"""The paths of the params in each group of an optimizer of torch."""


@dataclass(frozen=True)
class ParamTable:
    """The params of a module, or of a tree.

    Attributes:
        params: what torch optimizes by path, tied tensors once, in the order of ``module.parameters()``.
        names: the name of each in ``named_parameters()``, by path.
        path_by_name: every name of a param, also the further ones of tied tensors -> its path.
        owner_by_leaf: each path that a state has, in the order of the trees -> the path in ``params``.
    """

    params: dict[str, Tensor]
    names: dict[str, str]
    path_by_name: dict[str, str]
    owner_by_leaf: dict[str, str]

    @classmethod
    def of(cls, module: nn.Module | TreeLike) -> ParamTable:
        """The table of a module, or of params as nested dicts; what is absent in those is left out."""
        if isinstance(module, nn.Module):
            params, path_by_name = list_params(module)
            names: dict[str, str] = {}
            for name, path in path_by_name.items():
                names.setdefault(path, name)
            in_order = [path for name, path in path_by_name.items() if name == path and path in params]
            return cls(params, names, path_by_name, {path: path for path in in_order})
        if not isinstance(module, Mapping):
            raise TypeError(f"expected the nn.Module, or params as nested dicts, not {type(module).__name__}.")
        leaves = {path: leaf for path, leaf in flatten(module).items() if isinstance(leaf, Tensor)}
        paths = list(leaves)
        owners = {path: paths[at] for path, at in zip(paths, find_owners(list(leaves.values())), strict=True)}
        params = {
            path: nn.Parameter(leaf.detach(), is_inexact(leaf)) for path, leaf in leaves.items() if owners[path] == path
        }
        return cls(params, {path: path for path in params}, owners, owners)

    def find_paths(self, names: Sequence[str]) -> dict[str, str]:
        """For each name the path of the param, where there is one; names of wrappers are seen through."""
        expected = rename_unwrapped(names, self.path_by_name)
        return {name: self.path_by_name[expected[name]] for name in names if expected[name] in self.path_by_name}

    def build_state(self, entries: Mapping[str, Any]) -> Tree:
        """The state with these entries by path; ``ABSENT`` for params that have none."""
        return unflatten({leaf: entries.get(owner, ABSENT) for leaf, owner in self.owner_by_leaf.items()})

    def find_layout(self, selectors: Sequence[Any], paths: Sequence[str]) -> Layout:
        """These paths, divided as the groups of an optimizer divide all: those in no group first, then each group.

        Raises:
            TreeError: if a selector has no effect.
        """
        numbers = dict(zip(self.owner_by_leaf, assign_groups(tuple(selectors), tuple(self.owner_by_leaf)), strict=True))
        layout: Layout = [[] for _ in range(len(selectors) + 1)]
        for path in paths:
            layout[numbers[path] + 1].append(path)
        return layout

    def make_selectors(self, layout: Layout) -> list[str | tuple[str, ...]]:
        """A selector for each group but the first: the paths of its params, or of nodes that hold nothing else."""
        selectors: list[str | tuple[str, ...]] = []
        for group in layout[1:]:
            selected = {leaf for leaf, owner in self.owner_by_leaf.items() if owner in group}
            nodes = _topmost_nodes(list(self.owner_by_leaf), selected)
            selectors.append(nodes[0] if len(nodes) == 1 else tuple(nodes))
        return selectors


def _topmost_nodes(leaves: Sequence[str], selected: set[str], prefix: str = "") -> list[str]:
    """The shortest list of paths that have these leaves under them and no others."""
    below: dict[str, list[str]] = {}
    for leaf in leaves:
        key = leaf.removeprefix(prefix).partition(".")[0]
        below.setdefault(f"{prefix}{key}", []).append(leaf)
    nodes: list[str] = []
    for node, paths in below.items():
        if selected.issuperset(paths):
            nodes.append(node)
        elif not selected.isdisjoint(paths):
            nodes += _topmost_nodes(paths, selected, f"{node}.")
    return nodes
