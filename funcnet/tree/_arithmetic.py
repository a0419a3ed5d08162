"""Trees as vectors: norm, inner product, sum, difference and multiple.

The numbers of the vector are those of the floating and complex leaves. A tree has one leaf for each path, so a tensor
that stands at two paths counts twice; a tied tensor of a net stands at one.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from funcnet._context import is_plainly_eager, under_forward_mode
from funcnet._errors import TreeError, bullet_list
from funcnet._tensors import is_inexact
from funcnet._torch import foreach_norm, group_by_device_and_dtype
from funcnet._typing import Tree, TreeLike
from funcnet.tree._paths import flatten, map, require_same_paths


def norm(tree: TreeLike, ord: float = 2.0) -> Tensor:
    """The norm of all numbers of a tree as one vector; shape ().

    It has the bits of :func:`torch.nn.utils.get_total_norm` over the leaves in the tree's order, and a gradient.

    Args:
        tree: nested dicts of tensors. Integer leaves, ``None`` and ``ABSENT`` do not count.
        ord: order of the norm, as in :func:`torch.linalg.vector_norm`; ``inf`` is the largest absolute value.

    Raises:
        TreeError: if a leaf is not a tensor; names all of them.

    >>> norm({"weight": torch.tensor([3.0, 0.0]), "bias": torch.tensor(4.0)})
    tensor(5.)
    """
    return norm_of_tensors(list(collect_inexact(tree, "norm").values()), ord)


def norm_of_tensors(tensors: list[Tensor], ord: float) -> Tensor:
    """The norm of all numbers of some floating and complex tensors as one vector."""
    ord = float(ord)
    if math.isinf(ord):
        tensors = [tensor for tensor in tensors if tensor.numel()]  # of no numbers none is the largest
    if not tensors:
        return torch.tensor(0.0)
    grouped = group_by_device_and_dtype(tensors)
    if is_plainly_eager() and not under_forward_mode():  # one call for all is quicker where they are small
        norms = list(foreach_norm(grouped, ord))
    else:
        norms = [torch.linalg.vector_norm(tensor, ord) for tensor in grouped]
    devices = {value.device for value in norms}
    stacked = torch.stack(norms if len(devices) == 1 else [value.to(tensors[0].device) for value in norms])
    # Order 0 counts the numbers that are not zero: the counts are added, not counted.
    return stacked.sum() if ord == 0 else torch.linalg.vector_norm(stacked, ord)


def dot(left: TreeLike, right: TreeLike) -> Tensor:
    """The inner product of two trees as vectors, ``sum(conj(left) * right)``; shape ().

    Args:
        left, right: nested dicts of tensors with the same paths and shapes. Integer leaves, ``None`` and ``ABSENT`` do
            not count. Where two dtypes meet, the product has the one that torch promotes them to.

    Raises:
        TreeError: if paths or shapes differ, or a leaf is not a tensor; names all of them.

    >>> left, right = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([3.0, 4.0])}
    >>> dot(left, right)
    tensor(11.)
    """
    require_same_paths("dot", left, right)
    lefts, rights = collect_inexact(left, "dot"), collect_inexact(right, "dot")
    problems = [
        f"{path!r} has shape {tuple(lefts[path].shape)} in one tree and {tuple(rights[path].shape)} in the other"
        for path in lefts
        if path in rights and lefts[path].shape != rights[path].shape
    ]
    if problems:
        raise TreeError(f"dot needs leaves of the same shapes:{bullet_list(problems)}")
    products = [_inner_product(lefts[path], rights[path]) for path in lefts if path in rights]
    if not products:
        return torch.tensor(0.0)
    return torch.stack([value.to(products[0].device) for value in products]).sum()


def _inner_product(left: Tensor, right: Tensor) -> Tensor:
    dtype = torch.promote_types(left.dtype, right.dtype)
    return torch.linalg.vecdot(left.to(dtype).flatten(), right.to(dtype).flatten())


def collect_tensors(tree: TreeLike, verb: str) -> dict[str, Tensor]:
    """The leaves of a tree by path, in its order, without ``None``.

    Raises:
        TreeError: if a leaf is not a tensor; the message says what ``verb`` takes.
    """
    leaves = {path: leaf for path, leaf in flatten(tree).items() if leaf is not None}
    problems = [
        f"{path!r} is of type {type(leaf).__name__}" for path, leaf in leaves.items() if not isinstance(leaf, Tensor)
    ]
    if problems:
        raise TreeError(
            f"{verb} takes nested dicts of tensors:{bullet_list(problems)}\n"
            "Take them out with funcnet.tree.partition, or make tensors of them."
        )
    return leaves


def collect_inexact(tree: TreeLike, verb: str) -> dict[str, Tensor]:
    """The floating and complex leaves of a tree by path, as :func:`collect_tensors` does."""
    return {path: leaf for path, leaf in collect_tensors(tree, verb).items() if is_inexact(leaf)}


def add(left: TreeLike, right: TreeLike, *, alpha: float | Tensor = 1) -> Tree:
    """The sum of two trees, ``left + alpha * right``, leaf by leaf.

    Args:
        left, right: nested dicts with the same paths. Dtypes are promoted as torch does it.
        alpha: factor of the floating and complex leaves of ``right``; integer leaves are added as they are.

    Raises:
        TreeError: if the trees do not have the same paths; names those that differ.

    >>> params, grads = {"w": torch.tensor(1.0)}, {"w": torch.tensor(2.0)}
    >>> add(params, grads, alpha=-0.25)
    {'w': tensor(0.5000)}
    """

    def add_leaves(left: Any, right: Any) -> Any:
        if not isinstance(right, Tensor) or not is_inexact(right):
            return left + right
        if not isinstance(alpha, Tensor):
            return torch.add(left, right, alpha=alpha)
        return left + alpha.to(right.device) * right

    return map(add_leaves, left, right)


def sub(left: TreeLike, right: TreeLike, *, alpha: float | Tensor = 1) -> Tree:
    """The difference of two trees, ``left - alpha * right``, leaf by leaf. Arguments and errors as in :func:`add`.

    >>> sub({"w": torch.tensor(1.0)}, {"w": torch.tensor(2.0)})
    {'w': tensor(-1.)}
    """

    def subtract_leaves(left: Any, right: Any) -> Any:
        if not isinstance(right, Tensor) or not is_inexact(right):
            return left - right
        if not isinstance(alpha, Tensor):
            return torch.sub(left, right, alpha=alpha)
        return left - alpha.to(right.device) * right

    return map(subtract_leaves, left, right)


def scale(tree: TreeLike, factor: float | Tensor) -> Tree:
    """The multiple of a tree, ``factor * tree``; integer leaves stay as they are, because a half of one has no place.

    >>> scale({"w": torch.tensor(3.0), "steps": torch.tensor(7)}, 0.5)
    {'w': tensor(1.5000), 'steps': tensor(7)}
    """

    def scale_leaf(leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and not is_inexact(leaf):
            return leaf
        return leaf * (factor.to(leaf.device) if isinstance(factor, Tensor) and isinstance(leaf, Tensor) else factor)

    return map(scale_leaf, tree)


def zeros_like(tree: TreeLike, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tree:
    """Zeros of the shapes, dtypes, devices and strides of a tree's leaves.

    Args:
        tree: nested dicts of tensors.
        dtype: of the floating and complex leaves, if not their own.
        device: of all leaves, if not their own.

    >>> zeros_like({"w": torch.ones(2), "steps": torch.tensor(7)}, dtype=torch.float64)
    {'w': tensor([0., 0.], dtype=torch.float64), 'steps': tensor(0)}
    """
    return map(
        lambda leaf: torch.zeros_like(leaf, dtype=dtype if is_inexact(leaf) else None, device=device),
        tree,
    )
