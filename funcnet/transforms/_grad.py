"""Values with gradients, at the memory of a plain backward pass."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar, overload

import optree
import torch
from torch import Tensor

from funcnet._context import under_transform
from funcnet._tensors import is_inexact
from funcnet._torch import AccumulateGrad

A = TypeVar("A")
P = ParamSpec("P")
R = TypeVar("R")


@overload
def value_and_grad(  # type: ignore[overload-overlap]  # the gradient by argument 0 has the type of that argument
    function: Callable[Concatenate[A, P], R], argnums: Literal[0] = 0, has_aux: bool = False
) -> Callable[Concatenate[A, P], tuple[R, A]]: ...
@overload
def value_and_grad(function: Callable[P, R], argnums: int, has_aux: bool = False) -> Callable[P, tuple[R, Any]]: ...
@overload
def value_and_grad(
    function: Callable[P, R], argnums: tuple[int, ...], has_aux: bool = False
) -> Callable[P, tuple[R, tuple[Any, ...]]]: ...
def value_and_grad(
    function: Callable[..., Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """A function that returns the value of ``function`` and its gradient by one argument.

    At top level it runs torch.autograd.grad, which frees the graph as it goes; ``torch.func.grad`` always keeps it for
    a second derivative, at about twice the peak memory. Under vmap, grad or compile, inside another ``value_and_grad``,
    and where an argument requires grad already, it is ``torch.func.grad_and_value``, so it nests. Same bits.

    Args:
        function: returns a scalar tensor; with ``has_aux``, a pair of one and anything.
        argnums: position of the argument, a nested dict of tensors or a tensor; or a tuple of positions, for a tuple of
            gradients. Integer tensors get gradient zero.
        has_aux: whether ``function`` returns ``(value, aux)``.

    Returns:
        A function with the arguments of ``function`` that returns ``(value, grads)``, or ``((value, aux), grads)``.

    Raises:
        ValueError: if the value is not a scalar tensor.

    >>> loss = lambda params, x: (params["w"] * x).sum()
    >>> value_and_grad(loss)({"w": torch.tensor([1.0, 2.0])}, torch.tensor([3.0, 4.0]))
    (tensor(11.), {'w': tensor([3., 4.])})
    """
    numbers = (argnums,) if isinstance(argnums, int) else tuple(argnums)

    @wraps(function)
    def compute_value_and_grad(*args: Any, **kwargs: Any) -> Any:
        if any(not -len(args) <= number < len(args) for number in numbers):
            raise TypeError(f"argnums={argnums} needs {max(numbers) + 1} positional arguments, got {len(args)}.")
        if torch.compiler.is_compiling() or under_transform() or _is_differentiated(args):
            grads, value = torch.func.grad_and_value(function, argnums, has_aux)(*args, **kwargs)
            return value, grads
        keeps_graph = torch.is_grad_enabled()
        leaves, treedef = _flatten(tuple(args[number] for number in numbers))
        with torch.enable_grad():
            inputs = [leaf.detach().requires_grad_(is_inexact(leaf)) for leaf in leaves]
            traced_args = list(args)
            for number, tree in zip(numbers, optree.tree_unflatten(treedef, inputs), strict=True):
                traced_args[number] = tree
            _running.depth = 1
            try:
                result = function(*traced_args, **kwargs)
            finally:
                _running.depth = 0
        value = result[0] if has_aux else result
        _check_scalar(function, value, has_aux)
        # A graph that reaches other leaves belongs to somebody else too, who may differentiate the gradient.
        keeps_graph = keeps_graph and _reaches_other_leaves(value, inputs)
        grads = optree.tree_unflatten(treedef, _compute_grads(value, inputs, keeps_graph))
        if not keeps_graph:
            result = optree.tree_map(_detach, result)
        return result, grads[0] if isinstance(argnums, int) else grads

    return compute_value_and_grad


def _flatten(trees: Any) -> tuple[list[Any], Any]:
    """The leaves and the structure of nested data; optree's own types do not cover tuples of dicts."""
    leaves: list[Any]
    leaves, treedef = optree.tree_flatten(trees)
    return leaves, treedef


def _check_scalar(function: Callable[..., Any], value: object, has_aux: bool) -> None:
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        hint = " Of (value, more) it takes has_aux=True." if isinstance(value, tuple) and not has_aux else ""
        raise ValueError(f"value_and_grad needs a scalar tensor from {function!r}, got {got}.{hint}")


def _compute_grads(value: Tensor, inputs: list[Tensor], keeps_graph: bool) -> list[Tensor]:
    """The gradient by each input; zeros where the value does not depend on it, or it has none."""
    differentiable = [leaf for leaf in inputs if leaf.requires_grad]
    grads_by_id: dict[int, Tensor] = {}
    if value.requires_grad:
        grads = torch.autograd.grad(
            value, differentiable, create_graph=keeps_graph, allow_unused=True, materialize_grads=True
        )
        grads_by_id = dict(zip(map(id, differentiable), grads, strict=True))
    return [grads_by_id[id(leaf)] if id(leaf) in grads_by_id else torch.zeros_like(leaf) for leaf in inputs]


def _reaches_other_leaves(value: Tensor, inputs: list[Tensor]) -> bool:
    """Whether the graph of a value ends in leaves other than these."""
    input_ids = {id(leaf) for leaf in inputs}
    waiting = [] if value.grad_fn is None else [value.grad_fn]
    visited = set(waiting)
    while waiting:
        for node, _ in waiting.pop().next_functions:
            if node is None or node in visited:
                continue
            visited.add(node)
            if type(node) is not AccumulateGrad:
                waiting.append(node)
            elif id(node.variable) not in input_ids:  # type: ignore[attr-defined]
                return True
    return False


_running = threading.local()
"""Its ``depth`` is 1 in a thread that runs the function of a ``value_and_grad``."""


def _is_differentiated(args: tuple[Any, ...]) -> bool:
    """Whether someone differentiates through this call: an outer value_and_grad, or autograd by an argument."""
    if getattr(_running, "depth", 0):
        return True
    leaves, _ = _flatten(args)
    return torch.is_grad_enabled() and any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in leaves)


def _detach(leaf: Any) -> Any:
    return leaf.detach() if isinstance(leaf, Tensor) else leaf
