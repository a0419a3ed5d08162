"""Time and memory of every form: against batch size, against depth, and with next to nothing to compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

import torch

from funcnet.compare._errors import describe_reason
from funcnet.compare._lab._compiled_form import CompileAllowance
from funcnet.compare._lab._depth import Depths
from funcnet.compare._lab._form_makers import FormMakers, cache_forms, make_forms
from funcnet.compare._lab._forms import Form
from funcnet.compare._lab._records import Curve, Spread
from funcnet.compare._lab._subject import Subject
from funcnet.compare._lab._turns import CallMaker, PreparedCall, measure_curve, measure_in_turns
from funcnet.compare._measure import SLOW_SECONDS, LiveBytes
from funcnet.compare._results import NotPossible
from funcnet.compare._time_limit import NO_LIMIT, TimeLimit

FORWARD = "a forward in eval mode under no_grad"
STEP = "a forward and backward in training mode, to the gradients of all params; without an optimizer"

Action = Literal["forward", "step"]


def _call_makers(makers: FormMakers, subject: Subject, size: int, action: Action) -> dict[str, CallMaker]:
    def make_call(name: str) -> PreparedCall:
        form, batch = makers[name](), subject.batch(size)
        return form.forward(batch) if action == "forward" else form.step(batch)

    return {name: partial(make_call, name) for name in makers}


def measure_batch_curves(
    makers: FormMakers, subject: Subject, budget: float, limit: TimeLimit = NO_LIMIT
) -> dict[str, Curve | NotPossible]:
    """Times of a forward and of a step at every batch size."""
    axis = "batch size (axis 0)" if subject.no_batch_axis is None else "the inputs as given"

    def rows(action: Action) -> Mapping[int, Mapping[str, CallMaker]]:
        return {size: _call_makers(makers, subject, size, action) for size in subject.sizes}

    with torch.no_grad():
        forward = measure_curve("Forward", FORWARD, axis, rows("forward"), budget, limit.part(0.5))
    return {"forward_batch": forward, "step_batch": measure_curve("Step", STEP, axis, rows("step"), budget, limit)}


def measure_depth_curves(
    depths: Depths | NotPossible,
    subject: Subject,
    allowance: CompileAllowance,
    budget: float,
    limit: TimeLimit = NO_LIMIT,
) -> dict[str, Curve | NotPossible]:
    """Times of a forward and of a step with more and fewer blocks, at the middle batch size."""
    if isinstance(depths, NotPossible):
        return {"forward_depth": depths, "step_depth": depths}
    size = subject.middle_size
    try:
        limit.require(10 * subject.call_seconds)
        subjects = {depth: depths.make_subject(depth) for depth in depths.values}
    except Exception as error:  # a net may need the blocks that were removed
        reason = NotPossible(f"a model of another depth cannot be built: {describe_reason(error)}")
        return {"forward_depth": reason, "step_depth": reason}
    makers = {depth: cache_forms(make_forms(deeper, allowance)) for depth, deeper in subjects.items()}

    def rows(action: Action) -> Mapping[int, Mapping[str, CallMaker]]:
        return {depth: _call_makers(makers[depth], deeper, size, action) for depth, deeper in subjects.items()}

    axis = f"depth: {depths.block}"
    with torch.no_grad():
        forward = measure_curve(
            "Forward", f"{FORWARD}, batch of {size}", axis, rows("forward"), budget, limit.part(0.5)
        )
    step = measure_curve("Step", f"{STEP}; batch of {size}", axis, rows("step"), budget, limit)
    return {"forward_depth": forward, "step_depth": step}


def measure_overhead(makers: FormMakers, subject: Subject, budget: float, limit: TimeLimit = NO_LIMIT) -> Curve:
    """The time of a forward on the smallest batch, most of which is spent in Python."""
    size = subject.sizes[0]
    with torch.no_grad():
        values = measure_in_turns(_call_makers(makers, subject, size, "forward"), budget, limit)
    forms = {name: (value,) for name, value in values.items()}
    return Curve("Python overhead", f"{FORWARD}, on the smallest batch", "batch size", "seconds", (size,), forms)


def measure_memory(makers: FormMakers, subject: Subject, limit: TimeLimit = NO_LIMIT) -> Curve:
    """The most bytes of tensors alive at one time in a step: weights, gradients, batch, activations."""
    size = subject.sizes[-1]
    forms = {name: (_measure_peak(make_form, subject, size, limit),) for name, make_form in makers.items()}
    return Curve("Peak memory", f"{STEP}. Tensors alive at one time", "batch size", "bytes", (size,), forms)


def _measure_peak(make_form: Callable[[], Form], subject: Subject, size: int, limit: TimeLimit) -> Spread | NotPossible:
    rounds = 3 if subject.call_seconds <= SLOW_SECONDS else 1
    try:
        limit.require((1 + rounds) * subject.call_seconds)
        form = make_form()
        own_weights = form.own_weights()
        batch = subject.batch(size)
        step = form.step(batch)
        step()
        with LiveBytes() as memory:
            memory.count_tensors((subject.params, subject.buffers, batch.args, dict(batch.kwargs), own_weights))
            peaks = []
            for _ in range(rounds):
                memory.reset_peak()
                step()
                peaks.append(float(memory.peak))
    except Exception as error:  # some foreign forwards do not work within a dispatch mode
        return NotPossible(describe_reason(error))
    return Spread(sorted(peaks)[len(peaks) // 2], min(peaks), max(peaks), len(peaks))
