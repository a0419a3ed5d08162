"""A traced net is a value like any net, and works under every transform."""

from __future__ import annotations

import copy
import linecache
import pickle
import traceback
from typing import Any

import pytest
import torch
from torch import nn

import funcnet as fn
from tests.cases.models import Branches, TwoConvs
from tests.helpers import assert_identical, clone, total
from tests.program.traced_models import MODELS, Everything, X, convolutions

# --- a value like any net, and under every transform ---


def test_a_trace_is_a_value():
    module = Branches()
    net, params, buffers = fn.trace(module, X, train="both")
    again, *_ = fn.trace(module, X, train="both")
    other, *_ = fn.trace(module, X)
    assert net == again and hash(net) == hash(again) and net != other
    loaded = pickle.loads(pickle.dumps(net))
    assert loaded == net and loaded.source == net.source
    assert_identical(
        loaded.apply(params, buffers, X, train=True, rng=1), net.apply(params, buffers, X, train=True, rng=1)
    )
    assert copy.deepcopy(net) is net
    assert repr(net) == repr(module)
    assert [path for path, _ in net.named_nets()] == [path for path, _ in module.named_modules()]


@pytest.mark.parametrize("make", [Branches, TwoConvs, Everything, convolutions], ids=lambda make: make.__name__)
def test_back_to_a_module_of_the_same_class(make):
    module = make()
    x = {TwoConvs: torch.ones(2, 1, 8, 8), convolutions: torch.ones(2, 1, 4, 4)}.get(make, X)
    net, params, buffers = fn.trace(module, x)
    back = fn.to_module(net, params, buffers)
    assert type(back) is type(module) and repr(back) == repr(module)
    assert list(back.state_dict()) == list(module.state_dict())
    assert_identical(dict(back.state_dict()), dict(module.state_dict()))
    assert_identical(fn.to_state_dict(net, params, buffers), dict(module.state_dict()))
    assert_identical(fn.from_state_dict(net, module.state_dict()), (params, buffers))
    assert_identical(back.eval()(x.clone()), module.eval()(x.clone()))


def test_ties_are_one_entry():
    module = Everything()
    net, params, buffers = fn.trace(module, X)
    assert net.aliases == {"head.weight": "fc.weight"} == fn.from_module(module)[0].aliases
    assert "weight" not in params["head"]
    doubled = fn.tree.map(lambda leaf: leaf * 2, params)
    with torch.no_grad():
        for param in module.parameters():
            param.mul_(2)
    assert_identical(net.apply(doubled, buffers, X)[0], module.eval()(X.clone()))


def test_source_runs_by_itself():
    module = convolutions().eval()
    (x,) = MODELS["convolutions"][1]
    net, params, buffers = fn.trace(module, x)
    space: dict[str, Any] = {}
    exec(net.source, space)
    assert_identical(space["forward"](params, buffers, x), module(x).detach())
    assert 'F.conv2d(input, params["0"]["0"]["weight"], params["0"]["0"]["bias"]' in net.source
    assert "# 0.0: Conv2d" in net.source


def test_source_of_training_returns_new_buffers_and_writes_to_none():
    module = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))
    net, params, buffers = fn.trace(module, X, train=True)
    space: dict[str, Any] = {}
    exec(net.source, space)
    given = clone(buffers)
    y, new = space["forward"](params, buffers, X)
    assert_identical(buffers, given)
    assert_identical((y, new), net.apply(params, buffers, X, train=True))


def test_errors_in_captured_code_show_its_line():
    class Divides(nn.Module):
        def forward(self, x, index):
            return x[index]

    net, params, _ = fn.trace(Divides(), X, torch.tensor([0, 1]))
    with pytest.raises(fn.ShapeError, match="Index 9 is out of bounds") as caught:
        net(params, X, torch.tensor([0, 9]))
    *_, frame = traceback.extract_tb(caught.value.__cause__.__traceback__)
    assert "x[index]" in linecache.getline(frame.filename, frame.lineno)


