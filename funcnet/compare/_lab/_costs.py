"""Time and memory of every form: against batch size, against depth, and with next to nothing to compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch

from funcnet.compare._lab._depth import Depths
from funcnet.compare._lab._forms import COMPILED, Allowance, Compiled, Form, make_forms
from funcnet.compare._lab._records import Curve, Spread
from funcnet.compare._lab._subject import Subject
from funcnet.compare._lab._turns import Call, Make, curve, in_turns, reason_of
from funcnet.compare._measure import LiveBytes
from funcnet.compare._results import NotPossible

FORWARD = "a forward in eval mode under no_grad"
STEP = "a forward and backward in training mode, to the gradients of all params; without an optimizer"

Makers = Mapping[str, Callable[[], Form]]


def once_each(makers: Makers) -> Makers:
    """Makers that make their form when first asked, and give the same one, or the same error, ever after."""
    made: dict[str, Form | Exception] = {}

    def get(name: str) -> Form:
        if name not in made:
            try:
                made[name] = makers[name]()
            except Exception as error:  # whatever a tracer may raise
                made[name] = error
        found = made[name]
        if isinstance(found, Exception):
            raise found
        return found

    return {name: partial(get, name) for name in makers}


def _calls(makers: Makers, subject: Subject, size: int, verb: str) -> dict[str, Make]:
    def make(name: str) -> Call:
        form = makers[name]()
        return form.forward(subject.batch(size)) if verb == "forward" else form.step(subject.batch(size))

    return {name: partial(make, name) for name in makers}


def against_batch(makers: Makers, subject: Subject, budget: float) -> dict[str, Curve | NotPossible]:
    """Forward and step at every batch size."""
    if subject.whole_batch is not None:
        axis, sizes = "the inputs as given", subject.sizes
    else:
        axis, sizes = "batch size (axis 0)", subject.sizes

    def rows(verb: str) -> Mapping[int, Mapping[str, Make]]:
        return {size: _calls(makers, subject, size, verb) for size in sizes}

    with torch.no_grad():
        forward = curve("Forward", FORWARD, axis, rows("forward"), budget)
    return {"forward_batch": forward, "step_batch": curve("Step", STEP, axis, rows("step"), budget)}


def against_depth(
    depths: Depths | NotPossible, subject: Subject, allowance: Allowance, budget: float
) -> dict[str, Curve | NotPossible]:
    """Forward and step of models with more and fewer blocks, at the middle batch size."""
    if isinstance(depths, NotPossible):
        return {"forward_depth": depths, "step_depth": depths}
    size = subject.middle
    try:
        deep = {depth: depths.make(depth) for depth in depths.at}
    except Exception as error:  # a net may need what was taken away
        why = NotPossible(f"a model of another depth cannot be built: {reason_of(error)}")
        return {"forward_depth": why, "step_depth": why}
    forms = {depth: once_each(make_forms(at, allowance)) for depth, at in deep.items()}

    def rows(verb: str) -> Mapping[int, Mapping[str, Make]]:
        return {depth: _calls(forms[depth], at, size, verb) for depth, at in deep.items()}

    axis = f"depth: {depths.block}"
    with torch.no_grad():
        forward = curve("Forward", f"{FORWARD}, batch of {size}", axis, rows("forward"), budget)
    step = curve("Step", f"{STEP}; batch of {size}", axis, rows("step"), budget)
    return {"forward_depth": forward, "step_depth": step}


def overhead(makers: Makers, subject: Subject, budget: float) -> Curve:
    """A forward on the smallest batch, where what is left of the time is mostly Python."""
    size = subject.sizes[0]
    with torch.no_grad():
        found = in_turns(_calls(makers, subject, size, "forward"), budget)
    forms = {name: (value,) for name, value in found.items()}
    return Curve("Python overhead", f"{FORWARD}, on the smallest batch", "batch size", "seconds", (size,), forms)


def memory(makers: Makers, subject: Subject) -> Curve:
    """The most bytes of tensors alive at one time in a step: weights, gradients, batch, activations."""
    size = subject.sizes[-1]
    forms = {name: (_peak(make, name, subject, size),) for name, make in makers.items()}
    return Curve("Peak memory", f"{STEP}. Tensors alive at one time", "batch size", "bytes", (size,), forms)


def _peak(make: Callable[[], Form], name: str, subject: Subject, size: int) -> Spread | NotPossible:
    if name == COMPILED:
        return NotPossible("compiled code takes its buffers from C++, where tensors alive cannot be counted")
    try:
        form = make()
        assert not isinstance(form, Compiled)
        batch = subject.batch(size)
        step = form.step(batch)
        step()
        with LiveBytes() as counted:
            counted.count((subject.params, subject.buffers, batch.args, dict(batch.kwargs)))
            counted.count(list(form.module.parameters()) if hasattr(form, "module") else [])
            peaks = []
            for _ in range(3):
                counted.peak = counted.live
                step()
                peaks.append(float(counted.peak))
    except Exception as error:  # what a foreign forward does need not work within a dispatch mode
        return NotPossible(reason_of(error))
    return Spread(sorted(peaks)[1], min(peaks), max(peaks), len(peaks))
