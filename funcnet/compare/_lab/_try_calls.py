"""Trials of single calls: from several threads, with a part of the weights frozen, and without lasting effects."""

from __future__ import annotations

import threading

import torch
from torch import Tensor

from funcnet._typing import Flat
from funcnet.compare._lab._forms import Form, stack_weights
from funcnet.compare._lab._reasons import FailedError, NothingToTryError, first_line
from funcnet.compare._lab._trial_bench import (
    Bench,
    list_outputs,
    require_agreement,
    require_determinism,
    require_weights,
)
from funcnet.compare._lab._turns import PreparedCall
from funcnet.compare._measure import largest_difference, read_clock
from funcnet.random.internals import read_torch_state

THREADS, MOST_CALLS = 4, 25
MOST_SECONDS = 4.0
"""Seconds for the calls of all threads. With slow models each thread makes fewer calls, but at least two."""


# --- threads ---


def try_threads(bench: Bench, form: Form) -> str:
    """Call one model object from several threads, each with weights of its own."""
    require_weights(bench)
    require_determinism(bench)
    weight_sets, expected = _thread_weights(bench)
    calls = [form.call_with_weights(weights, bench.batch) for weights in weight_sets]
    calls_per_thread = _choose_call_count(calls[0])
    failures, errors, barrier = [0] * THREADS, [""] * THREADS, threading.Barrier(THREADS)

    def run_thread(index: int) -> None:
        barrier.wait()
        for _ in range(calls_per_thread):
            try:
                with torch.no_grad():
                    outputs = list_outputs(calls[index]())
                failures[index] += bool(largest_difference(expected[index], outputs))
            except Exception as error:  # noqa: PERF203  # each call counts by itself
                failures[index] += 1
                errors[index] = first_line(error)

    threads = [threading.Thread(target=run_thread, args=(index,)) for index in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = THREADS * calls_per_thread
    if failure_count := sum(failures):
        raised = next((f"; one raised {error}" for error in errors if error), "")
        raise FailedError(f"{failure_count} of {total} calls gave the numbers of other weights, or none{raised}")
    return f"{total} of {total} calls gave the numbers of their own weights"


def _thread_weights(bench: Bench) -> tuple[list[Flat], list[list[Tensor]]]:
    """A set of weights for each thread, and the outputs that the module gives with them when it is called alone."""
    module = bench.make_module_form().model.eval()
    stacked = stack_weights(dict(module.named_parameters()), THREADS)
    weight_sets = [{name: leaf[index].clone() for name, leaf in stacked.items()} for index in range(THREADS)]
    expected = []
    with torch.no_grad():
        for weights in weight_sets:
            module.load_state_dict(weights, strict=False)
            expected.append([tensor.clone() for tensor in list_outputs(bench.batch.call(module))])
    return weight_sets, expected


def _choose_call_count(call: PreparedCall) -> int:
    """How many calls each thread has time for."""
    start = read_clock()
    try:
        with torch.no_grad():
            call()
    except Exception:  # every thread will raise it again
        return MOST_CALLS
    return max(2, min(MOST_CALLS, int(MOST_SECONDS / THREADS / (read_clock() - start))))


# --- freezing ---


def try_freezing(bench: Bench, form: Form) -> str:
    """Freeze half of the weights, and compare the other gradients with those of a step without freezing."""
    frozen = _choose_frozen_names(bench)
    torch.manual_seed(bench.subject.seed)
    all_gradients = form.isolated_copy().step(bench.batch)().gradients
    torch.manual_seed(bench.subject.seed)
    gradients = form.gradients_with_frozen(frozen, bench.batch)
    if frozen_gradients := sorted(frozen & set(gradients)):
        raise FailedError(f"{len(frozen_gradients)} frozen tensors got a gradient, {frozen_gradients[0]!r} among them")
    expected = {name: gradient for name, gradient in all_gradients.items() if name not in frozen}
    agreement = require_agreement("their gradients, beside those without freezing,", expected, gradients)
    return f"{len(frozen)} tensors frozen, {len(expected)} trained; {agreement}"


def _choose_frozen_names(bench: Bench) -> set[str]:
    """The first half of the floating weights."""
    names = [name for name, weight in bench.subject.module.named_parameters() if weight.is_floating_point()]
    if len(names) < 2:
        raise NothingToTryError("the model has fewer than two tensors to freeze some of")
    return set(names[: len(names) // 2])


# --- effects ---


def try_call_without_effects(bench: Bench, form: Form) -> str:
    """Check that a call in training mode changes neither buffers nor torch's global generator."""
    buffers, call = form.call_in_training(bench.batch)
    before = {name: buffer.clone() for name, buffer in buffers.items()}
    generator_state = read_torch_state()
    call()
    changed = [name for name in buffers if largest_difference(before[name], buffers[name])]
    effects = [f"{len(changed)} buffers were written in place, {changed[0]!r} among them"] if changed else []
    if not torch.equal(generator_state, read_torch_state()):
        effects.append("torch's global generator moved")
    if effects:
        raise FailedError(" and ".join(effects))
    return f"{len(buffers)} buffers and torch's global generator are as before"
