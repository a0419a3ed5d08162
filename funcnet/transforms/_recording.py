"""A function that was run once, and the linear map from changes of its outputs back to its variables.

At top level autograd records the run, and frees what nobody will read. Inside of other transforms torch.func.vjp does,
so that they can differentiate and batch the map.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from funcnet._context import count_derivatives
from funcnet._errors import FuncnetError, TransformError
from funcnet._torch import count_gradient_bytes, pytree
from funcnet.kernels.internals import describe_missing_rule
from funcnet.transforms._function_results import check_plain_values
from funcnet.transforms._nesting import (
    is_nested,
    is_traced_here,
    plain_backward_suffices,
    reaches_other_leaves,
    recorded_by_autograd,
)

Run: TypeAlias = Callable[[list[Tensor]], tuple[list[Tensor], Any]]
"""A function of the variables. It returns the outputs that are differentiated, and whatever else there is."""


@dataclass(frozen=True)
class Recording:
    """The outputs of a run, and its derivative.

    Attributes:
        outputs: those of the run.
        rest: what the run returned beside them.
        pull_back: the sums, over all outputs, of a tensor like the output times its derivative by each variable. It can
            be called again after ``keeps_graph=True``.
        depends: whether some output depends on a variable, as far as that can be known.
        is_shared: whether somebody else may differentiate the result by autograd itself.
        count_bytes: returns the bytes of all gradients that one call of ``pull_back`` computes on its way.
    """

    outputs: list[Tensor]
    rest: Any
    pull_back: Callable[..., list[Tensor]]
    depends: bool
    is_shared: bool
    count_bytes: Callable[[], int]


def is_outermost(args: Any, kwargs: Any) -> bool:
    """Whether autograd itself can record a call, because nobody around it differentiates or batches."""
    return not torch.compiler.is_compiling() and not is_nested() and plain_backward_suffices(args, kwargs)


def record(run: Run, tensors: Sequence[Tensor], is_plain: bool) -> Recording:
    """Run a function of some variables, and keep what its derivative needs.

    Args:
        run: the function.
        tensors: the variables.
        is_plain: whether autograd itself records the run, see :func:`is_outermost`.
    """
    return _record_by_autograd(run, tensors) if is_plain else _record_by_transform(run, tensors)


def _record_by_autograd(run: Run, tensors: Sequence[Tensor]) -> Recording:
    is_recording = torch.is_grad_enabled()
    inputs = [tensor.detach().requires_grad_() for tensor in tensors]
    with torch.enable_grad(), recorded_by_autograd():
        outputs, rest = run(inputs)
    # A graph that reaches other leaves belongs to somebody else too, who may differentiate the result.
    is_shared = is_recording and any(reaches_other_leaves(output, inputs) for output in outputs)

    def pull_back(changes: Sequence[Tensor], keeps_graph: bool = False) -> list[Tensor]:
        pairs = [pair for pair in zip(outputs, changes, strict=True) if pair[0].requires_grad]
        if not pairs or not inputs:
            return [torch.zeros_like(tensor) for tensor in inputs]
        creates_graph = is_shared or any(change.requires_grad or count_derivatives(change) for _, change in pairs)
        grads = torch.autograd.grad(
            [output for output, _ in pairs],
            inputs,
            [change for _, change in pairs],
            retain_graph=keeps_graph or creates_graph,
            create_graph=creates_graph,
            materialize_grads=True,
        )
        return list(grads)

    return Recording(
        outputs if is_shared else [output.detach() for output in outputs],
        rest if is_shared else pytree.tree_map_only(Tensor, Tensor.detach, rest),
        pull_back,
        any(output.requires_grad for output in outputs),
        is_shared,
        lambda: count_gradient_bytes_of(outputs),
    )


def _record_by_transform(run: Run, tensors: Sequence[Tensor]) -> Recording:
    if not tensors:
        outputs, rest = run([])
        return Recording(outputs, rest, lambda changes, keeps_graph=False: [], True, False, lambda: 0)
    carrier = RestCarrier()
    is_inner = is_nested()
    depends = True
    bytes_counted = 0

    def run_unpacked(*inputs: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        nonlocal bytes_counted, depends
        outputs, rest = run(list(inputs))
        depends = is_inner or any(map(is_traced_here, outputs))
        bytes_counted = 0 if torch.compiler.is_compiling() else count_gradient_bytes_of(outputs)
        return outputs, carrier.take(rest)

    recorded: Any = torch.func.vjp(run_unpacked, *tensors, has_aux=True)
    outputs, pull, rest_tensors = recorded

    def pull_back(changes: Sequence[Tensor], keeps_graph: bool = False) -> list[Tensor]:
        return list(pull(list(changes)))

    return Recording(list(outputs), carrier.put_back(rest_tensors), pull_back, depends, False, lambda: bytes_counted)


def count_gradient_bytes_of(outputs: Sequence[Tensor]) -> int:
    """The bytes of the gradients that flow into the nodes of a graph."""
    waiting = {output.grad_fn for output in outputs if output.grad_fn is not None}
    visited = set(waiting)
    total = 0
    while waiting:
        node = waiting.pop()
        total += count_gradient_bytes(node)
        parents = {parent for parent, _ in node.next_functions if parent is not None} - visited
        visited |= parents
        waiting |= parents
    return total


def gradient_by_autograd(run_value: Run, independence_error: Callable[[], Exception]) -> Run:
    """The gradients of a scalar as a function of the variables, for a run that autograd records.

    Args:
        run_value: a function with one output, a scalar.
        independence_error: makes the error for a scalar that depends on no variable.
    """

    def run(inputs: list[Tensor]) -> tuple[list[Tensor], Any]:
        (value,), rest = run_value(inputs)
        grads: Sequence[Tensor | None] = [None] * len(inputs)
        if value.requires_grad and inputs:
            grads = torch.autograd.grad(value, inputs, create_graph=True, allow_unused=True)
        if inputs and all(grad is None for grad in grads):
            raise independence_error()
        pairs = zip(grads, inputs, strict=True)
        return [torch.zeros_like(tensor) if grad is None else grad for grad, tensor in pairs], rest

    return run


def gradient_by_transform(run_value: Run, independence_error: Callable[[], Exception]) -> Run:
    """The same for a run that a transform of torch.func records; inside of others, it may depend on no variable."""
    is_inner = is_nested()

    def run(inputs: list[Tensor]) -> tuple[list[Tensor], Any]:
        carrier = RestCarrier()

        def compute_value(inputs: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
            (value,), rest = run_value(inputs)
            if not is_inner and not is_traced_here(value):
                raise independence_error()
            return value, carrier.take(rest)

        if not inputs:
            return [], run_value([])[1]
        grads, rest_tensors = torch.func.grad(compute_value, has_aux=True)(inputs)
        return list(grads), carrier.put_back(rest_tensors)

    return run


class RestCarrier:
    """Carries nested data out of a transform of torch.func, which lets only tensors through."""

    def __init__(self) -> None:
        self._leaves: list[Any] = []
        self._spec: Any = None

    def take(self, rest: Any) -> list[Tensor]:
        """The tensors in the data; all else is kept here."""
        leaves, self._spec = pytree.tree_flatten(rest)
        check_plain_values(leaves)
        self._leaves = [_TENSOR if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    def put_back(self, tensors: Sequence[Tensor]) -> Any:
        """The data with these tensors."""
        remaining = iter(tensors)
        leaves = [next(remaining) if leaf is _TENSOR else leaf for leaf in self._leaves]
        return pytree.tree_unflatten(leaves, self._spec)


_TENSOR = object()
"""Stands in the place of a tensor."""


@contextlib.contextmanager
def explained_errors(function_name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Run a block in which an error about a rule that a kernel of torch lacks is told with the way out."""
    try:
        yield
    except RuntimeError as error:
        missing_rule = None if isinstance(error, FuncnetError) else describe_missing_rule(error)
        if missing_rule is None:
            raise
        message = str(error).strip().partition("\n")[0]
        raise TransformError(f"{function_name} of {function!r}: {missing_rule}. Torch says: {message}") from error
