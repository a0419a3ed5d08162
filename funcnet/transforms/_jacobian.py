"""Jacobians and Hessians as nested trees, some rows or columns at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from funcnet.kernels.internals import describe_missing_rule, differentiable_kernels
from funcnet.transforms._function_results import independence_error, split_output
from funcnet.transforms._hvp import scalar_run
from funcnet.transforms._recording import (
    Recording,
    Run,
    explained_errors,
    gradient_by_autograd,
    gradient_by_transform,
    is_outermost,
    record,
)
from funcnet.transforms._variables import ArgumentVariables, Variables, normalize_argnums

MEMORY = 2**28
"""Bytes that the gradients of the rows which are computed together may take, if the caller sets no other bound."""

OUTPUTS_PER_INPUT = 4
"""With more outputs than this for each input, columns are the quicker way; a column costs up to three rows."""


def jacobian(
    function: Callable[..., Any],
    argnums: int | tuple[int, ...] = 0,
    has_aux: bool = False,
    *,
    chunk_size: int | None = None,
    memory: int = MEMORY,
) -> Callable[..., Any]:
    """A function that returns the derivative of each output of ``function`` by each number of an argument.

    Rows, one for each number in the output, are computed by a backward pass each; if the outputs are more than four
    times as many as the inputs, columns by a pass forward each, unless some kernel has no rule for that. As many as
    ``memory`` allows are computed together, by vmap.

    Args:
        function: returns nested data of tensors; with ``has_aux``, a pair of that and anything.
        argnums: position of the argument, a nested dict of tensors or a tensor; or a tuple of positions.
        has_aux: whether ``function`` returns ``(output, aux)``.
        chunk_size: how many rows or columns are computed together, in place of what ``memory`` allows. 1 is a loop
            without vmap, which needs no batching rules.
        memory: bytes for the intermediate gradients of rows that are computed together. The result comes on top.

    Returns:
        A function with the arguments of ``function`` that returns the Jacobian, or ``(jacobian, aux)``. In the place of
        each tensor of the output stands a tree like the argument, or a tuple of them, as for
        :func:`torch.func.jacrev`; its tensors have the shape of the output followed by that of the input. For integer
        tensors they are zero.

    Raises:
        ValueError: if at top level the output depends on none of the arguments, as in :func:`value_and_grad`.

    >>> jacobian(lambda params, x: params["w"] * x)({"w": torch.tensor([1.0, 2.0])}, torch.tensor([3.0, 4.0]))
    {'w': tensor([[3., 0.],
            [0., 4.]])}
    """

    @wraps(function)
    def compute_jacobian(*args: Any, **kwargs: Any) -> Any:
        variables = ArgumentVariables(args, normalize_argnums(argnums, len(args), "jacobian"), "jacobian")
        results: list[Variables] = []

        def run(tensors: list[Tensor]) -> tuple[list[Tensor], Any]:
            with differentiable_kernels(is_second=False, is_mapped=True):
                result = function(*variables.fill_arguments(tensors), **kwargs)
            output, aux = split_output(function, result, has_aux, "jacobian")
            results[:] = [output]
            return output.tensors, (output.others, aux)

        with explained_errors("jacobian", function):
            recording = record(run, variables.tensors, is_outermost(args, kwargs))
            if not recording.depends and variables.tensors:
                raise independence_error(function, "jacobian")
            blocks = _compute_blocks(run, recording, variables.tensors, chunk_size, memory)
        others, aux = recording.rest
        by_output = [
            _join_arguments(variables, row, argnums, output.shape)
            for row, output in zip(blocks, recording.outputs, strict=True)
        ]
        by_other = [_zero_derivative(variables, other, argnums) for other in others]
        (result,) = results[0].fill(by_output, by_other)
        return (result, aux) if has_aux else result

    return compute_jacobian


def hessian(
    function: Callable[..., Any],
    argnums: int | tuple[int, ...] = 0,
    has_aux: bool = False,
    *,
    chunk_size: int | None = None,
    memory: int = MEMORY,
) -> Callable[..., Any]:
    """A function that returns the second derivatives of a scalar by each pair of numbers in an argument.

    It computes rows of the derivative of the gradient, by a second backward pass each, some of them together. With n
    numbers in the argument the result has n * n; :func:`hvp` multiplies it with a vector without computing it.

    Args:
        function: returns a scalar tensor; with ``has_aux``, a pair of one and anything.
        argnums: position of the argument, a nested dict of tensors or a tensor; or a tuple of positions.
        has_aux: whether ``function`` returns ``(value, aux)``.
        chunk_size, memory: how many rows are computed together, as in :func:`jacobian`.

    Returns:
        A function with the arguments of ``function`` that returns the Hessian, or ``(hessian, aux)``: a tree like the
        argument, with such a tree in the place of each tensor. So ``hessian["fc"]["weight"]["fc"]["bias"]`` has the
        shape of the weight followed by that of the bias. For a tuple of arguments it is a tuple of tuples.

    Raises:
        ValueError: if the value is no scalar tensor of real floats, or depends on none of the arguments, as in
            :func:`value_and_grad`.

    >>> hessian(lambda x: (x**3).sum())(torch.tensor([1.0, 2.0]))
    tensor([[ 6.,  0.],
            [ 0., 12.]])
    """

    @wraps(function)
    def compute_hessian(*args: Any, **kwargs: Any) -> Any:
        variables = ArgumentVariables(args, normalize_argnums(argnums, len(args), "hessian"), "hessian")
        is_plain = is_outermost(args, kwargs)
        run = scalar_run(function, variables, kwargs, has_aux, is_mapped=True)
        differentiate = gradient_by_autograd if is_plain else gradient_by_transform
        gradient = differentiate(run, lambda: independence_error(function, "hessian"))
        with explained_errors("hessian", function):
            recording = record(gradient, variables.tensors, is_plain)
            blocks = _compute_rows(recording, variables.tensors, _chunk_size(recording, chunk_size, memory))
        rows = [
            _join_arguments(variables, row, argnums, tensor.shape)
            for row, tensor in zip(blocks, variables.tensors, strict=True)
        ]
        others = [_zero_derivative(variables, other, argnums) for other in variables.others]
        trees = variables.fill(rows, others)
        result = trees[0] if isinstance(argnums, int) else tuple(trees)
        return (result, recording.rest) if has_aux else result

    return compute_hessian


def _join_arguments(
    variables: Variables, tensors: Sequence[Tensor], argnums: int | tuple[int, ...], front: torch.Size
) -> Any:
    """The tree for one argument, or the tuple of trees for several, that holds the derivatives of one output."""
    trees = variables.fill_derivative(tensors, front)
    return trees[0] if isinstance(argnums, int) else tuple(trees)


def _zero_derivative(variables: Variables, output: Tensor, argnums: int | tuple[int, ...]) -> Any:
    """The derivative of an output that depends on nothing, such as an integer tensor."""
    zeros = [output.new_zeros(output.shape + tensor.shape) for tensor in variables.tensors]
    return _join_arguments(variables, zeros, argnums, output.shape)


def _compute_blocks(
    run: Run, recording: Recording, tensors: Sequence[Tensor], chunk_size: int | None, memory: int
) -> list[list[Tensor]]:
    """The derivative of each output by each variable."""
    size = _chunk_size(recording, chunk_size, memory)
    outputs, inputs = (sum(tensor.numel() for tensor in some) for some in (recording.outputs, tensors))
    if outputs > OUTPUTS_PER_INPUT * inputs > 0:
        try:
            return _compute_columns(run, recording.outputs, tensors, size)
        except RuntimeError as error:
            if describe_missing_rule(error) is None:
                raise
    return _compute_rows(recording, tensors, size)


def _chunk_size(recording: Recording, chunk_size: int | None, memory: int) -> int:
    """How many rows may be computed together."""
    if chunk_size is None:
        return max(1, memory // max(1, recording.count_bytes()))
    if chunk_size < 1:
        raise ValueError(f"chunk_size is a number of rows, at least 1, got {chunk_size}.")
    return chunk_size


def _compute_rows(recording: Recording, tensors: Sequence[Tensor], chunk_size: int) -> list[list[Tensor]]:
    """The derivative of each output by each variable, in passes backward."""

    def pull_back(changes: list[Tensor]) -> list[Tensor]:
        return recording.pull_back(changes, keeps_graph=True)

    rows = _map_over_basis(pull_back, recording.outputs, tensors, chunk_size)
    sizes = [output.numel() for output in recording.outputs]
    blocks = [row.split(sizes) for row in rows]
    return [
        [blocks[column][index].reshape(output.shape + tensor.shape) for column, tensor in enumerate(tensors)]
        for index, output in enumerate(recording.outputs)
    ]


def _compute_columns(
    run: Run, outputs: Sequence[Tensor], tensors: Sequence[Tensor], chunk_size: int
) -> list[list[Tensor]]:
    """The derivative of each output by each variable, in passes forward."""

    def push_forward(directions: list[Tensor]) -> list[Tensor]:
        pushed: Any = torch.func.jvp(lambda *tensors: run(list(tensors))[0], tuple(tensors), tuple(directions))
        return [change.to(output.dtype) for change, output in zip(pushed[1], outputs, strict=True)]

    columns = _map_over_basis(push_forward, tensors, outputs, chunk_size)
    sizes = [tensor.numel() for tensor in tensors]
    blocks = [column.split(sizes) for column in columns]
    return [
        [blocks[index][row].movedim(0, -1).reshape(output.shape + tensor.shape) for row, tensor in enumerate(tensors)]
        for index, output in enumerate(outputs)
    ]


def _map_over_basis(
    multiply: Callable[[list[Tensor]], list[Tensor]],
    places: Sequence[Tensor],
    results: Sequence[Tensor],
    chunk_size: int,
) -> list[Tensor]:
    """A linear function of each unit vector, stacked in front: one tensor for each of its results.

    Args:
        multiply: the function.
        places: tensors of the shapes that it takes.
        results: tensors of the shapes that it returns.
        chunk_size: how many unit vectors it is mapped over at once.
    """
    count = sum(place.numel() for place in places)
    chunks: list[list[Tensor]] = []
    for start in range(0, count, chunk_size):
        basis = _unit_vectors(places, start, min(start + chunk_size, count))
        if chunk_size == 1:
            chunks.append([result[None] for result in multiply([part[0] for part in basis])])
        else:
            chunks.append(list(torch.vmap(multiply)(basis)))
    if not chunks:
        return [result.new_zeros(0, *result.shape) for result in results]
    if len(chunks) == 1:
        return chunks[0]
    return [torch.cat(parts) for parts in zip(*chunks, strict=True)]


def _unit_vectors(places: Sequence[Tensor], start: int, stop: int) -> list[Tensor]:
    """The unit vectors with these numbers, stacked, of the space that several tensors span together."""
    vectors = []
    for place in places:
        numbers = torch.arange(place.numel(), device=place.device)
        rows = torch.arange(start, stop, device=place.device)
        vectors.append((rows[:, None] == numbers).to(place.dtype).view(stop - start, *place.shape))
        start, stop = start - place.numel(), stop - place.numel()
    return vectors
