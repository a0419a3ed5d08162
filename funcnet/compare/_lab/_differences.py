"""How far every form is from nn.Module: outputs, gradients, new buffers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from funcnet._torch import pytree
from funcnet.compare._lab._costs import Makers
from funcnet.compare._lab._forms import COMPILED, MODULE, NATIVE, Compiled, Form, ModuleForm, PureForm, Step
from funcnet.compare._lab._subject import Subject
from funcnet.compare._lab._turns import reason_of
from funcnet.compare._measure import largest_difference
from funcnet.compare._results import NotPossible

Differences = dict[str, dict[str, float | None] | NotPossible]


def differences(makers: Makers, subject: Subject) -> tuple[Differences, list[str]]:
    """The largest difference of each form from the module, by quantity; and what to know about them."""
    notes: list[str] = []
    with without_fast_path():
        expected = _seen(ModuleForm(subject), subject)
        found: Differences = {}
        for name, make in makers.items():
            if name == MODULE:
                continue
            try:
                form = make()
                reference = expected
                if isinstance(form, Compiled) and (subject.draws or subject.draws_in_eval):
                    reference = _seen(_with_key(makers[NATIVE](), form), subject)
                    notes.append(
                        f"{COMPILED}: draws from a Key, so it stands beside {NATIVE} with the same Key; an int seed, "
                        f"which repeats the draws of the module, is eager only."
                    )
                found[name] = _apart(reference, _seen(form, subject))
            except Exception as error:  # whatever a form may raise
                found[name] = NotPossible(reason_of(error))
    return found, notes


@contextmanager
def without_fast_path() -> Iterator[None]:
    """Without torch's fused attention for inference: it rounds differently, and only a module takes it."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _with_key(native: Form, compiled: Compiled) -> Form:
    assert isinstance(native, PureForm)
    keyed = type(native)(native.subject, native.subject.net, NATIVE)  # type: ignore[call-arg]
    keyed.rng, keyed.draws = compiled.rng, compiled.draws  # type: ignore[attr-defined]
    return keyed


def _seen(form: Form, subject: Subject) -> tuple[Any, Step]:
    """Output in eval mode and a step, from the same seed."""
    with torch.no_grad():
        output = _at_seed(subject, form.forward(subject.batch(subject.middle)))
    prepared = form.step(subject.batch(subject.middle))
    if isinstance(form, ModuleForm):
        form = ModuleForm(subject)  # with the buffers as they were
        prepared = form.step(subject.batch(subject.middle))
    return _tensors(output), _at_seed(subject, prepared)


def _at_seed(subject: Subject, call: Callable[[], Any]) -> Any:
    torch.manual_seed(subject.seed)
    return call()


def _tensors(output: Any) -> list[torch.Tensor]:
    return [leaf.detach().clone() for leaf in pytree.tree_leaves(output) if isinstance(leaf, torch.Tensor)]


def _apart(expected: tuple[Any, Step], found: tuple[Any, Step]) -> dict[str, float | None]:
    (output, step), (other, taken) = expected, found
    grads = {name: taken.gradients[name] for name in step.gradients if name in taken.gradients}
    return {
        "outputs, eval": largest_difference(output, other),
        "outputs, training": largest_difference(_tensors(step.output), _tensors(taken.output)),
        "gradients": largest_difference(step.gradients, grads) if step.gradients else None,
        "new buffers": largest_difference(step.buffers, taken.buffers) if step.buffers else None,
    }
