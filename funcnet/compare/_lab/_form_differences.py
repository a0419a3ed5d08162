"""How far every form is from nn.Module: in its outputs, gradients and new buffers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from funcnet._tensors import iter_tensors
from funcnet.compare._errors import describe_reason, summarize_error
from funcnet.compare._lab._form_makers import FormMakers
from funcnet.compare._lab._forms import MODULE, Form, StepResult
from funcnet.compare._lab._module_form import ModuleForm
from funcnet.compare._lab._subject import Subject
from funcnet.compare._measure import largest_difference
from funcnet.compare._results import NotPossible
from funcnet.compare._time_limit import NO_LIMIT, TimeLimit

Result = TypeVar("Result")
Differences = dict[str, dict[str, float | None] | NotPossible]
"""For each form, the largest difference of each quantity."""


def compare_forms(makers: FormMakers, subject: Subject, limit: TimeLimit = NO_LIMIT) -> tuple[Differences, list[str]]:
    """The largest difference of each form from the module, by quantity; and notes for readers."""
    differences: Differences = {}
    with fast_path_disabled():
        module_results, notes = _run_module(subject)
        for name, make_form in makers.items():
            if name == MODULE:
                continue
            try:
                limit.require(2 * subject.call_seconds)
                form = make_form()
                expected = module_results
                if reference := form.same_draws_form():
                    expected = _run_both_modes(reference, subject, module_results)
                    notes.append(
                        f"{name}: draws from a Key, so it stands beside {reference.name} with the same Key; an int "
                        f"seed, which repeats the draws of the module, is eager only."
                    )
                differences[name] = _compare_results(expected, _run_both_modes(form, subject, module_results))
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
    """The results in both modes; None in a mode in which the module does not run."""

    eval_output: list[Tensor] | None
    step: StepResult | None


def _run_module(subject: Subject) -> tuple[_Results, list[str]]:
    """The results of the module itself, and a note for each mode in which it does not run."""
    notes: list[str] = []

    def run(mode: str, call: Callable[[], Result]) -> Result | None:
        try:
            return call()
        except Exception as error:  # a forward may raise anything
            notes.append(f"In {mode} mode nothing was compared: the module raised {summarize_error(error, 200)}.")
            return None

    eval_output = run("eval", lambda: _run_eval(ModuleForm(subject), subject))
    return _Results(eval_output, run("training", lambda: _run_step(ModuleForm(subject), subject))), notes


def _run_both_modes(form: Form, subject: Subject, module_results: _Results) -> _Results:
    """Run a forward in eval mode and a step, from the same seed, in the modes in which the module runs."""
    eval_output = _run_eval(form, subject) if module_results.eval_output is not None else None
    # An isolated form starts with the buffers of the subject, whatever the forward wrote.
    step = _run_step(form.isolated_copy(), subject) if module_results.step is not None else None
    return _Results(eval_output, step)


def _run_eval(form: Form, subject: Subject) -> list[Tensor]:
    with torch.no_grad():
        return _clone_tensors(_call_with_seed(subject.seed, form.forward(subject.batch(subject.middle_size))))


def _run_step(form: Form, subject: Subject) -> StepResult:
    return _call_with_seed(subject.seed, form.step(subject.batch(subject.middle_size)))


def _call_with_seed(seed: int, call: Callable[[], Result]) -> Result:
    torch.manual_seed(seed)
    return call()


def _clone_tensors(output: object) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in iter_tensors(output)]


def _compare_results(expected: _Results, actual: _Results) -> dict[str, float | None]:
    differences: dict[str, float | None] = dict.fromkeys(
        ("outputs, eval", "outputs, training", "gradients", "new buffers")
    )
    if expected.eval_output is not None:
        differences["outputs, eval"] = largest_difference(expected.eval_output, actual.eval_output)
    expected_step, step = expected.step, actual.step
    if expected_step is not None and step is not None:
        outputs = _clone_tensors(expected_step.output), _clone_tensors(step.output)
        differences["outputs, training"] = largest_difference(*outputs)
        gradients = {name: step.gradients[name] for name in expected_step.gradients if name in step.gradients}
        if expected_step.gradients:
            differences["gradients"] = largest_difference(expected_step.gradients, gradients)
        if expected_step.buffers:
            differences["new buffers"] = largest_difference(expected_step.buffers, step.buffers)
    return differences
