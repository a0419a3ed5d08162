"""A tree as one vector, and the way back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from funcnet._errors import TreeError, bullet_list
from funcnet._tensors import is_inexact
from funcnet._typing import Tree, TreeLike
from funcnet.tree._arithmetic import collect_tensors
from funcnet.tree._paths import map_with_path


def ravel(tree: TreeLike) -> tuple[Tensor, Callable[[Tensor], Tree]]:
    """All numbers of a tree as one vector, and the function that makes such a tree of a vector again.

    Args:
        tree: nested dicts of tensors, which are all floating or complex, or all integer. ``None`` and ``ABSENT`` stay
            where they are.

    Returns:
        The vector, shape (N,), and ``unravel(vector)``. The numbers come in the tree's order, each leaf row by row, in
        the dtype that torch promotes all leaves to; ``unravel`` gives each leaf its own dtype back.

    Raises:
        TreeError: if a leaf is not a tensor, or if there are integer and floating leaves, which cannot hold all
            integers; names all of them. ``unravel`` raises it for a vector of a different shape.

    >>> vector, unravel = ravel({"weight": torch.ones(2, 2), "bias": torch.zeros(1)})
    >>> vector
    tensor([1., 1., 1., 1., 0.])
    >>> unravel(2 * vector)
    {'weight': tensor([[2., 2.], [2., 2.]]), 'bias': tensor([0.])}
    """
    leaves = collect_tensors(tree, "ravel")
    integers = [f"{path!r} is {leaf.dtype}" for path, leaf in leaves.items() if not is_inexact(leaf)]
    if integers and len(integers) != len(leaves):
        raise TreeError(
            f"ravel makes one vector of leaves that are all floating, or all integer:{bullet_list(integers)}\n"
            "Take these out with funcnet.tree.partition."
        )
    dtype = torch.get_default_dtype()
    for index, leaf in enumerate(leaves.values()):
        dtype = torch.promote_types(dtype, leaf.dtype) if index else leaf.dtype
    sizes = [leaf.numel() for leaf in leaves.values()]
    if leaves:
        vector = torch.cat([leaf.reshape(-1).to(dtype) for leaf in leaves.values()])
    else:
        vector = torch.empty(0, dtype=dtype)
    specs = {path: (leaf.shape, leaf.dtype) for path, leaf in leaves.items()}
    structure = map_with_path(lambda path, leaf: path, tree)

    def unravel(vector: Tensor) -> Tree:
        if vector.shape != (sum(sizes),):
            raise TreeError(
                f"unravel makes a tree of a vector of shape ({sum(sizes)},), got shape {tuple(vector.shape)}. "
                "Of several vectors it makes trees under torch.vmap(unravel)."
            )
        pieces = dict(zip(specs, vector.split(sizes), strict=True)) if specs else {}

        def read_leaf(path: str) -> Any:
            shape, dtype = specs[path]
            return pieces[path].reshape(shape).to(dtype)

        return map_with_path(lambda path, _: read_leaf(path), structure)

    return vector, unravel
