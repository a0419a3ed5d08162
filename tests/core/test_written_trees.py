"""No call changes the params, buffers or inputs of its caller, whichever call it is and whatever transforms it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import funcnet as fn
from tests.helpers import assert_identical, clone

X = torch.ones(1, 3)


def write_normalized(p, x, normalize=False):
    if normalize:
        p.fc.weight.div_(p.fc.weight.norm(dim=1, keepdim=True))
    return p.fc(x)


def write_data(p, x, normalize=False):
    if normalize:
        p.fc.weight.data = p.fc.weight.data * 0.9
    return p.fc(x)


def write_by_helper(p, x, normalize=False):
    if normalize:
        _halve(p)
    return p.fc(x)


def _halve(p):
    p.fc.weight *= 0.5


@pytest.mark.parametrize("body", [write_normalized, write_data, write_by_helper])
def test_a_later_call_writes_to_no_params(body):
    net = fn.compose(fc=fn.Linear(3, 3))(body)
    params, _ = net.init(0)
    given = clone(params)
    net(params, X)
    for _ in range(2):
        with pytest.raises(fn.PurityError, match=r"params 'fc.weight'.*none is changed"):
            net(params, X, normalize=True)
        assert_identical(params, given)


@pytest.mark.parametrize(("place", "path"), [("params", "params 'fc.weight'"), ("buffers", "buffers 'bn.running_var'")])
def test_a_later_write_that_no_code_shows_is_told_and_cannot_happen_again(place, path):
    write = getattr(torch.Tensor, "mul" + "_")

    @fn.compose(fc=fn.Linear(3, 3), bn=fn.BatchNorm1d(3))
    def net(p, x, writes=False):
        if writes:
            write(p.fc.weight if place == "params" else p.bn.running_var, 2)
        return p.fc(x) / p.bn.running_var

    params, buffers = net.init(0)
    net.apply(params, buffers, X)
    with pytest.raises(fn.PurityError, match=f"{path}.*changed now"):
        net.apply(params, buffers, X, writes=True)
    given = clone((params, buffers))
    if place == "params":
        with pytest.raises(fn.PurityError, match="none is changed"):
            net.apply(params, buffers, X, writes=True)
    else:
        net.apply(params, buffers, X, writes=True)
    assert_identical((params, buffers), given)


@pytest.mark.parametrize("train", [True, False])
def test_a_body_writes_to_buffers_of_its_parts_in_the_new_tree_only(train):
    @fn.compose(bn=fn.BatchNorm1d(3))
    def net(p, x):
        p.bn.running_mean.add_(1)
        return x - p.bn.running_mean

    params, buffers = net.init(0)
    given = clone(buffers)
    for _ in range(2):
        output, new = net.apply(params, buffers, X, train=train)
        assert_identical(output, X - 1)
        assert_identical(new["bn"]["running_mean"], torch.ones(3))
        assert_identical(buffers, given)


def test_a_later_call_of_a_foreign_forward_writes_to_no_params():
    class Zeroes(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x, writes=False):
            if writes:
                with torch.no_grad():
                    self.fc.weight.zero_()
            return self.fc(x)

    net, params, buffers = fn.from_module(Zeroes())
    given = clone(params)
    for train in (True, False):
        net.apply(params, buffers, X, train=train, rng=0)
        if train:
            with pytest.raises(fn.PurityError, match=r"params 'fc.weight'.*none is changed"):
                net.apply(params, buffers, X, writes=True, train=train, rng=0)
        else:
            net.apply(params, buffers, X, writes=True, train=train, rng=0)
        assert_identical(params, given)


def test_a_foreign_forward_that_assigns_data_in_training_is_refused():
    class Momentum(nn.Module):
        def __init__(self):
            super().__init__()
            self.fast, self.slow = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            for fast, slow in zip(self.fast.parameters(), self.slow.parameters(), strict=True):
                slow.data = slow.data * 0.9 + fast.data * 0.1
            return self.slow(x)

    net, params, buffers = fn.from_module(Momentum())
    given = clone(params)
    for _ in range(2):
        with pytest.raises(fn.PurityError, match=r"params 'slow.weight'.*none is changed"):
            net.apply(params, buffers, X, train=True, rng=0)
        assert_identical(params, given)


def test_a_batched_call_that_writes_to_an_input_is_refused():
    net = fn.compose(fc=fn.Linear(3, 2))(lambda p, x: p.fc(x.mul_(2)))
    params, _ = net.init(0)
    with pytest.raises(fn.PurityError, match="input 0"):
        torch.vmap(net, (None, 0))(params, X.clone())


def test_functions_of_torch_cost_no_copies_of_params():
    # Regression: the code of F.relu names torch.relu_, so each call copied all params, at twice the price of the call
    for function in (F.relu, F.dropout, F.leaky_relu, torch.tanh):
        assert not fn.Sequential(fn.Linear(2, 2), function)._prepared().copies_all
    assert fn.Sequential(fn.Linear(2, 2), lambda x: torch.relu_(x))._prepared().copies_all
