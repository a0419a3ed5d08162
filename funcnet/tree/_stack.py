"""The members of an ensemble: many trees as one tree with an axis more, and back."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from funcnet._errors import TreeError, bullet_list
from funcnet._typing import Tree, TreeLike
from funcnet.tree._arithmetic import collect_tensors
from funcnet.tree._paths import map, map_with_path, require_same_paths


def stack(trees: Sequence[TreeLike], dim: int = 0) -> Tree:
    """One tree of several with the same paths: the leaves at each path stacked along a new axis.

    It is what ``torch.vmap`` maps over: ``torch.vmap(net, in_dims=(0, None))(stack(members), x)``.

    Args:
        trees: nested dicts of tensors of the same shapes and dtypes. ``None`` and ``ABSENT`` stay as they are.
        dim: position of the new axis in each leaf.

    Raises:
        TreeError: if there is no tree, or paths, shapes or dtypes differ; names all of them.

    >>> stack([{"w": torch.tensor([1, 2])}, {"w": torch.tensor([3, 4])}])
    {'w': tensor([[1, 2], [3, 4]])}
    """
    members = list(trees)
    if not members:
        raise TreeError("stack needs at least one tree, got none.")
    require_same_paths("stack", *members)
    first, *others = (collect_tensors(tree, "stack") for tree in members)
    problems = [
        f"{path!r} is {_describe(leaf)} in tree {index}, and {_describe(first[path])} in tree 0"
        for index, leaves in enumerate(others, 1)
        for path, leaf in leaves.items()
        if (leaf.shape, leaf.dtype) != (first[path].shape, first[path].dtype)
    ]
    if problems:
        raise TreeError(f"stack needs leaves of the same shapes and dtypes:{bullet_list(problems)}")
    return map(lambda *leaves: torch.stack(leaves, dim), *members)


def _describe(leaf: Tensor) -> str:
    return f"{str(leaf.dtype).removeprefix('torch.')} {tuple(leaf.shape)}"


def unstack(tree: TreeLike, dim: int = 0) -> list[Tree]:
    """The trees that were stacked into this one; their leaves are views of its leaves.

    Args:
        tree: nested dicts of tensors that have the same size along ``dim``.
        dim: the axis that counts the trees.

    Raises:
        TreeError: if a leaf has no such axis, or sizes differ; names all of them. A tree without leaves does not say
            how many trees it is made of.

    >>> unstack({"w": torch.tensor([[1, 2], [3, 4]])})
    [{'w': tensor([1, 2])}, {'w': tensor([3, 4])}]
    """
    leaves = collect_tensors(tree, "unstack")
    if not leaves:
        raise TreeError("unstack needs a leaf, whose size along the axis is the number of trees; the tree has none.")
    has_axis = {path: -leaf.dim() <= dim < leaf.dim() for path, leaf in leaves.items()}
    sizes = {path: leaf.shape[dim] for path, leaf in leaves.items() if has_axis[path]}
    if len(set(sizes.values())) != 1 or not all(has_axis.values()):
        lines = [
            f"{path!r}: {sizes[path]}"
            if has_axis[path]
            else f"{path!r}: no axis {dim}, its shape is {tuple(leaf.shape)}"
            for path, leaf in leaves.items()
        ]
        raise TreeError(f"unstack needs leaves of the same size along axis {dim}:{bullet_list(lines)}")
    slices = {path: leaf.unbind(dim) for path, leaf in leaves.items()}
    count = next(iter(sizes.values()))
    return [map_with_path(partial(_read_slice, slices, index), tree) for index in range(count)]


def _read_slice(slices: dict[str, tuple[Tensor, ...]], index: int, path: str, leaf: Tensor) -> Tensor:
    return slices[path][index]
