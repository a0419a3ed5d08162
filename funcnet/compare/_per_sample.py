"""A gradient for each sample of a batch: an nn.Module needs a loop for it, a function does it in one line."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from funcnet._torch import pytree
from funcnet._typing import Flat, TreeLike
from funcnet.compare._measure import largest_difference, measure_seconds
from funcnet.compare._results import PerSample
from funcnet.tree import flatten

Sample = TypeVar("Sample")


def per_sample_gradients(loss: Callable[[TreeLike, Any], Tensor], params: TreeLike, batch: object) -> Any:
    """The gradients of ``loss(params, sample)`` for every sample of a batch, a tree whose samples lie in axis 0."""
    return torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(params, batch)


def source_line() -> str:
    """The expression that :func:`per_sample_gradients` returns, as text for readers."""
    return inspect.getsource(per_sample_gradients).rstrip().rpartition("return ")[2]


def compare_per_sample(
    module: nn.Module,
    module_loss: Callable[[Sample], Tensor],
    loss: Callable[[TreeLike, Sample], Tensor],
    params: TreeLike,
    batch: Sample,
    budget: float,
) -> PerSample:
    """Compute the same gradients in both ways and compare them. Errors of vmap, or of a body under it, pass through.

    Args:
        module: the module, in eval mode.
        module_loss: the loss of the module for one sample.
        loss: the same loss as a function of the params and the sample.
        params: the parameters of the module as a tree.
        batch: a tree of tensors whose samples lie in axis 0.
        budget: seconds to spend.
    """
    weights = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
    size = next(leaf.shape[0] for leaf in pytree.tree_leaves(batch))
    samples = [pytree.tree_map(lambda leaf, i=i: leaf[i], batch) for i in range(size)]

    def loop_gradients() -> list[tuple[Tensor, ...]]:
        return [
            torch.autograd.grad(module_loss(sample), list(weights.values()), allow_unused=True, materialize_grads=True)
            for sample in samples
        ]

    def vmap_gradients() -> Any:
        return per_sample_gradients(loss, params, batch)

    with warnings.catch_warnings():
        loops = _find_loops_inside(vmap_gradients)
        warnings.filterwarnings("ignore", _LOOP_WARNING)
        rows = zip(*loop_gradients(), strict=True)
        expected: Flat = {name: torch.stack(row) for name, row in zip(weights, rows, strict=True)}
        actual = {name: gradient for name, gradient in flatten(vmap_gradients()).items() if name in weights}
        times = measure_seconds(loop_gradients, vmap_gradients, budget=budget)
    return PerSample(
        line=source_line(),
        batch=size,
        loop_seconds=times.stateful,
        vmap_seconds=times.stateless,
        largest_difference=largest_difference(expected, actual),
        largest_gradient=max(float(gradient.abs().max()) for gradient in expected.values()),
        rounding=max(torch.finfo(gradient.dtype).eps for gradient in expected.values()) ** 0.5,
        loops_inside=loops,
    )


_LOOP_WARNING = r"There is a performance drop because .* batching rule for (aten::\w+)"


def _find_loops_inside(vmap_gradients: Callable[[], object]) -> tuple[str, ...]:
    """The operators that vmap has no rule for: it runs them one sample at a time, and torch warns about each."""
    with warnings.catch_warnings(record=True) as records:
        warnings.simplefilter("always")
        vmap_gradients()
    operators: dict[str, None] = {}
    for record in records:
        if match := re.match(_LOOP_WARNING, str(record.message)):
            operators[match[1]] = None
        else:
            warnings.warn_explicit(record.message, record.category, record.filename, record.lineno)
    return tuple(operators)
