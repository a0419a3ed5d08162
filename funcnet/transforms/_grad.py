"""Values with gradients, at the memory of a plain backward pass."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from typing import Any

import optree
import torch
from torch import Tensor

from funcnet._torch import under_transform


def value_and_grad(function: Callable[..., Any], argnums: int = 0, has_aux: bool = False) -> Callable[..., Any]:
    """A function that returns the value of ``function`` and its gradient by one argument.

    At top level it runs torch.autograd.grad, which frees the graph as it goes; ``torch.func.grad`` always keeps it for
    a second derivative, at about twice the peak memory. Under vmap, grad or compile, inside another ``value_and_grad``,
    and where the argument requires grad already, it is ``torch.func.grad_and_value``, so it nests. Same bits.

    Args:
        function: returns a scalar tensor; with ``has_aux``, a pair of one and anything.
        argnums: position of the argument, a nested dict of tensors, or a tensor. Integer tensors get gradient zero.
        has_aux: whether ``function`` returns ``(value, aux)``.

    Returns:
        A function with the arguments of ``function`` that returns ``(value, grads)``, or ``((value, aux), grads)``.

    Raises:
        ValueError: if the value is not a scalar tensor.

    >>> loss = lambda params, x: (params["w"] * x).sum()
    >>> value_and_grad(loss)({"w": torch.tensor([1.0, 2.0])}, torch.tensor([3.0, 4.0]))
    (tensor(11.), {'w': tensor([3., 4.])})
    """

    @wraps(function)
    def both(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or under_transform() or _differentiated(args[argnums]):
            grads, value = torch.func.grad_and_value(function, argnums, has_aux)(*args, **kwargs)
            return value, grads
        leaves, treedef = optree.tree_flatten(args[argnums])
        with torch.enable_grad():
            inputs = [leaf.detach().requires_grad_(_differentiable(leaf)) for leaf in leaves]
            given = (*args[:argnums], optree.tree_unflatten(treedef, inputs), *args[argnums + 1 :])
            _inside.depth = 1
            try:
                result = function(*given, **kwargs)
            finally:
                _inside.depth = 0
        value = result[0] if has_aux else result
        if not isinstance(value, Tensor) or value.numel() != 1:
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"value_and_grad needs a scalar tensor from {function!r}, got {got}.")
        wanted = [leaf for leaf in inputs if leaf.requires_grad]
        found: Any = (
            torch.autograd.grad(value, wanted, allow_unused=True, materialize_grads=True) if value.requires_grad else ()
        )
        each = iter(found)
        filled = [
            next(each, torch.zeros_like(leaf)) if leaf.requires_grad else torch.zeros_like(leaf) for leaf in inputs
        ]
        return optree.tree_map(_detached, result), optree.tree_unflatten(treedef, filled)

    return both


_inside = threading.local()


def _differentiated(argument: Any) -> bool:
    """Whether someone differentiates through this call: an outer value_and_grad, or autograd by the argument itself."""
    if getattr(_inside, "depth", 0):
        return True
    leaves: list[Any] = optree.tree_leaves(argument)
    return torch.is_grad_enabled() and any(leaf.requires_grad for leaf in leaves)


def _differentiable(leaf: Tensor) -> bool:
    return leaf.is_floating_point() or leaf.is_complex()


def _detached(leaf: Any) -> Any:
    return leaf.detach() if isinstance(leaf, Tensor) else leaf
