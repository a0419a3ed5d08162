"""What each form can do: everything is tried, and the observations are the evidence."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

from funcnet.compare._lab import _try_calls, _try_state, _try_transforms
from funcnet.compare._lab._form_differences import fast_path_disabled
from funcnet.compare._lab._form_makers import FormMakers
from funcnet.compare._lab._forms import CALL, MODULE, NATIVE, TRACED
from funcnet.compare._lab._records import Capability
from funcnet.compare._lab._subject import Subject
from funcnet.compare._lab._trial_bench import Bench, Trial, run_trial


class CapabilityTrial(NamedTuple):
    """One thing to try with every form: its name, what is tried in words, and the trial."""

    name: str
    description: str
    trial: Trial


CAPABILITY_TRIALS = (
    CapabilityTrial(
        "Per-sample gradients in one call",
        "vmap(grad(loss)) over a batch, beside a loop over the module",
        _try_transforms.try_sample_gradients,
    ),
    CapabilityTrial(
        "An ensemble in one call",
        "vmap over 3 sets of weights, beside 3 modules",
        _try_transforms.try_ensemble,
    ),
    CapabilityTrial(
        "Derivative along weights",
        "jvp of the outputs, in the direction of the weights",
        _try_transforms.try_forward_mode,
    ),
    CapabilityTrial(
        "Hessian-vector product",
        "of the loss in the direction of the weights, beside two backward passes",
        _try_transforms.try_hessian_vector_product,
    ),
    CapabilityTrial(
        "torch.compile",
        'fullgraph=True with backend "aot_eager", beside the module',
        _try_transforms.try_compile,
    ),
    CapabilityTrial(
        "Save and load weights",
        "torch.save, torch.load(weights_only=True), into a form whose weights were others",
        _try_state.try_save,
    ),
    CapabilityTrial("Pickle the model", "pickle.dumps of the form itself, loaded and called", _try_state.try_pickle),
    CapabilityTrial("Hooks", "a forward hook on every leaf, and a call", _try_state.try_hooks),
    CapabilityTrial(
        "DistributedDataParallel",
        "wrapped, with a process group of one (gloo), and a backward",
        _try_state.try_ddp,
    ),
    CapabilityTrial(
        "Data parallel by all_reduce",
        "all_reduce over the gradients of a step, in a process group of one (gloo)",
        _try_state.try_all_reduce,
    ),
    CapabilityTrial(
        "Thread-safety",
        f"one model object, {_try_calls.THREADS} threads with weights of their own, "
        f"up to {_try_calls.MOST_CALLS} calls each",
        _try_calls.try_threads,
    ),
    CapabilityTrial(
        "Partial freezing",
        "a step that trains the second half of the tensors, beside one that trains all",
        _try_calls.try_freezing,
    ),
    CapabilityTrial(
        "A call that leaves nothing behind",
        "a step in training mode; buffers and torch's global generator before and after",
        _try_calls.try_call_without_effects,
    ),
)


def try_capabilities(
    makers: FormMakers, subject: Subject, report_share: Callable[[float], object]
) -> tuple[Capability, ...]:
    """Try everything with every form; ``report_share`` is called with the share that is done."""
    bench = Bench(subject, makers)
    capabilities = []
    with warnings.catch_warnings(), fast_path_disabled():
        warnings.simplefilter("ignore")  # a trial may warn, but only its outcome counts
        for index, (name, description, trial) in enumerate(CAPABILITY_TRIALS):
            report_share(index / len(CAPABILITY_TRIALS))
            outcomes = {form: run_trial(bench, form, trial) for form in (MODULE, CALL, NATIVE, TRACED)}
            capabilities.append(Capability(name, description, outcomes))
    return tuple(capabilities)
