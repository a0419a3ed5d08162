"""Effects over the table of cases: they agree with what layers declare, and with what vmap gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

import funcnet as fn
from tests.cases import CASES
from tests.helpers import assert_identical, clone, global_generator_untouched, parametrize

MODES = [False, True]
QUIET = {"Dropout(1.0)4x5", "AlphaDropout(1.0)4x5"}  # they may draw, and with p=1 have no need to
BRANCHING = ("AdaptiveLogSoftmaxWithLoss", "CTCLoss", "GaussianNLLLoss")
BODIES = {"branches": ""}  # bodies that call F.dropout, which no net declares


def axes_of(case) -> tuple[int | None, ...]:
    """The inputs of a case that have as long a first axis as the first has: its examples."""
    pairs = zip(case.inputs(), case.given, strict=True)
    sizes = [x.shape[0] if isinstance(x, Tensor) and x.dim() and not declared.fixed else None for x, declared in pairs]
    return tuple(0 if size is not None and size == sizes[0] else None for size in sizes)


def effects_of_case(case, train: bool) -> fn.inspect.Effects:
    net = case.net()
    params, buffers = net.init(0)
    return fn.effects(net, params, *case.inputs(), buffers=buffers, train=train, batch_dim=axes_of(case), **case.call)


@parametrize(case=CASES, train=MODES)
def test_draws_are_those_that_nets_declare(case, train):
    net = case.net()
    declared = {path for path, part in net.named_nets() if part.draws(train)}
    if train and case.name in BODIES:
        declared.add(BODIES[case.name])
    drawing = {effect.path for effect in effects_of_case(case, train).of("draws")}
    assert drawing == (set() if case.name in QUIET else declared)


@parametrize(case=CASES, train=MODES)
def test_buffers_written_are_those_that_apply_replaces(case, train):
    net = case.net()
    params, buffers = net.init(0)
    with global_generator_untouched():
        copies = clone((params, buffers))
        report = effects_of_case(case, train).of("writes buffer")
        assert_identical((params, buffers), copies)
    _, new = net.apply(params, buffers, *case.inputs(), train=train, rng=0, **case.call)
    before, after = fn.tree.flatten(buffers), fn.tree.flatten(new)
    changed = {path for path in before if not torch.equal(before[path], after[path])}
    reported = {part.split(" ")[-1] for effect in report for part in effect.detail.split("; ")}
    assert changed <= reported <= set(before)
    assert train or not reported


@parametrize(case=CASES, train=MODES)
def test_inputs_written_to_are_those_of_layers_in_place(case, train):
    module = case.module().train(train)
    xs = case.inputs()
    copies = clone(xs)
    module(*xs, **case.call)
    written = any(not torch.equal(x, y) for x, y in zip(xs, copies, strict=True) if isinstance(x, Tensor))
    report = effects_of_case(case, train).of("mutates input")
    of_params = [effect for effect in report if "the parameter" in effect.detail]
    assert bool(of_params) == ("max_norm" in case.name)
    if written:
        assert len(report) > len(of_params)
    else:
        assert report.found == tuple(of_params) or "True" in case.name or "inplace" in case.name  # of no visible effect


def outputs_of_batch_and_of_examples(case, train: bool) -> Any:
    """What a net gives for a batch; and for each example in a batch of one, under vmap."""
    net = case.net()
    params, buffers = net.init(0)
    axes = axes_of(case)

    def apply_to_example(*xs):
        xs = [x if axis is None else x[None] for x, axis in zip(xs, axes, strict=True)]
        return net.apply(params, buffers, *xs, train=train, **case.call)

    first = [x if axis is None else x[0] for x, axis in zip(case.inputs(), axes, strict=True)]
    try:
        apply_to_example(*first)
    except (RuntimeError, ValueError, UserWarning):
        pytest.skip("takes no batch of one: the first axis holds no examples")
    together = net.apply(params, buffers, *case.inputs(), train=train, **case.call)
    return together, torch.vmap(apply_to_example, in_dims=axes)(*case.inputs())


def is_join_of_examples(together: Any, apart: Any) -> bool:
    """Whether results for a batch are those for its examples, joined along some axis, or one that all have."""
    pairs = zip(tree_leaves(together), tree_leaves(apart), strict=True)
    return all(
        any(are_close(batched, torch.cat(mapped.unbind(0), axis)) for axis in range(mapped.dim() - 1))
        or all(are_close(batched, example) for example in mapped)
        for batched, mapped in pairs
    )


def are_close(left: Tensor, right: Tensor) -> bool:
    return left.shape == right.shape and torch.allclose(left, right, rtol=1e-4, atol=1e-5, equal_nan=True)


@parametrize(case=CASES, train=MODES)
def test_examples_mix_where_vmap_gives_something_else_than_the_batch(case, train):
    net, report = case.net(), effects_of_case(case, train)
    if report.notes or any(part.draws(train) for _, part in net.named_nets()) or report.of("draws"):
        pytest.skip("draws, has one example, or depends on it for shapes")
    if not fn.supports(net, "vmap", train=train):
        pytest.skip("vmap is refused")
    together, apart = outputs_of_batch_and_of_examples(case, train)
    assert is_join_of_examples(together, apart) == (not report.of("mixes examples"))


def branches_on_examples(case) -> bool:
    mapped = [f"input {index}" for index, axis in enumerate(axes_of(case)) if axis is not None]
    return any(
        name in effect.detail for effect in effects_of_case(case, False).of("branches on data") for name in mapped
    )


@parametrize(case=[case for case in CASES if case.name.startswith(BRANCHING)])
def test_a_module_that_branches_on_examples_fails_under_vmap(case):
    if not branches_on_examples(case):
        pytest.skip("with these options it does not")
    module = case.module().eval().requires_grad_(False)
    with pytest.raises(RuntimeError):
        torch.vmap(lambda *xs: module(*xs, **case.call), in_dims=axes_of(case))(*case.inputs())


@parametrize(case=[case for case in CASES if not case.name.startswith(BRANCHING)])
def test_no_other_layer_branches_on_examples_or_reads_what_lies_outside(case):
    assert not branches_on_examples(case)
    assert not effects_of_case(case, True).of("reads outside tensor")
