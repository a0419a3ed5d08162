"""What each form can do: everything is tried, and what was seen is the evidence."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

from funcnet.compare._lab import _try_calls as calls
from funcnet.compare._lab import _try_state as state
from funcnet.compare._lab import _try_transforms as transforms
from funcnet.compare._lab._costs import Makers
from funcnet.compare._lab._differences import without_fast_path
from funcnet.compare._lab._forms import CALL, MODULE, NATIVE, TRACED
from funcnet.compare._lab._records import Capability
from funcnet.compare._lab._subject import Subject
from funcnet.compare._lab._tries import Bench, Try, TryPure, attempt


class Row(NamedTuple):
    name: str
    tried: str
    of_module: Try
    of_pure: TryPure


ROWS = (
    Row(
        "Per-sample gradients in one call",
        "vmap(grad(loss)) over a batch, beside a loop over the module",
        transforms.per_sample_of_module,
        transforms.per_sample_of_pure,
    ),
    Row(
        "An ensemble in one call",
        "vmap over 3 sets of weights, beside 3 modules",
        transforms.ensemble_of_module,
        transforms.ensemble_of_pure,
    ),
    Row(
        "Derivative along weights",
        "jvp of the outputs, in the direction of the weights",
        transforms.forward_mode_of_module,
        transforms.forward_mode_of_pure,
    ),
    Row(
        "Hessian-vector product",
        "of the loss in the direction of the weights, beside two backward passes",
        transforms.hvp_of_module,
        transforms.hvp_of_pure,
    ),
    Row(
        "torch.compile",
        'fullgraph=True with backend "aot_eager", beside the module',
        transforms.compiled_module,
        transforms.compiled_pure,
    ),
    Row(
        "Save and load weights",
        "torch.save, torch.load(weights_only=True), into a form whose weights were others",
        state.saved_module,
        state.saved_pure,
    ),
    Row(
        "Pickle the model",
        "pickle.dumps of the form itself, loaded and called",
        state.pickled_module,
        state.pickled_pure,
    ),
    Row("Hooks", "a forward hook on every leaf, and a call", state.hooked_module, state.hooked_pure),
    Row(
        "DistributedDataParallel",
        "wrapped, with a process group of one (gloo), and a backward",
        state.ddp_of_module,
        state.ddp_of_pure,
    ),
    Row(
        "Data parallel by all_reduce",
        "all_reduce over the gradients of a step, in a process group of one (gloo)",
        state.reduced_of_module,
        state.reduced_of_pure,
    ),
    Row(
        "Thread-safety",
        f"one model object, {calls.THREADS} threads with weights of their own, up to {calls.CALLS} calls each",
        calls.threads_of_module,
        calls.threads_of_pure,
    ),
    Row(
        "Partial freezing",
        "a step that trains the second half of the tensors, beside one that trains all",
        calls.frozen_module,
        calls.frozen_pure,
    ),
    Row(
        "A call that leaves nothing behind",
        "a step in training mode; buffers and torch's global generator before and after",
        calls.untouched_by_module,
        calls.untouched_by_pure,
    ),
)


def capabilities(makers: Makers, subject: Subject, progress: Callable[[float], None]) -> tuple[Capability, ...]:
    """Try everything with every form."""
    bench = Bench(subject, makers)
    found = []
    with warnings.catch_warnings(), without_fast_path():
        warnings.simplefilter("ignore")  # a try may warn as it likes; what counts is what came of it
        for index, row in enumerate(ROWS):
            progress(index / len(ROWS))
            forms = {name: attempt(bench, name, row.of_module, row.of_pure) for name in (MODULE, CALL, NATIVE, TRACED)}
            found.append(Capability(row.name, row.tried, forms))
    return tuple(found)
