"""A gradient for each sample of a batch: what an nn.Module needs a loop for, and a function does in a line."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from funcnet._torch import pytree
from funcnet._typing import Flat, TreeLike
from funcnet.compare._measure import largest_difference, seconds
from funcnet.compare._results import PerSample
from funcnet.tree import flatten


def per_sample_gradients(loss: Callable[[Any, Any], Tensor], params: TreeLike, batch: Any) -> Any:
    """The gradients of ``loss(params, sample)`` for every sample of a batch, a tree whose samples lie in axis 0."""
    return torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(params, batch)


def the_line() -> str:
    """The one line, as it stands above."""
    return inspect.getsource(per_sample_gradients).rstrip().rpartition("return ")[2]


def compare_per_sample(
    module: nn.Module,
    module_loss: Callable[[Any], Tensor],
    loss: Callable[[Any, Any], Tensor],
    params: TreeLike,
    batch: Any,
    budget: float,
) -> PerSample:
    """Both ways to the same gradients. Raises what vmap, or a foreign body under it, raises.

    Args:
        module: the module, in eval mode.
        module_loss: its loss by sample.
        loss: the same of params and sample.
        params: the module's parameters as a tree.
        batch: tensors with samples in axis 0, in any tree.
        budget: seconds to spend.
    """
    weights = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
    size = next(leaf.shape[0] for leaf in pytree.tree_leaves(batch))
    samples = [pytree.tree_map(lambda leaf, i=i: leaf[i], batch) for i in range(size)]

    def loop() -> list[tuple[Tensor, ...]]:
        return [
            torch.autograd.grad(module_loss(sample), list(weights.values()), allow_unused=True, materialize_grads=True)
            for sample in samples
        ]

    def vmapped() -> Any:
        return per_sample_gradients(loss, params, batch)

    with warnings.catch_warnings():
        loops = _loops_inside(vmapped)
        warnings.filterwarnings("ignore", _LOOPS)
        rows = zip(*loop(), strict=True)
        expected: Flat = {name: torch.stack(row) for name, row in zip(weights, rows, strict=True)}
        found = {name: gradient for name, gradient in flatten(vmapped()).items() if name in weights}
        times = seconds(loop, vmapped, budget=budget)
    return PerSample(
        line=the_line(),
        batch=size,
        loop_seconds=times.stateful,
        vmap_seconds=times.stateless,
        largest_difference=largest_difference(expected, found),
        largest_gradient=max(float(gradient.abs().max()) for gradient in expected.values()),
        rounding=max(torch.finfo(gradient.dtype).eps for gradient in expected.values()) ** 0.5,
        loops_inside=loops,
    )


_LOOPS = r"There is a performance drop because .* batching rule for (aten::\w+)"


def _loops_inside(vmapped: Callable[[], Any]) -> tuple[str, ...]:
    """The operators that vmap has no rule for: it runs them one sample at a time, and torch warns of each."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        vmapped()
    names = {}
    for warning in caught:
        if found := re.match(_LOOPS, str(warning.message)):
            names[found[1]] = True
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return tuple(names)
