"""Values with gradients, at the memory of a plain backward pass."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from typing import Any

import optree
import torch
from torch import Tensor

from funcnet._context import under_transform
from funcnet._torch import AccumulateGrad


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
    def both(*args: Any, **kwargs: Any) -> Any:
        if any(not -len(args) <= number < len(args) for number in numbers):
            raise TypeError(f"argnums={argnums} needs {max(numbers) + 1} positional arguments, got {len(args)}.")
        if torch.compiler.is_compiling() or under_transform() or _differentiated(args):
            grads, value = torch.func.grad_and_value(function, argnums, has_aux)(*args, **kwargs)
            return value, grads
        keeps = torch.is_grad_enabled()
        chosen: Any = tuple(args[number] for number in numbers)
        leaves: list[Any]
        leaves, treedef = optree.tree_flatten(chosen)
        with torch.enable_grad():
            inputs = [leaf.detach().requires_grad_(_differentiable(leaf)) for leaf in leaves]
            given = list(args)
            for number, tree in zip(numbers, optree.tree_unflatten(treedef, inputs), strict=True):
                given[number] = tree
            _inside.depth = 1
            try:
                result = function(*given, **kwargs)
            finally:
                _inside.depth = 0
        value = result[0] if has_aux else result
        if not isinstance(value, Tensor) or value.numel() != 1:
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            hint = " Of (value, more) it takes has_aux=True." if isinstance(value, tuple) and not has_aux else ""
            raise ValueError(f"value_and_grad needs a scalar tensor from {function!r}, got {got}.{hint}")
        # A graph that reaches other leaves belongs to somebody else too, who may differentiate the gradient.
        keeps = keeps and _reaches_others(value, inputs)
        wanted = [leaf for leaf in inputs if leaf.requires_grad]
        found: dict[int, Tensor] = {}
        if value.requires_grad:
            each = torch.autograd.grad(value, wanted, create_graph=keeps, allow_unused=True, materialize_grads=True)
            found = dict(zip(map(id, wanted), each, strict=True))
        filled = [found[id(x)] if id(x) in found else torch.zeros_like(x) for x in inputs]
        grads = optree.tree_unflatten(treedef, filled)
        if not keeps:
            result = optree.tree_map(_detached, result)
        return result, grads[0] if isinstance(argnums, int) else grads

    return both


def _reaches_others(value: Tensor, inputs: list[Tensor]) -> bool:
    """Whether the graph of a value ends in leaves other than these."""
    own = {id(leaf) for leaf in inputs}
    todo = [node for node in (value.grad_fn,) if node is not None]
    seen = set(todo)
    while todo:
        for node, _ in todo.pop().next_functions:
            if node is None or node in seen:
                continue
            seen.add(node)
            if type(node) is not AccumulateGrad:
                todo.append(node)
            elif id(node.variable) not in own:  # type: ignore[attr-defined]
                return True
    return False


_inside = threading.local()


def _differentiated(args: Any) -> bool:
    """Whether someone differentiates through this call: an outer value_and_grad, or autograd by an argument."""
    if getattr(_inside, "depth", 0):
        return True
    leaves: list[Any] = optree.tree_leaves(args)
    return torch.is_grad_enabled() and any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in leaves)


def _differentiable(leaf: Tensor) -> bool:
    return leaf.is_floating_point() or leaf.is_complex()


def _detached(leaf: Any) -> Any:
    return leaf.detach() if isinstance(leaf, Tensor) else leaf
