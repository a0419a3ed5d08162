"""Many gradients, many models: by a loop, and by vmap."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from funcnet._torch import pytree
from funcnet.compare._lab._costs import Makers
from funcnet.compare._lab._forms import CALL, MODULE, NATIVE, TRACED, ModuleForm, PureForm
from funcnet.compare._lab._records import Curve
from funcnet.compare._lab._subject import Batch, Subject
from funcnet.compare._lab._turns import Call, Make, curve
from funcnet.compare._results import NotPossible

LOOP = "nn.Module, a loop"
MEMBERS = (2, 8, 32)
MOST_BYTES = 2**30


def _vmapped(name: str, what: str) -> str:
    return f"{name}, {what}"


def samples_of(batch: Batch) -> tuple[list[Batch], tuple[Any, ...]]:
    """The samples of a batch, each a batch of one; and the batch as a tree for vmap."""
    labels = () if batch.labels is None else (batch.labels,)
    tree = (batch.args, dict(batch.kwargs), labels)
    count = pytree.tree_leaves(tree)[0].shape[0]
    ones = [batch_of(pytree.tree_map(lambda leaf, i=i: leaf[i : i + 1].clone(), tree)) for i in range(count)]
    return ones, tree


def batch_of(tree: tuple[Any, ...]) -> Batch:
    """Back from such a tree."""
    args, kwargs, labels = tree
    return Batch(args, kwargs, *(labels or (None,)))


def sample_gradients(form: PureForm, batch: Batch) -> Callable[[], Any]:
    """``vmap(grad(loss))`` over a batch, in eval mode: a tree whose samples lie in axis 0."""
    _, tree = samples_of(batch)
    params = pytree.tree_map(Tensor.detach, form.params)
    loss = sample_loss(form)
    return lambda: torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(params, tree)


def sample_loss(form: PureForm) -> Callable[[Any, Any], Tensor]:
    """The loss of one sample, without its batch axis, as a function of the params."""

    def loss(params: Any, sample: Any) -> Tensor:
        one = batch_of(pytree.tree_map(lambda leaf: leaf[None], sample))
        return form.subject.loss(form.output(params, one), one.labels)

    return loss


def loop_gradients(form: ModuleForm, batch: Batch) -> Callable[[], list[tuple[Tensor, ...]]]:
    """The same by a loop over the module."""
    samples, _ = samples_of(batch)
    module, loss = form.module.eval(), form.subject.loss
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    return lambda: [
        torch.autograd.grad(loss(one.call(module), one.labels), weights, allow_unused=True, materialize_grads=True)
        for one in samples
    ]


def per_sample(makers: Makers, subject: Subject, budget: float) -> Curve | NotPossible:
    """A gradient for each sample of a batch."""
    if subject.whole_batch is not None:
        return subject.whole_batch
    if not any(True for _ in subject.module.parameters()):
        return NotPossible(f"{subject.title} has no parameters")
    sizes = tuple(sorted({min(size, 64) for size in subject.sizes}))

    def make(name: str, size: int) -> Call:
        form = makers[name]()
        batch = subject.batch(size)
        return loop_gradients(form, batch) if isinstance(form, ModuleForm) else sample_gradients(form, batch)

    def row(size: int) -> Mapping[str, Make]:
        names = {name: _vmapped(name, "vmap(grad)") for name in (CALL, NATIVE, TRACED)}
        return {LOOP: partial(make, MODULE, size), **{title: partial(make, n, size) for n, title in names.items()}}

    call = "the gradients of the loss of every sample by itself, in eval mode"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop")
        return curve("Per-sample gradients", call, "samples", {size: row(size) for size in sizes}, budget)


def members(params: Any, count: int) -> Any:
    """So many sets of weights, each a little larger than the last, stacked along axis 0."""
    scales = 1 + 0.01 * torch.arange(count)

    def stack(leaf: Tensor) -> Tensor:
        leaf = leaf.detach()
        rows = leaf[None].expand(count, *leaf.shape)
        if not leaf.is_floating_point() and not leaf.is_complex():
            return rows.clone()
        return (rows * scales.view(-1, *[1] * leaf.dim())).to(leaf.dtype)

    return pytree.tree_map(stack, params)


def tensors_of(output: Any) -> list[Tensor]:
    """The tensors of an output, which may hold other things besides."""
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


def ensemble_call(form: PureForm, batch: Batch, count: int) -> Callable[[], Any]:
    """All members in one call."""
    stacked = members(form.params, count)
    return lambda: torch.vmap(lambda params: tensors_of(form.output(params, batch)))(stacked)


def ensemble_loop(form: ModuleForm, batch: Batch, count: int) -> Callable[[], list[Any]]:
    """As many modules, one after the other."""
    stacked = members(dict(form.module.named_parameters()), count)
    modules = [copy.deepcopy(form.module).eval() for _ in range(count)]
    with torch.no_grad():
        for index, module in enumerate(modules):
            for name, weight in module.named_parameters():
                weight.copy_(stacked[name][index])
    return lambda: [batch.call(module) for module in modules]


def ensemble(makers: Makers, subject: Subject, budget: float) -> Curve | NotPossible:
    """K models of the same kind on one batch, in eval mode."""
    size = sum(leaf.numel() * leaf.element_size() for leaf in pytree.tree_leaves(subject.params))
    if not size:
        return NotPossible(f"{subject.title} has no parameters")
    counts = tuple(count for count in MEMBERS if count * size * 3 <= MOST_BYTES)
    if not counts:
        return NotPossible(f"two sets of weights, in all forms at once, need more than {MOST_BYTES >> 20} MiB")

    def make(name: str, count: int) -> Call:
        form = makers[name]()
        batch = subject.batch(subject.middle)
        if isinstance(form, ModuleForm):
            return ensemble_loop(form, batch, count)
        return ensemble_call(form, batch, count)

    def row(count: int) -> Mapping[str, Make]:
        names = {name: _vmapped(name, "vmap") for name in (CALL, NATIVE, TRACED)}
        return {LOOP: partial(make, MODULE, count), **{title: partial(make, n, count) for n, title in names.items()}}

    call = f"the outputs of K models on one batch of {subject.middle}, in eval mode under no_grad"
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop")
        return curve("Ensemble", call, "models (K)", {count: row(count) for count in counts}, budget)
