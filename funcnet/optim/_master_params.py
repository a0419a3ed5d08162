"""Steps in float32 for params in half precision, in which small steps would be lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from funcnet._errors import TreeError
from funcnet._torch import register_constant
from funcnet._typing import Tree, TreeLike
from funcnet.optim._donated_memory import are_writable
from funcnet.optim._pairing import describe, require_tree
from funcnet.tree import ABSENT, flatten, map, map_with_path


class IsOptimizer(Protocol):
    """What an optimizer of ``funcnet.optim`` has."""

    @property
    def groups(self) -> Mapping[Any, Mapping[str, Any]]: ...

    def values(self) -> dict[str, Any]: ...

    def init(self, params: TreeLike, **hyperparameters: Any) -> Tree: ...

    def step(
        self, params: TreeLike, grads: TreeLike, state: TreeLike, *, donate: bool = False, **hyperparameters: Any
    ) -> tuple[Tree, Tree]: ...


@dataclass(frozen=True)
class MasterParams:
    """An optimizer that keeps copies in float32 of params in half precision, steps those, and rounds them.

    Its state is ``{"master": the copies, "optimizer": the optimizer's own state}``. Params in float32 have no copy.

    Args:
        optimizer: a record of ``funcnet.optim``.
        dtype: of the copies.

    >>> from funcnet.optim import SGD
    >>> optimizer = MasterParams(SGD(lr=1.0))
    >>> params = {"w": torch.tensor(1.0, dtype=torch.bfloat16)}
    >>> state = optimizer.init(params)
    >>> for _ in range(4):
    ...     params, state = optimizer.step(params, {"w": torch.tensor(2.0**-9, dtype=torch.bfloat16)}, state)
    >>> params, state["master"]         # each step alone would have been rounded away
    ({'w': tensor(0.9922, dtype=torch.bfloat16)}, {'w': tensor(0.9922)})
    """

    optimizer: IsOptimizer
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        if not hasattr(self.optimizer, "init"):
            raise TypeError(
                f"MasterParams takes a record of funcnet.optim, as MasterParams(AdamW(lr=1e-3)), and this is "
                f"{type(self.optimizer).__module__}.{type(self.optimizer).__name__}."
            )

    @property
    def groups(self) -> Mapping[Any, Mapping[str, Any]]:
        """The groups of the optimizer."""
        return self.optimizer.groups

    def values(self) -> dict[str, Any]:
        """The hyperparameters of the optimizer by name."""
        return self.optimizer.values()

    def init(self, params: TreeLike, **hyperparameters: Any) -> Tree:
        """The state before the first step. Arguments as those of the optimizer."""
        require_tree(params)
        copies: dict[int, Tensor] = {}  # a tensor at two paths is tied, and so is its copy

        def copy_half(leaf: Any) -> Any:
            if not self._needs_master(leaf):
                return ABSENT
            if id(leaf) not in copies:
                copies[id(leaf)] = leaf.detach().to(self.dtype)
            return copies[id(leaf)]

        master = map(copy_half, params)
        return {"master": master, "optimizer": self.optimizer.init(_overlay(params, master), **hyperparameters)}

    def step(
        self, params: TreeLike, grads: TreeLike, state: TreeLike, *, donate: bool = False, **hyperparameters: Any
    ) -> tuple[Tree, Tree]:
        """The params and the state after one step. Arguments and errors as those of the optimizer.

        Gradients may come in the dtype of their param or of its copy.
        """
        if not isinstance(state, Mapping) or not {"master", "optimizer"} <= state.keys():
            raise TreeError(
                "the state of MasterParams is a dict with 'master' and 'optimizer', as its init(params) makes it; "
                f"this is {describe(state)}."
            )
        full = _overlay(params, state["master"])
        masters = flatten(state["master"])

        casts: dict[int, Tensor] = {}  # a gradient that tied params share stays one tensor, which counts once

        def cast_grad(path: str, grad: Any) -> Any:
            if path not in masters or not isinstance(grad, Tensor):
                return grad
            if id(grad) not in casts:
                casts[id(grad)] = grad.to(masters[path].dtype)
            return casts[id(grad)]

        new_full, optimizer_state = self.optimizer.step(
            full, map_with_path(cast_grad, grads), state["optimizer"], donate=donate, **hyperparameters
        )
        new_leaves = flatten(new_full)
        halves = {path: leaf for path, leaf in flatten(params).items() if path in masters}
        writable = dict(zip(halves, are_writable(halves.values()), strict=True)) if donate else {}

        def round_leaf(path: str, leaf: Any) -> Any:
            if path not in masters:
                return new_leaves[path]
            return leaf.copy_(new_leaves[path]) if writable.get(path) else new_leaves[path].to(leaf.dtype)

        new_master = map_with_path(lambda path, leaf: new_leaves[path], state["master"])
        return map_with_path(round_leaf, params), {**state, "master": new_master, "optimizer": optimizer_state}

    def _needs_master(self, leaf: Any) -> bool:
        return isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.dtype.itemsize < self.dtype.itemsize


def _overlay(params: TreeLike, master: TreeLike) -> Tree:
    """The params with their copies in place of those that have one."""
    masters = flatten(master)
    return map_with_path(lambda path, leaf: masters.get(path, leaf), params)


register_constant(MasterParams)
