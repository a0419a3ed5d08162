"""Products of the Gauss-Newton matrix with a vector."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from funcnet.kernels.internals import differentiable_kernels
from funcnet.transforms._function_results import independence_error, split_output
from funcnet.transforms._hvp import hvp, split_vector
from funcnet.transforms._recording import Recording, explained_errors, is_outermost, record
from funcnet.transforms._variables import ArgumentVariables, Variables


def ggn_vp(
    model: Callable[..., Any],
    loss: Callable[[Any], Tensor],
    argnums: int | tuple[int, ...] = 0,
    has_aux: bool = False,
) -> Callable[..., Any]:
    """A function that returns the product of the Gauss-Newton matrix with a vector.

    The matrix is ``J.T @ H @ J`` for the Jacobian J of the model's output and the Hessian H of the loss by the output.
    It is the Hessian of ``loss(model(params, x))`` without the curvature of the model, so it has no negative
    eigenvalue if the loss is convex. For cross_entropy, and for mse_loss up to a factor, it is the Fisher matrix.

    The vector stands right after the argument that is differentiated, as in :func:`hvp`:
    ``ggn_vp(net, lambda output: F.cross_entropy(output, y))(params, vector, x)``.

    Args:
        model: returns nested data of tensors; with ``has_aux``, a pair of that and anything.
        loss: a function of that output, which returns a scalar tensor. Targets belong into it.
        argnums: position of the argument, a nested dict of tensors or a tensor, among those of ``model``; or a tuple of
            positions, with a tuple of vectors.
        has_aux: whether ``model`` returns ``(output, aux)``.

    Returns:
        A function with the arguments of ``model`` and the vector that returns the product, or ``(product, aux)``: a
        tree like the argument. At the places of integer tensors it is zero, and the vector is not read.

    Raises:
        TreeError: if the vector has not the paths, shapes and dtypes of the argument; names all that differ.
        ValueError: if the loss is no scalar tensor of real floats, or at top level the output depends on none of the
            arguments, as in :func:`value_and_grad`.

    Source: Schraudolph, Fast Curvature Matrix-Vector Products for Second-Order Gradient Descent, 2002.

    >>> model = lambda params, x: params["w"] * x
    >>> product = ggn_vp(model, lambda output: output.square().sum())
    >>> product({"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([1.0, 1.0])}, torch.tensor([3.0, 4.0]))
    {'w': tensor([18., 32.])}
    """

    @wraps(model)
    def compute_product(*args: Any, **kwargs: Any) -> Any:
        numbers, model_args, vectors = split_vector("ggn_vp", argnums, args)
        variables = ArgumentVariables(model_args, numbers, "ggn_vp")
        directions = variables.match(vectors, "vector")
        results: list[Variables] = []

        def run(tensors: list[Tensor]) -> tuple[list[Tensor], Any]:
            with differentiable_kernels():
                result = model(*variables.fill_arguments(tensors), **kwargs)
            output, aux = split_output(model, result, has_aux, "ggn_vp")
            results[:] = [output]
            return output.tensors, (output.others, aux)

        is_plain = is_outermost(args, kwargs)
        with explained_errors("ggn_vp", model):
            recording = record(run, variables.tensors, is_plain)
            if not recording.depends and variables.tensors:
                raise independence_error(model, "ggn_vp")
            others, aux = recording.rest
            push_forward = _push_forward_by_autograd if is_plain else _push_forward_by_transform
            changes = push_forward(recording, directions)

            def loss_of_tensors(tensors: list[Tensor]) -> Tensor:
                return loss(*results[0].fill(tensors, others))

            curved = hvp(loss_of_tensors)(recording.outputs, changes)
            products = variables.fill_derivative(recording.pull_back(curved))
        product = products[0] if isinstance(argnums, int) else tuple(products)
        return (product, aux) if has_aux else product

    return compute_product


def _push_forward_by_autograd(recording: Recording, directions: list[Tensor]) -> list[Tensor]:
    """The directional derivatives of the outputs, without a rule for forward mode.

    ``pull_back`` is linear, and its transpose is the map forward: one more derivative of it gives that.
    """
    with torch.enable_grad():
        changes = [torch.zeros_like(output, requires_grad=True) for output in recording.outputs]
        sums = recording.pull_back(changes, keeps_graph=True)
    pairs = [pair for pair in zip(sums, directions, strict=True) if pair[0].requires_grad]
    if not pairs:
        return [change.detach() for change in changes]
    lefts, rights = zip(*pairs, strict=True)
    return list(
        torch.autograd.grad(
            lefts,
            changes,
            rights,
            retain_graph=True,
            create_graph=recording.is_shared,
            materialize_grads=True,
        )
    )


def _push_forward_by_transform(recording: Recording, directions: list[Tensor]) -> list[Tensor]:
    """The same inside of other transforms."""

    def pull_back(changes: list[Tensor]) -> list[Tensor]:
        return recording.pull_back(changes, keeps_graph=True)

    zeros = [torch.zeros_like(output) for output in recording.outputs]
    if not directions:
        return zeros
    recorded: Any = torch.func.vjp(pull_back, zeros)
    return list(recorded[1](directions)[0])
