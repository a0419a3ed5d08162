"""Products of the Hessian with a vector, by a backward pass through a backward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from funcnet._torch import pytree
from funcnet.kernels.internals import differentiable_kernels
from funcnet.transforms._function_results import independence_error, scalar_of
from funcnet.transforms._nesting import reaches_other_leaves, recorded_by_autograd
from funcnet.transforms._recording import Run, explained_errors, gradient_by_transform, is_outermost, record
from funcnet.transforms._variables import ArgumentVariables, normalize_argnums
from funcnet.transforms._weight_uses import WeightUses


def hvp(function: Callable[..., Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Callable[..., Any]:
    """A function that returns the product of the Hessian of ``function`` with a vector.

    The vector stands right after the argument that is differentiated, and all other arguments follow:
    ``hvp(loss)(params, vector)``, ``hvp(loss)(params, vector, x, y)``.

    It is the derivative of the gradient by a second backward pass, at two to three times the price of a gradient.
    ``torch.func.jvp(torch.func.grad(...))`` takes up to 1.7 times as long, and needs a forward-mode rule for every
    kernel. Inside of other transforms it is ``torch.func.vjp`` of ``torch.func.grad``, so it nests. For many vectors at
    one place map it: ``torch.vmap(hvp(loss), in_dims=(None, 0))(params, vectors)``.

    Args:
        function: returns a scalar tensor; with ``has_aux``, a pair of one and anything.
        argnums: position of the argument, a nested dict of tensors or a tensor, among those of ``function``; or a tuple
            of positions. Then the vector is a tuple of as many trees, right after the last of these arguments, and so
            is the product.
        has_aux: whether ``function`` returns ``(value, aux)``.

    Returns:
        A function with the arguments of ``function`` and the vector, which returns the product, or ``(product, aux)``:
        a tree like the argument. At the places of integer tensors it is zero, and the vector is not read.

    Raises:
        TreeError: if the vector has not the paths, shapes and dtypes of the argument; names all that differ.
        ValueError: if the value is no scalar tensor of real floats, or depends on none of the arguments, as in
            :func:`value_and_grad`.

    Source: Pearlmutter, Fast Exact Multiplication by the Hessian, 1994.

    >>> import torch
    >>> loss = lambda params, x: (params["w"] ** 3 * x).sum()
    >>> params, vector = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([1.0, 0.5])}
    >>> hvp(loss)(params, vector, torch.tensor([1.0, 10.0]))
    {'w': tensor([ 6., 60.])}
    """

    @wraps(function)
    def compute_hvp(*args: Any, **kwargs: Any) -> Any:
        numbers, function_args, vectors = split_vector("hvp", argnums, args)
        variables = ArgumentVariables(function_args, numbers, "hvp")
        directions = variables.match(vectors, "vector")
        is_plain = is_outermost(args, kwargs)
        run = scalar_run(function, variables, kwargs, has_aux)
        multiply = _multiply_by_autograd if is_plain else _multiply_by_transform
        with explained_errors("hvp", function):
            tensors, aux = multiply(run, variables.tensors, directions, lambda: independence_error(function, "hvp"))
        products = variables.fill_derivative(tensors)
        product = products[0] if isinstance(argnums, int) else tuple(products)
        return (product, aux) if has_aux else product

    return compute_hvp


def _multiply_by_transform(
    run: Run, tensors: Sequence[Tensor], directions: list[Tensor], independence_error: Callable[[], Exception]
) -> tuple[list[Tensor], Any]:
    """The product, and what the run returned beside its value."""
    recording = record(gradient_by_transform(run, independence_error), tensors, False)
    return recording.pull_back(directions), recording.rest


def _multiply_by_autograd(
    run: Run, tensors: Sequence[Tensor], directions: list[Tensor], independence_error: Callable[[], Exception]
) -> tuple[list[Tensor], Any]:
    """The same, in two plain backward passes."""
    is_recording = torch.is_grad_enabled()
    inputs = [tensor.detach().requires_grad_() for tensor in tensors]
    uses = WeightUses(inputs, directions)
    with torch.enable_grad():
        with recorded_by_autograd(), uses:
            (value,), rest = run(inputs)
        if not inputs:
            return [], rest
        if not value.requires_grad:
            raise independence_error()
        sources: Any = [*inputs, *uses.outputs]
        grads = torch.autograd.grad(value, sources, create_graph=True, allow_unused=True)
    if all(grad is None for grad in grads):
        raise independence_error()
    leaves = [*inputs, *uses.twins.values()]
    # The graph may reach leaves of somebody else too, who may differentiate the product.
    is_shared = is_recording and reaches_other_leaves(value, leaves)
    # The product is the derivative of the sum of these inner products.
    factors = list(zip(grads, [*directions, *uses.changes], strict=True))
    factors += [(change, grad) for grad, change in zip(grads[len(inputs) :], uses.changes, strict=True)]
    pairs = [(left, right) for left, right in factors if left is not None and right is not None and left.requires_grad]
    if not pairs:
        return [torch.zeros_like(tensor) for tensor in inputs], rest
    lefts, rights = zip(*pairs, strict=True)
    parts = torch.autograd.grad(lefts, leaves, rights, create_graph=is_shared, allow_unused=True)
    products: list[Tensor | None] = list(parts[: len(inputs)])
    for number, part in zip(uses.twins, parts[len(inputs) :], strict=True):
        other = products[number]
        products[number] = other if part is None else part if other is None else other + part
    filled = [torch.zeros_like(tensor) if part is None else part for tensor, part in zip(inputs, products, strict=True)]
    return filled, rest if is_shared else pytree.tree_map_only(Tensor, Tensor.detach, rest)


def split_vector(
    function_name: str, argnums: int | tuple[int, ...], args: tuple[Any, ...]
) -> tuple[tuple[int, ...], list[Any], list[Any]]:
    """The positions of the differentiated arguments, all arguments without the vector, and the parts of the vector.

    >>> split_vector("hvp", 0, ("params", "vector", "x"))
    ((0,), ['params', 'x'], ['vector'])
    """
    if not args:
        raise TypeError(f"{function_name} needs the arguments of the function, and a vector after the first: got none.")
    numbers = normalize_argnums(argnums, len(args) - 1, function_name)
    position = max(numbers) + 1
    vector = args[position]
    if not isinstance(argnums, int) and not (isinstance(vector, (tuple, list)) and len(vector) == len(numbers)):
        raise TypeError(
            f"{function_name} with argnums={argnums} needs a tuple of {len(numbers)} vectors as positional argument "
            f"{position}, got {type(vector).__name__}."
        )
    vectors = [vector] if isinstance(argnums, int) else list(vector)
    return numbers, [*args[:position], *args[position + 1 :]], vectors


def scalar_run(
    function: Callable[..., Any],
    variables: ArgumentVariables,
    kwargs: Mapping[str, Any],
    has_aux: bool,
    is_mapped: bool = False,
) -> Run:
    """The scalar that a function returns, as a function of the variables in its arguments, and its aux.

    Args:
        function, variables, kwargs, has_aux: the function and its call.
        is_mapped: whether the second derivative is taken in many directions at once.
    """

    def run(tensors: list[Tensor]) -> tuple[list[Tensor], Any]:
        with differentiable_kernels(is_mapped=is_mapped):
            result = function(*variables.fill_arguments(tensors), **kwargs)
        value = scalar_of(function, result, has_aux, variables.function_name)
        return [value.reshape(())], result[1] if has_aux else None

    return run
