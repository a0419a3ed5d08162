"""All params in a row, for optimizers that know one vector and no tree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from funcnet._errors import TreeError
from funcnet._tensors import is_inexact
from funcnet._typing import Tree, TreeLike
from funcnet.optim._pairing import find_owners
from funcnet.optim._scalars import Scalar, as_scalar
from funcnet.optim._update_operations import add, as_dtype_of, as_real
from funcnet.tree import flatten, get


class FlatParams:
    """Which leaves of a tree make up a vector. Absent leaves and integers are left out, and tied tensors count once."""

    def __init__(self, params: TreeLike) -> None:
        leaves = {path: leaf for path, leaf in flatten(params).items() if isinstance(leaf, Tensor) and is_inexact(leaf)}
        if not leaves:
            raise TreeError("the params have no floating or complex tensor, so there is nothing to optimize.")
        paths = list(leaves)
        self._owners = dict(zip(paths, find_owners(list(leaves.values())), strict=True))
        self._paths = [path for at, path in enumerate(paths) if self._owners[path] == at]
        self._shares = [[path for path in paths if paths[self._owners[path]] == owner] for owner in self._paths]

    @property
    def first_path(self) -> str:
        """The path of the first leaf."""
        return self._paths[0]

    def join_grads(self, grads: TreeLike) -> Tensor:
        """The gradients in a row; those of a tensor at several paths are added up."""
        rows = []
        for paths in self._shares:
            total = get(grads, paths[0])
            for path in paths[1:]:
                total = total + get(grads, path)
            total = total.to_dense() if total.is_sparse else total
            rows.append(as_real(total.reshape(-1)).reshape(-1))
        return torch.cat(rows)

    def move(self, params: TreeLike, direction: Tensor, t: Scalar) -> Tree:
        """The params plus ``t`` times a direction, which has all params in a row."""
        offset = 0
        moved: dict[str, Tensor] = {}
        for paths in self._shares:
            param = get(params, paths[0])
            real = as_real(param)
            part = direction[offset : offset + real.numel()].view_as(real)
            offset += real.numel()
            new_param = as_dtype_of(add(real, part, as_scalar(t)), param)
            moved.update(dict.fromkeys(paths, new_param))
        return _replace_leaves(params, "", moved)


def _replace_leaves(tree: TreeLike, prefix: str, leaves: Mapping[str, Any]) -> Tree:
    result: Tree = {}
    for key, value in tree.items():
        path = f"{prefix}.{key}" if prefix else key
        result[key] = _replace_leaves(value, path, leaves) if isinstance(value, Mapping) else leaves.get(path, value)
    return result
