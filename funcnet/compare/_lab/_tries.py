"""Trying something with a form: it worked, it did not, or there was nothing to try it on."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from funcnet._torch import pytree
from funcnet.compare._errors import summarize_error
from funcnet.compare._lab._costs import Makers
from funcnet.compare._lab._forms import ModuleForm, PureForm
from funcnet.compare._lab._records import Outcome
from funcnet.compare._lab._subject import Subject
from funcnet.compare._measure import largest_difference


class FailedError(Exception):
    """What was tried ran, and did not do what it should; the message says what was seen."""


class NothingToTryError(Exception):
    """The model has nothing that this could be tried on."""


class Bench:
    """A model, its forms, and numbers they should give."""

    def __init__(self, subject: Subject, makers: Makers) -> None:
        self.subject, self.makers = subject, makers
        self.batch = subject.batch(subject.middle)

    def module_form(self) -> ModuleForm:
        """A fresh one, with buffers and gradients as at the start."""
        return ModuleForm(self.subject)

    def reference(self) -> list[Tensor]:
        """The outputs of the module in eval mode."""
        return self.seeded(self.module_form().forward(self.batch))

    def seeded(self, call: Callable[[], Any]) -> list[Tensor]:
        """The outputs of a call in eval mode, which draws from the seed if it draws at all."""
        torch.manual_seed(self.subject.seed)
        with torch.no_grad():
            return tensors(call())


Try = Callable[[Bench, ModuleForm], str]
TryPure = Callable[[Bench, PureForm], str]


def attempt(bench: Bench, name: str, of_module: Try, of_pure: TryPure) -> Outcome:
    """Try one thing with one form."""
    try:
        form = bench.makers[name]()
    except Exception as error:  # whatever a tracer may raise
        return Outcome(None, f"this form could not be made: {summarize_error(error, 160)}")
    torch.manual_seed(bench.subject.seed)
    try:
        # functional_call holds a module and sets its mode, so each try has one of its own
        if isinstance(form, ModuleForm):
            evidence = of_module(bench, bench.module_form())
        else:
            evidence = of_pure(bench, copy.copy(form))
    except NothingToTryError as nothing:
        return Outcome(None, str(nothing))
    except FailedError as failed:
        return Outcome(False, str(failed))
    except Exception as error:
        return Outcome(False, first_line(error))
    return Outcome(True, evidence)


def first_line(error: BaseException) -> str:
    """The type and first line of an error.

    >>> first_line(ValueError("one\\ntwo"))
    'ValueError: one'
    """
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return summarize_error(f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__, 200)


def tensors(output: Any) -> list[Tensor]:
    """The tensors of an output, detached."""
    return [leaf.detach() for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


def same(what: str, expected: Any, found: Any) -> str:
    """Require equal bits."""
    if gap := largest_difference(expected, found):
        raise FailedError(f"{what} differ by up to {gap:.2g}")
    return f"{what} are equal, bit for bit"


def close(what: str, expected: Any, found: Any) -> str:
    """Require that a difference be one of rounding: half of the digits of the dtype, from the largest number."""
    lefts = pytree.tree_leaves(expected)
    gap = largest_difference(lefts, pytree.tree_leaves(found))
    if not gap:
        return f"{what} are equal, bit for bit"
    floats = [leaf for leaf in lefts if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.numel()]
    largest = max((float(leaf.abs().max()) for leaf in floats), default=0.0)
    eps = max((torch.finfo(leaf.dtype).eps for leaf in floats), default=0.0)
    if gap > eps**0.5 * largest:
        raise FailedError(f"{what} differ by up to {gap:.2g}, where numbers reach {largest:.2g}")
    return f"{what} agree to rounding: {gap:.1g} apart, where numbers reach {largest:.2g}"


def need_weights(bench: Bench) -> None:
    """Stop where there is nothing to differentiate by."""
    if not any(weight.is_floating_point() for weight in bench.subject.module.parameters()):
        raise NothingToTryError("the model has no parameters")


def need_determinism(bench: Bench) -> None:
    """Stop where two forms that work would give different numbers."""
    if bench.subject.draws_in_eval:
        raise NothingToTryError("the model draws in eval mode too, so its numbers cannot be compared here")


def need_batch(bench: Bench) -> None:
    """Stop where samples cannot be told apart."""
    if bench.subject.whole_batch is not None:
        raise NothingToTryError(bench.subject.whole_batch.reason)
