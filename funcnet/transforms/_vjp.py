"""Vectors times Jacobians, by a pass backward that can be run again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from funcnet.kernels.internals import call_with_rules
from funcnet.transforms._function_results import independence_error, split_output
from funcnet.transforms._recording import explained_errors, is_outermost, record
from funcnet.transforms._variables import Variables


def vjp(function: Callable[..., Any], *primals: Any, has_aux: bool = False) -> Any:
    """The output of a function, and the function that multiplies a vector with its Jacobian.

    It is :func:`torch.func.vjp` on trees. At top level a plain backward pass computes the product, and keeps no graph
    of it; inside of other transforms it is torch.func's, so it nests. Both can be mapped: ``torch.vmap(multiply)``.

    Args:
        function: returns nested data of tensors; with ``has_aux``, a pair of that and anything.
        primals: the arguments, each nested data of tensors. What is no tensor belongs into the function.
        has_aux: whether ``function`` returns ``(output, aux)``.

    Returns:
        ``(output, multiply)``, or ``(output, multiply, aux)``. ``multiply(cotangent)`` takes a tree with the paths,
        shapes and dtypes of the output, and returns a tree like the argument, or a tuple of them for several arguments.
        It can be called as often as needed, and holds the memory of the graph as long as it lives.

    Raises:
        ValueError: if at top level the output depends on none of the arguments, as in :func:`value_and_grad`.
        TreeError: by ``multiply``, if the cotangent does not fit the output; names all that differ.

    >>> import torch
    >>> output, multiply = vjp(lambda params, x: params["w"] * x, {"w": torch.tensor(2.0)}, torch.tensor([1.0, 5.0]))
    >>> multiply(torch.tensor([1.0, 1.0]))
    ({'w': tensor(6.)}, tensor([2., 2.]))
    """
    variables = Variables({f"argument {number}": primal for number, primal in enumerate(primals)}, "vjp")
    results: list[Variables] = []

    def run(tensors: list[Tensor]) -> tuple[list[Tensor], Any]:
        result = call_with_rules(function, *variables.fill(tensors, variables.others))
        output, aux = split_output(function, result, has_aux, "vjp")
        results[:] = [output]
        return output.tensors, (output.others, aux)

    with explained_errors("vjp", function):
        recording = record(run, variables.tensors, is_outermost(primals, {}))
    if not recording.depends and variables.tensors:
        raise independence_error(function, "vjp")
    others, aux = recording.rest
    (output,) = results[0].fill(recording.outputs, others)
    cotangent_places = Variables({"output": output}, "vjp")

    def multiply(cotangent: Any) -> Any:
        changes = cotangent_places.match([cotangent], "cotangent")
        with explained_errors("vjp", function):
            products = variables.fill_derivative(recording.pull_back(changes, keeps_graph=True))
        return products[0] if len(products) == 1 else tuple(products)

    return (output, multiply, aux) if has_aux else (output, multiply)
