"""How far every form is from nn.Module: in its outputs, gradients and new buffers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from funcnet._tensors import iter_tensors
from funcnet.compare._lab._form_makers import FormMakers
from funcnet.compare._lab._forms import MODULE, Form, StepResult
from funcnet.compare._lab._module_form import ModuleForm
from funcnet.compare._lab._reasons import describe_reason
from funcnet.compare._lab._subject import Subject
from funcnet.compare._measure import largest_difference
from funcnet.compare._results import NotPossible

Result = TypeVar("Result")
Differences = dict[str, dict[str, float | None] | NotPossible]
"""For each form, the largest difference of each quantity."""


def compare_forms(makers: FormMakers, subject: Subject) -> tuple[Differences, list[str]]:
    """The largest difference of each form from the module, by quantity; and notes for readers."""
    notes: list[str] = []
    differences: Differences = {}
    with fast_path_disabled():
        module_results = _run_both_modes(ModuleForm(subject), subject)
        for name, make_form in makers.items():
            if name == MODULE:
                continue
            try:
                form = make_form()
                expected = module_results
                if reference := form.same_draws_form():
                    expected = _run_both_modes(reference, subject)
                    notes.append(
                        f"{name}: draws from a Key, so it stands beside {reference.name} with the same Key; an int "
                        f"seed, which repeats the draws of the module, is eager only."
                    )
                differences[name] = _compare_results(expected, _run_both_modes(form, subject))
            except Exception as error:  # a form may raise anything
                differences[name] = NotPossible(describe_reason(error))
    return differences, notes


@contextmanager
def fast_path_disabled() -> Iterator[None]:
    """Disable torch's fused attention for inference: it rounds differently, and only a module takes it."""
    is_enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(is_enabled)


class _Results(NamedTuple):
    eval_output: list[Tensor]
    step: StepResult


def _run_both_modes(form: Form, subject: Subject) -> _Results:
    """Run a forward in eval mode and a step, from the same seed."""
    batch = subject.batch(subject.middle_size)
    with torch.no_grad():
        output = _call_with_seed(subject.seed, form.forward(batch))
    # An isolated form starts with the buffers of the subject, whatever the forward wrote.
    step = form.isolated_copy().step(subject.batch(subject.middle_size))
    return _Results(_clone_tensors(output), _call_with_seed(subject.seed, step))


def _call_with_seed(seed: int, call: Callable[[], Result]) -> Result:
    torch.manual_seed(seed)
    return call()


def _clone_tensors(output: object) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in iter_tensors(output)]


def _compare_results(expected: _Results, actual: _Results) -> dict[str, float | None]:
    expected_step, step = expected.step, actual.step
    gradients = {name: step.gradients[name] for name in expected_step.gradients if name in step.gradients}
    return {
        "outputs, eval": largest_difference(expected.eval_output, actual.eval_output),
        "outputs, training": largest_difference(_clone_tensors(expected_step.output), _clone_tensors(step.output)),
        "gradients": largest_difference(expected_step.gradients, gradients) if expected_step.gradients else None,
        "new buffers": largest_difference(expected_step.buffers, step.buffers) if expected_step.buffers else None,
    }
