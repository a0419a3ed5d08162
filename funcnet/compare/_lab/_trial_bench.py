"""A trial does one thing with one form: it works, it fails, or the model has nothing to try it on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from funcnet._tensors import iter_tensors
from funcnet._torch import pytree
from funcnet.compare._errors import summarize_error
from funcnet.compare._found_effects import explain_failure
from funcnet.compare._lab._form_makers import FormMakers
from funcnet.compare._lab._forms import Form
from funcnet.compare._lab._module_form import ModuleForm
from funcnet.compare._lab._reasons import FailedError, NothingToTryError, first_line
from funcnet.compare._lab._records import Outcome
from funcnet.compare._lab._subject import Subject
from funcnet.compare._measure import largest_difference


class Bench:
    """A model and its forms, with a batch and the outputs that trials should reproduce."""

    def __init__(self, subject: Subject, makers: FormMakers) -> None:
        self.subject, self.makers = subject, makers
        self.batch = subject.batch(subject.middle_size)

    def make_module_form(self) -> ModuleForm:
        """A new form of the module, with its initial buffers and no gradients."""
        return ModuleForm(self.subject)

    def reference_outputs(self) -> list[Tensor]:
        """The outputs of the module in eval mode."""
        return self.eval_outputs(self.make_module_form().forward(self.batch))

    def eval_outputs(self, call: Callable[[], object]) -> list[Tensor]:
        """The outputs of a call in eval mode. If it draws random numbers, it draws them from the seed."""
        torch.manual_seed(self.subject.seed)
        with torch.no_grad():
            return list_outputs(call())


Trial = Callable[[Bench, Form], str]
"""Tries something with a form and returns the evidence that it worked.

Raises ``FailedError``, or any other error, if it did not work, and ``NothingToTryError`` if there is nothing to try.
"""


def run_trial(bench: Bench, name: str, trial: Trial) -> Outcome:
    """Try one thing with the form of this name."""
    try:
        form = bench.makers[name]()
    except Exception as error:  # a tracer may raise anything
        return Outcome(None, f"this form could not be made: {summarize_error(error, 160)}")
    torch.manual_seed(bench.subject.seed)
    try:
        evidence = trial(bench, form.isolated_copy())
    except NothingToTryError as error:
        return Outcome(None, str(error))
    except FailedError as error:
        return Outcome(False, str(error))
    except Exception as error:
        return Outcome(False, explain_failure(first_line(error), bench.subject.effects))
    return Outcome(True, evidence)


def list_outputs(output: object) -> list[Tensor]:
    """The tensors of an output, detached."""
    return [tensor.detach() for tensor in iter_tensors(output)]


def require_same_bits(subject: str, expected: object, actual: object) -> str:
    """Require equal bits, and return the evidence: a sentence with this subject.

    Raises:
        FailedError: if there is any difference.
    """
    if gap := largest_difference(expected, actual):
        raise FailedError(f"{subject} differ by up to {gap:.2g}")
    return f"{subject} are equal, bit for bit"


def require_agreement(subject: str, expected: object, actual: object) -> str:
    """Require a difference of rounding at most, which is half of the digits of the largest number.

    Raises:
        FailedError: if the difference is larger.
    """
    leaves = pytree.tree_leaves(expected)
    gap = largest_difference(leaves, pytree.tree_leaves(actual))
    if not gap:
        return f"{subject} are equal, bit for bit"
    floats = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.numel()]
    largest = max((float(leaf.abs().max()) for leaf in floats), default=0.0)
    eps = max((torch.finfo(leaf.dtype).eps for leaf in floats), default=0.0)
    if gap > eps**0.5 * largest:
        raise FailedError(f"{subject} differ by up to {gap:.2g}, where numbers reach {largest:.2g}")
    return f"{subject} agree to rounding: {gap:.1g} apart, where numbers reach {largest:.2g}"


def require_weights(bench: Bench) -> None:
    """Stop a trial of a model that has nothing to differentiate with respect to."""
    if not any(weight.is_floating_point() for weight in bench.subject.module.parameters()):
        raise NothingToTryError("the model has no parameters")


def require_determinism(bench: Bench) -> None:
    """Stop a trial in which two forms that work would give different numbers."""
    if bench.subject.draws_in_eval:
        raise NothingToTryError("the model draws in eval mode too, so its numbers cannot be compared here")


def require_batch_axis(bench: Bench) -> None:
    """Stop a trial of a model whose inputs cannot be split into samples."""
    if bench.subject.no_batch_axis is not None:
        raise NothingToTryError(bench.subject.no_batch_axis.reason)
