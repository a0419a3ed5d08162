"""What each form can do: everything is tried, and the observations are the evidence."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

from funcnet.compare._errors import SkippedError
from funcnet.compare._lab import _try_calls, _try_state, _try_transforms
from funcnet.compare._lab._form_differences import fast_path_disabled
from funcnet.compare._lab._form_makers import FormMakers
from funcnet.compare._lab._forms import CALL, MODULE, NATIVE, TRACED
from funcnet.compare._lab._records import Capability, Outcome
from funcnet.compare._lab._subject import Subject
from funcnet.compare._lab._trial_bench import Bench, Trial, run_trial
from funcnet.compare._time_limit import NO_LIMIT, TimeLimit

SAMPLES = -1
ROW_SHARES = 3
"""How many times its equal share of the time that is left a row may take, because most rows take next to none."""


class CapabilityTrial(NamedTuple):
    """One thing to try with every form: its name, what is tried in words, the trial, and about how many calls it makes.

    ``SAMPLES`` stands for as many calls as a batch has samples.
    """

    name: str
    description: str
    trial: Trial
    calls: int


CAPABILITY_TRIALS = (
    CapabilityTrial(
        "Per-sample gradients in one call",
        "vmap(grad(loss)) over a batch, beside a loop over the module",
        _try_transforms.try_sample_gradients,
        SAMPLES,
    ),
    CapabilityTrial(
        "An ensemble in one call", "vmap over 3 sets of weights, beside 3 modules", _try_transforms.try_ensemble, 4
    ),
    CapabilityTrial(
        "Derivative along weights",
        "jvp of the outputs, in the direction of the weights",
        _try_transforms.try_forward_mode,
        2,
    ),
    CapabilityTrial(
        "Hessian-vector product",
        "of the loss in the direction of the weights, beside two backward passes",
        _try_transforms.try_hessian_vector_product,
        4,
    ),
    CapabilityTrial(
        "torch.compile", 'fullgraph=True with backend "aot_eager", beside the module', _try_transforms.try_compile, 2
    ),
    CapabilityTrial(
        "Save and load weights",
        "torch.save, torch.load(weights_only=True), into a form whose weights were others",
        _try_state.try_save,
        2,
    ),
    CapabilityTrial("Pickle the model", "pickle.dumps of the form itself, loaded and called", _try_state.try_pickle, 2),
    CapabilityTrial("Hooks", "a forward hook on every leaf, and a call", _try_state.try_hooks, 1),
    CapabilityTrial(
        "DistributedDataParallel", "wrapped, with a process group of one (gloo), and a backward", _try_state.try_ddp, 1
    ),
    CapabilityTrial(
        "Data parallel by all_reduce",
        "all_reduce over the gradients of a step, in a process group of one (gloo)",
        _try_state.try_all_reduce,
        1,
    ),
    CapabilityTrial(
        "Thread-safety",
        f"one model object, {_try_calls.THREADS} threads with weights of their own, "
        f"up to {_try_calls.MOST_CALLS} calls each",
        _try_calls.try_threads,
        13,
    ),
    CapabilityTrial(
        "Partial freezing",
        "a step that trains the second half of the tensors, beside one that trains all",
        _try_calls.try_freezing,
        2,
    ),
    CapabilityTrial(
        "A call that leaves nothing behind",
        "a step in training mode; buffers and torch's global generator before and after",
        _try_calls.try_call_without_effects,
        1,
    ),
)


def try_capabilities(
    makers: FormMakers, subject: Subject, report_share: Callable[[float], object], limit: TimeLimit = NO_LIMIT
) -> tuple[Capability, ...]:
    """Try everything with every form, each row within a part of the limit.

    ``report_share`` is called with the share that is done.
    """
    bench = Bench(subject, makers)
    capabilities = []
    with warnings.catch_warnings(), fast_path_disabled():
        warnings.simplefilter("ignore")  # a trial may warn, but only its outcome counts
        for index, trial in enumerate(CAPABILITY_TRIALS):
            report_share(index / len(CAPABILITY_TRIALS))
            row_limit = limit.part(ROW_SHARES / (len(CAPABILITY_TRIALS) - index))
            capabilities.append(_try_capability(bench, trial, row_limit))
    return tuple(capabilities)


def _try_capability(bench: Bench, trial: CapabilityTrial, limit: TimeLimit) -> Capability:
    """Try one thing with every form; forms for which there is no time are left out, and say so."""
    outcomes = {}
    calls = bench.batch.size if trial.calls == SAMPLES else trial.calls
    seconds = calls * bench.subject.call_seconds
    for form in (MODULE, CALL, NATIVE, TRACED):
        try:
            limit.require(seconds)
        except SkippedError as error:
            outcomes[form] = Outcome(None, str(error))
            continue
        before = limit.remaining
        outcomes[form] = run_trial(bench, form, trial.trial)
        seconds = before - limit.remaining  # the next form will take about as long
    return Capability(trial.name, trial.description, outcomes)
