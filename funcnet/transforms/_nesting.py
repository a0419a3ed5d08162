"""Who else differentiates a call: a transform around it, autograd itself, or nobody."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import optree
import torch
from torch import Tensor

from funcnet._context import under_forward_mode, under_transform
from funcnet._torch import AccumulateGrad, is_wrapped_by_transform


class _Running(threading.local):
    """Its ``depth`` is 1 in a thread that runs the function of a ``value_and_grad``."""

    depth = 0


running = _Running()


@contextlib.contextmanager
def recorded_by_autograd() -> Iterator[None]:
    """Run a block that autograd itself records for a derivative of this package."""
    running.depth = 1
    try:
        yield
    finally:
        running.depth = 0


def is_nested() -> bool:
    """Whether the call is inside of a transform of torch.func, or of a function that a derivative is taken of here."""
    return under_transform() or is_within_backward()


def is_within_backward() -> bool:
    """Whether the call is inside of a function that autograd itself records for a derivative of this package."""
    return not torch.compiler.is_compiling() and running.depth > 0


def plain_backward_suffices(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether only this call differentiates by the arguments, and autograd may record what is computed from them."""
    if torch.is_inference_mode_enabled() or under_forward_mode():  # a plain backward pass drops tangents
        return False
    is_recording = torch.is_grad_enabled()
    return not _is_claimed(args, is_recording) and not (kwargs and _is_claimed(kwargs, is_recording))


def _is_claimed(tree: Any, is_recording: bool) -> bool:
    """Whether a tree has a tensor that somebody else differentiates by, or that autograd cannot record."""
    if isinstance(tree, Tensor):
        return (is_recording and tree.requires_grad) or tree.is_inference()
    kind = type(tree)
    if kind is not dict and kind is not tuple:
        return any(isinstance(leaf, Tensor) and _is_claimed(leaf, is_recording) for leaf in optree.tree_leaves(tree))
    for value in tree.values() if kind is dict else tree:  # quicker than any() with a generator
        if type(value) is Tensor:
            if (is_recording and value.requires_grad) or value.is_inference():
                return True
        elif _is_claimed(value, is_recording):
            return True
    return False


def is_traced_here(value: Tensor) -> bool:
    """Whether a value depends on the arguments of the transform that the caller is in, the only one there is."""
    return value.requires_grad and (torch.compiler.is_compiling() or is_wrapped_by_transform(value))


def reaches_other_leaves(value: Tensor, inputs: list[Tensor]) -> bool:
    """Whether the graph of a value ends in leaves other than these."""
    input_ids = set(map(id, inputs))
    nodes: list[Any] = [] if value.grad_fn is None else [value.grad_fn]
    visited = set(nodes)
    for node in nodes:  # which grows
        for next_node, _ in node.next_functions:
            if type(next_node) is AccumulateGrad:
                if id(next_node.variable) not in input_ids:  # type: ignore[attr-defined]
                    return True
            elif next_node not in visited and next_node is not None:
                visited.add(next_node)
                nodes.append(next_node)
    return False