@pytest.mark.parametrize("name", ["branches", "convolutions", "deep", "encoder"])
def test_per_sample_gradients_equal_a_loop(name):
    make, (x,) = MODELS[name]
    net, params, buffers = fn.trace(make(), x, train="both")
    xs = torch.stack([x, x.flip(0), x * 2])
    keys = fn.random.split(fn.random.key(0), 3)

    for train in (False, True):

        def loss(params, x, key, train=train):
            y, new = net.apply(params, buffers, x, train=train, rng=key)
            return total(y), new

        grads, new = torch.vmap(torch.func.grad(loss, has_aux=True), in_dims=(None, 0, 0))(params, xs, keys)
        for index in range(3):
            one = torch.func.grad(loss, has_aux=True)(params, xs[index], keys[index])
            mine = fn.tree.map(lambda leaf, index=index: leaf[index], grads)
            torch.testing.assert_close(mine, one[0], atol=1e-4, rtol=1e-3)
            if train:  # an average of each sample of its own, where it was one for all
                mine = fn.tree.map(lambda leaf, index=index: leaf[index], new)
                torch.testing.assert_close(mine, one[1])


def test_ensembles_and_forward_mode():
    module = convolutions()
    (x,) = MODELS["convolutions"][1]
    net, params, buffers = fn.trace(module, x, train="both")
    stacked = fn.tree.map(lambda leaf: torch.stack([leaf, leaf * 2]), params)
    keys = fn.random.split(fn.random.key(0), 2)
    for train in (False, True):

        def call(params, key, train=train):
            return net.apply(params, buffers, x, train=train, rng=key)[0]

        mapped = torch.vmap(call)(stacked, keys)
        for index in range(2):
            one = call(fn.tree.map(lambda leaf, index=index: leaf[index], stacked), keys[index])
            torch.testing.assert_close(mapped[index], one)
        y, tangent = torch.func.jvp(lambda p: call(p, keys[0]), (params,), (params,))
        grad = torch.func.grad(lambda p: call(p, keys[0]).sum())(params)
        inner = sum((fn.tree.flatten(params)[path] * leaf).sum() for path, leaf in fn.tree.flatten(grad).items())
        torch.testing.assert_close(tangent.sum(), inner, rtol=1e-3, atol=1e-3)
        assert_identical(y, call(params, keys[0]))


def test_a_trace_draws_what_the_net_draws_from_the_same_key():
    module = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.4), nn.Sequential(nn.Dropout(0.4), nn.ReLU()))
    traced, params, buffers = fn.trace(module, X, train=True)
    net, *_ = fn.from_module(module)
    for rng in (fn.random.key(1), 2):
        expected = net.apply(params, buffers, X, train=True, rng=rng)
        assert_identical(traced.apply(params, buffers, X, train=True, rng=rng), expected)


@pytest.mark.parametrize("train", [False, True])
def test_a_trace_is_compiled_in_one_graph(train):
    net, params, buffers = fn.trace(convolutions(), *MODELS["convolutions"][1], train=train)
    (x,) = MODELS["convolutions"][1]
    key = fn.random.key(0)
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda p, b, x: net.apply(p, b, x, train=train, rng=key), fullgraph=True, backend="aot_eager"
    )
    assert_identical(compiled(params, buffers, x), net.apply(params, buffers, x, train=train, rng=key))


def test_a_trace_as_a_part():
    inner = Branches()
    traced, params, buffers = fn.trace(inner, X, train="both")
    outer = fn.Sequential(fn.Linear(6, 6), traced)
    own, _ = fn.Linear(6, 6).init(0)
    trees = {"0": own, "1": params}, {"1": buffers}
    for train in (False, True):
        y, new = outer.apply(*trees, X, train=train, rng=3)
        hidden = fn.Linear(6, 6)(own, X)
        expected, inner_new = traced.apply(params, buffers, hidden, train=train, rng=3)
        assert_identical(y, expected)
        assert_identical(new, {"1": inner_new})
    with pytest.raises(fn.ConversionError, match=r"Branches is traced: its code is one piece"):
        outer.replaced({"1.norm": fn.Identity()})
