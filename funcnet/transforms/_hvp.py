"""Products of the Hessian with a vector, by a backward pass through a backward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from torch import Tensor

from funcnet.kernels.internals import twice_differentiable_kernels
from funcnet.transforms._grad import _independence_error, _scalar_of
from funcnet.transforms._recording import Run, explained_errors, gradient_run, is_outermost, record
from funcnet.transforms._variables import ArgumentVariables, normalize_argnums


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
        gradient = gradient_run(run, is_plain, lambda: _independence_error(function, "hvp"))
        with explained_errors("hvp", function):
            recording = record(gradient, variables.tensors, is_plain)
            products = variables.fill_derivative(recording.pull_back(directions))
        product = products[0] if isinstance(argnums, int) else tuple(products)
        return (product, recording.rest) if has_aux else product

    return compute_hvp


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
) -> Run:
    """The scalar that a function returns, as a function of the variables in its arguments, and its aux."""

    def run(tensors: list[Tensor]) -> tuple[list[Tensor], Any]:
        with twice_differentiable_kernels():
            result = function(*variables.fill_arguments(tensors), **kwargs)
        value = _scalar_of(function, result, has_aux, variables.function_name)
        return [value.reshape(())], result[1] if has_aux else None

    return run
