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
    sizes = [x.shape[0] if isinstance(x, Tensor) and x.dim() and not one.fixed else None for x, one in pairs]
    return tuple(0 if size is not None and size == sizes[0] else None for size in sizes)


def look(case, train: bool) -> fn.inspect.Effects:
    net = case.net()
    params, buffers = net.init(0)
    return fn.effects(net, params, *case.inputs(), buffers=buffers, train=train, batch_dim=axes_of(case), **case.call)


@parametrize(case=CASES, train=MODES)
def test_draws_are_those_that_nets_declare(case, train):
    net = case.net()
    declared = {path for path, below in net.named_nets() if below.draws(train)}
    if train and case.name in BODIES:
        declared.add(BODIES[case.name])
    found = {effect.path for effect in look(case, train).of("draws")}
    assert found == (set() if case.name in QUIET else declared)


@parametrize(case=CASES, train=MODES)
def test_buffers_written_are_those_that_apply_replaces(case, train):
    net = case.net()
    params, buffers = net.init(0)
    with global_generator_untouched():
        given = clone((params, buffers))
        found = look(case, train).of("writes buffer")
        assert_identical((params, buffers), given)
    _, new = net.apply(params, buffers, *case.inputs(), train=train, rng=0, **case.call)
    before, after = fn.tree.flatten(buffers), fn.tree.flatten(new)
    changed = {path for path in before if not torch.equal(before[path], after[path])}
    told = {part.split(" ")[-1] for effect in found for part in effect.detail.split("; ")}
    assert changed <= told <= set(before)
    assert train or not told


@parametrize(case=CASES, train=MODES)
def test_inputs_written_to_are_those_of_layers_in_place(case, train):
    module = case.module().train(train)
    xs = case.inputs()
    given = clone(xs)
    module(*xs, **case.call)
    written = any(not torch.equal(x, y) for x, y in zip(xs, given, strict=True) if isinstance(x, Tensor))
    found = look(case, train).of("mutates input")
    of_params = [effect for effect in found if "the parameter" in effect.detail]
    assert bool(of_params) == ("max_norm" in case.name)
    if written:
        assert len(found) > len(of_params)
    else:
        assert found.found == tuple(of_params) or "True" in case.name or "inplace" in case.name  # of no visible effect


def one_by_one(case, train: bool) -> Any:
    """What a net gives for a batch; and for each example in a batch of one, under vmap."""
    net = case.net()
    params, buffers = net.init(0)
    axes = axes_of(case)

    def one(*xs):
        xs = [x if axis is None else x[None] for x, axis in zip(xs, axes, strict=True)]
        return net.apply(params, buffers, *xs, train=train, **case.call)

    first = [x if axis is None else x[0] for x, axis in zip(case.inputs(), axes, strict=True)]
    try:
        one(*first)
    except (RuntimeError, ValueError, UserWarning):
        pytest.skip("takes no batch of one: the first axis holds no examples")
    together = net.apply(params, buffers, *case.inputs(), train=train, **case.call)
    return together, torch.vmap(one, in_dims=axes)(*case.inputs())


def same(together: Any, apart: Any) -> bool:
    """Whether results for a batch are those for its examples, joined along some axis, or one that all have."""
    pairs = zip(tree_leaves(together), tree_leaves(apart), strict=True)
    return all(
        any(close(batched, torch.cat(mapped.unbind(0), axis)) for axis in range(mapped.dim() - 1))
        or all(close(batched, each) for each in mapped)
        for batched, mapped in pairs
    )


def close(left: Tensor, right: Tensor) -> bool:
    return left.shape == right.shape and torch.allclose(left, right, rtol=1e-4, atol=1e-5, equal_nan=True)


@parametrize(case=CASES, train=MODES)
def test_examples_mix_where_vmap_gives_something_else_than_the_batch(case, train):
    net, found = case.net(), look(case, train)
    if found.notes or any(below.draws(train) for _, below in net.named_nets()) or found.of("draws"):
        pytest.skip("draws, has one example, or depends on it for shapes")
    if not fn.supports(net, "vmap", train=train):
        pytest.skip("vmap is refused")
    together, apart = one_by_one(case, train)
    assert same(together, apart) == (not found.of("mixes examples"))


def branches_on_examples(case) -> bool:
    mapped = [f"input {index}" for index, axis in enumerate(axes_of(case)) if axis is not None]
    return any(name in effect.detail for effect in look(case, False).of("branches on data") for name in mapped)


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
    assert not look(case, True).of("reads outside tensor")
