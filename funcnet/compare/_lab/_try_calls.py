"""Can a form be called from several threads, trained in part, and called without a trace?"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import funcnet as fn
from funcnet.compare._lab._forms import FunctionalCall, ModuleForm, NetForm, PureForm
from funcnet.compare._lab._many import members
from funcnet.compare._lab._tries import (
    Bench,
    FailedError,
    NothingToTryError,
    close,
    first_line,
    need_determinism,
    need_weights,
    tensors,
)
from funcnet.compare._measure import clock, largest_difference
from funcnet.tree import flatten, unflatten

THREADS, CALLS = 4, 25
LONGEST = 5.0
"""Seconds for the calls of all threads; slow models make fewer, and two each at least."""


# --- threads ---


def _in_threads(work: Callable[[int], Callable[[], Any]], expected: list[list[Tensor]]) -> str:
    """``THREADS`` threads, each with its own program and numbers it should give."""
    programs = [work(index) for index in range(THREADS)]
    wrong, errors, start = [0] * THREADS, [""] * THREADS, threading.Barrier(THREADS)
    each = _calls_each(programs[0])

    def run(index: int) -> None:
        start.wait()
        for _ in range(each):
            try:
                with torch.no_grad():
                    found = tensors(programs[index]())
                wrong[index] += bool(largest_difference(expected[index], found))
            except Exception as error:  # noqa: PERF203  # each call counts by itself
                wrong[index] += 1
                errors[index] = first_line(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = THREADS * each
    if bad := sum(wrong):
        raised = next((f"; one raised {error}" for error in errors if error), "")
        raise FailedError(f"{bad} of {total} calls gave the numbers of other weights, or none{raised}")
    return f"{total} of {total} calls gave the numbers of their own weights"


def _calls_each(program: Callable[[], Any]) -> int:
    """How many calls each thread has time for."""
    begin = clock()
    try:
        with torch.no_grad():
            program()
    except Exception:  # which each thread will see for itself
        return CALLS
    return max(2, min(CALLS, int(LONGEST / THREADS / (clock() - begin))))


def _own_weights(bench: Bench) -> tuple[list[Any], list[list[Tensor]]]:
    """A set of weights for each thread, and the outputs they give in the module, called alone."""
    need_weights(bench)
    need_determinism(bench)
    module = bench.module_form().module.eval()
    stacked = members(dict(module.named_parameters()), THREADS)
    sets = [{name: leaf[index].clone() for name, leaf in stacked.items()} for index in range(THREADS)]
    expected = []
    with torch.no_grad():
        for weights in sets:
            module.load_state_dict(weights, strict=False)
            expected.append(tensors(bench.batch.call(module)))
    return sets, [[leaf.clone() for leaf in leaves] for leaves in expected]


def threads_of_module(bench: Bench, form: ModuleForm) -> str:
    sets, expected = _own_weights(bench)
    module = form.module.eval()

    def program(index: int) -> Callable[[], Any]:
        def call() -> Any:
            module.load_state_dict(sets[index], strict=False)
            return bench.batch.call(module)

        return call

    return _in_threads(program, expected)


def threads_of_pure(bench: Bench, form: PureForm) -> str:
    sets, expected = _own_weights(bench)
    if isinstance(form, FunctionalCall):
        form.module = copy.deepcopy(form.module)
    given = []
    for weights in sets:
        # those of the form, by which it also knows ties
        flat = {name: weights[name].requires_grad_(leaf.requires_grad) for name, leaf in flatten(form.params).items()}
        given.append(unflatten(flat) if isinstance(form, NetForm) else flat)
    return _in_threads(lambda index: lambda: form.output(given[index], bench.batch), expected)


# --- freezing, and traces of a call ---


def _half(bench: Bench) -> set[str]:
    names = [name for name, weight in bench.subject.module.named_parameters() if weight.is_floating_point()]
    if len(names) < 2:
        raise NothingToTryError("the model has fewer than two tensors to freeze some of")
    return set(names[: len(names) // 2])


def frozen_module(bench: Bench, form: ModuleForm) -> str:
    frozen, whole = _half(bench), bench.module_form()
    for name, weight in form.module.named_parameters():
        weight.requires_grad_(name not in frozen)
    torch.manual_seed(form.subject.seed)
    expected = whole.step(bench.batch)().gradients
    torch.manual_seed(form.subject.seed)
    found = form.step(bench.batch)().gradients
    return _only_the_rest(frozen, expected, found)


def frozen_pure(bench: Bench, form: PureForm) -> str:
    frozen, whole = _half(bench), form
    torch.manual_seed(form.subject.seed)
    expected = whole.step(bench.batch)().gradients
    torch.manual_seed(form.subject.seed)
    if isinstance(form, NetForm):
        net = form
        trainable, rest = fn.tree.partition(net.subject.params, [name for name in expected if name not in frozen])

        def loss(trainable: Any) -> Tensor:
            params = fn.tree.combine(trainable, rest)
            output, _ = net.apply(params, net.buffers, bench.batch, True, net.rng)
            return net.subject.loss(output, bench.batch.labels)

        found = flatten(fn.value_and_grad(loss)(trainable)[1])
    else:
        form.params = {name: leaf.detach() if name in frozen else leaf for name, leaf in form.params.items()}
        found = form.step(bench.batch)().gradients
    return _only_the_rest(frozen, expected, {name: leaf for name, leaf in found.items() if isinstance(leaf, Tensor)})


def _only_the_rest(frozen: set[str], expected: dict[str, Tensor], found: dict[str, Tensor]) -> str:
    if extra := sorted(frozen & set(found)):
        raise FailedError(f"{len(extra)} frozen tensors got a gradient, {extra[0]!r} among them")
    rest = {name: gradient for name, gradient in expected.items() if name not in frozen}
    kept = close("their gradients, beside those without freezing,", rest, found)
    return f"{len(frozen)} tensors frozen, {len(rest)} trained; {kept}"


def untouched_by_module(bench: Bench, form: ModuleForm) -> str:
    held = dict(form.module.named_buffers())
    return _untouched(held, form.step(bench.batch))


def untouched_by_pure(bench: Bench, form: PureForm) -> str:
    if isinstance(form, NetForm):
        return _untouched(flatten(form.buffers), form.step(bench.batch))
    held = {name: buffer.clone() for name, buffer in form.buffers.items()}
    form.params = {name: leaf.detach().requires_grad_(leaf.requires_grad) for name, leaf in form.params.items()}
    return _untouched(held, lambda: form.apply(form.params, held, bench.batch, True))


def _untouched(held: dict[str, Tensor], call: Callable[[], Any]) -> str:
    before = {name: buffer.clone() for name, buffer in held.items()}
    state = torch.get_rng_state()
    call()
    moved = [name for name in held if largest_difference(before[name], held[name])]
    left = [f"{len(moved)} buffers were written in place, {moved[0]!r} among them"] if moved else []
    if not torch.equal(state, torch.get_rng_state()):
        left.append("torch's global generator moved")
    if left:
        raise FailedError(" and ".join(left))
    return f"{len(held)} buffers and torch's global generator are as before"
