"""Directional derivatives, by a pass forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from funcnet._context import has_tangent
from funcnet.kernels.internals import KernelInterceptor
from funcnet.transforms._function_results import independence_error, split_output
from funcnet.transforms._nesting import is_nested
from funcnet.transforms._recording import RestCarrier, explained_errors
from funcnet.transforms._variables import Variables


def jvp(
    function: Callable[..., Any], primals: tuple[Any, ...], tangents: tuple[Any, ...], has_aux: bool = False
) -> Any:
    """The output of a function, and its directional derivative: the Jacobian times a vector.

    It is :func:`torch.func.jvp` on trees. Kernels of torch that have no rule for forward mode are composed of
    operations that do (mse_loss, attention), and so are norms whose rule cannot be differentiated again: a derivative
    of this one is right, as in losses of physics-informed nets.

    Args:
        function: returns nested data of tensors; with ``has_aux``, a pair of that and anything.
        primals: the arguments, each nested data of tensors. What is no tensor belongs into the function:
            ``lambda x: net(params, x)``.
        tangents: the vector: one tree for each argument, with its paths, shapes and dtypes. At the places of integer
            tensors it is not read.
        has_aux: whether ``function`` returns ``(output, aux)``.

    Returns:
        ``(output, tangent)``, or ``(output, tangent, aux)``. At integer tensors of the output, the tangent is zero.

    Raises:
        TreeError: if tangents have not the paths, shapes and dtypes of the arguments; names all that differ.
        ValueError: if at top level the output depends on none of the arguments, as in :func:`value_and_grad`.
        TransformError: if a kernel has no rule for forward mode; says what to take in its place.

    >>> jvp(lambda x: {"square": x * x}, (torch.tensor(3.0),), (torch.tensor(1.0),))
    ({'square': tensor(9.)}, {'square': tensor(6.)})
    """
    if not isinstance(primals, tuple) or not isinstance(tangents, tuple) or len(primals) != len(tangents):
        raise TypeError(
            f"jvp needs a tuple of arguments and a tuple of as many tangents, got {type(primals).__name__} and "
            f"{type(tangents).__name__}: jvp(function, (x,), (tangent,))."
        )
    variables = Variables({f"argument {number}": primal for number, primal in enumerate(primals)}, "jvp")
    directions = variables.match(tangents, "tangent")
    carrier = RestCarrier()
    is_outermost = not is_nested() and not torch.compiler.is_compiling()
    results: list[Variables] = []

    def run(*tensors: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        with KernelInterceptor():
            result = function(*variables.fill(tensors, variables.others))
        output, aux = split_output(function, result, has_aux, "jvp")
        if is_outermost and variables.tensors and not any(map(has_tangent, output.tensors)):
            raise independence_error(function, "jvp")
        results[:] = [output]
        return output.tensors, carrier.take((output.others, aux))

    with explained_errors("jvp", function):
        if variables.tensors:
            pushed: Any = torch.func.jvp(run, tuple(variables.tensors), tuple(directions), has_aux=True)
            tensors, changes, rest_tensors = pushed
        else:
            tensors, rest_tensors = run()
            changes = [torch.zeros_like(tensor) for tensor in tensors]
    others, aux = carrier.put_back(rest_tensors)
    (output,) = results[0].fill(tensors, others)
    # Torch gives some tangents of single numbers the dtype float64, as that of x.sum() * 0.1.
    changes = [change.to(tensor.dtype) for change, tensor in zip(changes, tensors, strict=True)]
    (tangent,) = results[0].fill_derivative(changes)
    return (output, tangent, aux) if has_aux else (output, tangent)
