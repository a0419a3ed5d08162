"""Curves of many gradients and of many models: by a loop over modules, and by one call under vmap."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch

from funcnet._tensors import iter_tensors
from funcnet.compare._lab._form_makers import FormMakers
from funcnet.compare._lab._forms import CALL, MODULE, NATIVE, TRACED, Form
from funcnet.compare._lab._records import Curve
from funcnet.compare._lab._subject import Subject
from funcnet.compare._lab._turns import CallMaker, PreparedCall, measure_curve
from funcnet.compare._results import NotPossible
from funcnet.compare._time_limit import NO_LIMIT, TimeLimit

LOOP = "nn.Module, a loop"
ENSEMBLE_SIZES = (2, 8, 32)
LARGEST_ENSEMBLE_BYTES = 2**30


def sample_gradients_curve(
    makers: FormMakers, subject: Subject, budget: float, limit: TimeLimit = NO_LIMIT
) -> Curve | NotPossible:
    """Times of a gradient for each sample of a batch, against the batch size."""
    if subject.no_batch_axis is not None:
        return subject.no_batch_axis
    if not any(True for _ in subject.module.parameters()):
        return NotPossible(f"{subject.title} has no parameters")
    sizes = sorted({min(size, 64) for size in subject.sizes})

    def prepare(form: Form, size: int) -> PreparedCall:
        return form.sample_gradients(subject.batch(size))

    description = "the gradients of the loss of every sample by itself, in eval mode"
    rows = {size: _make_row(makers, "vmap(grad)", prepare, size, subject, limit) for size in sizes}
    with _ignored_vmap_warnings():
        return measure_curve("Per-sample gradients", description, "samples", rows, budget, limit)


def ensemble_curve(
    makers: FormMakers, subject: Subject, budget: float, limit: TimeLimit = NO_LIMIT
) -> Curve | NotPossible:
    """Times of K models of the same kind on one batch in eval mode, against K."""
    size = sum(tensor.numel() * tensor.element_size() for tensor in iter_tensors(subject.params))
    if not size:
        return NotPossible(f"{subject.title} has no parameters")
    counts = [count for count in ENSEMBLE_SIZES if count * size * 3 <= LARGEST_ENSEMBLE_BYTES]
    if not counts:
        largest_size = LARGEST_ENSEMBLE_BYTES >> 20
        return NotPossible(f"two sets of weights, in all forms at once, need more than {largest_size} MiB")

    def prepare(form: Form, count: int) -> PreparedCall:
        return form.ensemble_outputs(subject.batch(subject.middle_size), count)

    description = f"the outputs of K models on one batch of {subject.middle_size}, in eval mode under no_grad"
    rows = {count: _make_row(makers, "vmap", prepare, count, subject, limit) for count in counts}
    with torch.no_grad(), _ignored_vmap_warnings():
        return measure_curve("Ensemble", description, "models (K)", rows, budget, limit)


def _make_row(
    makers: FormMakers,
    transform: str,
    prepare: Callable[[Form, int], PreparedCall],
    size: int,
    subject: Subject,
    limit: TimeLimit,
) -> dict[str, CallMaker]:
    """The loop over modules and the transformed forms at one size, by their titles in the curve."""

    def make_call(name: str) -> PreparedCall:
        limit.require(subject.call_seconds * (size if name == MODULE else 1))
        return prepare(makers[name](), size)

    titles = {MODULE: LOOP, **{name: f"{name}, {transform}" for name in (CALL, NATIVE, TRACED)}}
    return {title: partial(make_call, name) for name, title in titles.items()}


@contextmanager
def _ignored_vmap_warnings() -> Iterator[None]:
    """Ignore the warnings that vmap runs an operator in a loop: the times show it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop")
        yield
