"""Gradients made smaller before a step: all together by their norm, or number by number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from funcnet._context import is_plainly_eager, under_forward_mode
from funcnet._torch import foreach_mul, foreach_mul_
from funcnet._typing import Tree, TreeLike
from funcnet.optim._donated_memory import are_writable
from funcnet.tree.internals import collect_inexact, norm_of_tensors


def clip_grad_norm(
    grads: TreeLike,
    max_norm: float | Tensor,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    *,
    donate: bool = False,
) -> tuple[Tree, Tensor]:
    """Gradients scaled so that their norm as one vector is at most ``max_norm``, and the norm that they had.

    It has the bits of :func:`torch.nn.utils.clip_grad_norm_` over the params in the tree's order, which is that of
    ``module.parameters()``, and unlike that one it can be differentiated.

    Args:
        grads: nested dicts of tensors. Integer leaves, ``None`` and ``ABSENT`` stay as they are.
        max_norm: the largest norm of the result.
        norm_type: order of the norm; ``inf`` is the largest absolute value, and 0 counts the numbers that are not 0,
            where torch counts tensors.
        error_if_nonfinite: whether a norm that is NaN or infinite is an error. By default all gradients become NaN, or
            where the norm is infinite 0, and NaN at what is infinite itself.
        donate: whether the memory of ``grads`` may be written over and returned. It is kept where two leaves share it.

    Returns:
        The gradients, and their norm before clipping, shape ().

    Raises:
        TreeError: if a leaf is not a tensor.
        RuntimeError: if ``error_if_nonfinite`` and the norm is not finite; names the leaves that are not.

    >>> grads = {"weight": torch.tensor([3.0, 0.0]), "bias": torch.tensor(4.0)}
    >>> clip_grad_norm(grads, 2.5)
    ({'weight': tensor([1.5000, 0.0000]), 'bias': tensor(2.0000)}, tensor(5.))
    """
    leaves = collect_inexact(grads, "clip_grad_norm")
    total_norm = norm_of_tensors(list(leaves.values()), norm_type)
    if error_if_nonfinite and not torch.isfinite(total_norm):
        paths = [path for path, leaf in leaves.items() if not torch.isfinite(leaf).all()]
        reason = f"not finite are {', '.join(paths)}" if paths else "the sum of finite numbers overflows"
        raise RuntimeError(
            f"gradients cannot be clipped whose norm of order {norm_type} is {total_norm.item()}: {reason}."
        )
    factor = torch.clamp(max_norm / (total_norm + 1e-6), max=1.0)
    tensors = list(leaves.values())
    return replace_leaves(grads, tensors, scale_tensors(tensors, factor, donate)), total_norm


def scale_tensors(tensors: list[Tensor], factor: Tensor, donate: bool) -> list[Tensor]:
    """Tensors times a factor of shape (); written over those that may be, if they are donated."""
    if not tensors:
        return []
    if not is_plainly_eager() or under_forward_mode() or any(tensor.device != factor.device for tensor in tensors):
        return [tensor * factor.to(tensor.device) for tensor in tensors]
    if not donate:
        return list(foreach_mul(tensors, factor))
    writable = are_writable(tensors)
    if all(writable):
        foreach_mul_(tensors, factor)
        return tensors
    return [
        tensor.mul_(factor) if may_write else tensor * factor
        for tensor, may_write in zip(tensors, writable, strict=True)
    ]


def clip_grad_value(grads: TreeLike, clip_value: float, *, donate: bool = False) -> Tree:
    """Gradients with every number brought into [-clip_value, clip_value].

    It has the bits of :func:`torch.nn.utils.clip_grad_value_`, and unlike that one it can be differentiated.

    Args:
        grads: nested dicts of real tensors. Integer leaves, ``None`` and ``ABSENT`` stay as they are.
        clip_value: the largest absolute value of a number of the result.
        donate: whether the memory of ``grads`` may be written over and returned. It is kept where two leaves share it.

    Raises:
        TreeError: if a leaf is not a tensor.

    >>> clip_grad_value({"weight": torch.tensor([3.0, -0.5])}, 1.0)
    {'weight': tensor([ 1.0000, -0.5000])}
    """
    limit = float(clip_value)
    tensors = list(collect_inexact(grads, "clip_grad_value").values())
    writable = are_writable(tensors) if donate else [False] * len(tensors)
    clamped = [
        tensor.clamp_(-limit, limit) if may_write else tensor.clamp(-limit, limit)
        for tensor, may_write in zip(tensors, writable, strict=True)
    ]
    return replace_leaves(grads, tensors, clamped)


def replace_leaves(tree: TreeLike, leaves: Iterable[Tensor], new_leaves: Iterable[Tensor]) -> Tree:
    """The tree with new tensors in place of some of its own, wherever they stand."""
    return _replace_by_id(tree, {id(leaf): new for leaf, new in zip(leaves, new_leaves, strict=True)})


def _replace_by_id(tree: TreeLike, new_by_id: Mapping[int, Tensor]) -> Tree:
    result: Tree = {}
    for key, value in tree.items():
        kind = type(value)
        if kind is dict or (kind is not Tensor and isinstance(value, Mapping)):
            result[key] = _replace_by_id(value, new_by_id)
        else:
            result[key] = new_by_id.get(id(value), value)
    return result
