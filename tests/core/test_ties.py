"""Tied tensors: one entry, many names."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import funcnet as fn
from tests.helpers import assert_identical, buffers_of, clone

X = torch.linspace(-1, 1, 12).view(4, 3)


class Tied(nn.Module):
    """Three names for one weight, a layer at two places, a BatchNorm at two places, a shared buffer."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.mix = nn.Linear(3, 3)
        self.again = self.mix
        self.bn = nn.BatchNorm1d(3)
        self.more = nn.Sequential(self.bn, nn.ReLU(), self.mix)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight
        self.other = nn.Linear(3, 5)
        self.other.weight = self.embed.weight

    def forward(self, x):
        x = self.again(self.bn(self.mix(x)))
        return self.head(self.more(x)) + self.other(x) + self.embed.weight.sum()


def test_a_module_with_ties_goes_both_ways():
    module = Tied()
    net, params, buffers = fn.from_module(module)
    assert list(fn.tree.flatten(params)) == [name for name, _ in module.named_parameters()]
    assert net.aliases == {
        "again.weight": "mix.weight",
        "again.bias": "mix.bias",
        "more.0.weight": "bn.weight",
        "more.0.bias": "bn.bias",
        "more.0.running_mean": "bn.running_mean",
        "more.0.running_var": "bn.running_var",
        "more.0.num_batches_tracked": "bn.num_batches_tracked",
        "more.2.weight": "mix.weight",
        "more.2.bias": "mix.bias",
        "head.weight": "embed.weight",
        "other.weight": "embed.weight",
    }
    again = fn.to_module(net, params, buffers)
    assert again.head.weight is again.embed.weight is again.other.weight
    assert_identical(fn.to_state_dict(net, params, buffers), dict(module.state_dict()))
    assert_identical(dict(again.state_dict()), dict(module.state_dict()))
    for train in (False, True):
        y, new = net.apply(params, buffers, X, train=train)
        twin = copy.deepcopy(module).train(train)
        assert_identical(y, twin(X))
        assert_identical(new, buffers_of(twin))


def test_gradients_of_ties_are_summed_once():
    module = Tied()
    net, params, buffers = fn.from_module(module)
    module(X).pow(2).sum().backward()
    _, grads = fn.value_and_grad(lambda p: net.apply(p, buffers, X, train=True)[0].pow(2).sum())(params)
    assert_identical(fn.tree.flatten(grads), {name: p.grad for name, p in module.named_parameters()})


def test_a_native_layer_at_two_places_sees_its_own_updates():
    bn = nn.BatchNorm1d(3)
    module = nn.Sequential(bn, nn.Tanh(), bn)
    net, params, buffers = fn.from_module(module)
    assert isinstance(net, fn.Sequential)
    given = clone(buffers)
    y, new = net.apply(params, buffers, X, train=True)
    assert_identical(buffers, given)
    assert_identical(y, module(X))
    assert_identical(new, buffers_of(module))
    assert int(new["0"]["num_batches_tracked"]) == 2


@fn.compose(embed=fn.Embedding(5, 3), head=fn.Linear(3, 5, bias=False))
def language_model(p, x):
    return p.head(p.embed(x))


TIED = language_model.tie({"head.weight": "embed.weight"})
IDS = torch.tensor([[0, 1, 4]])


def test_a_net_is_tied_by_hand():
    params, buffers = TIED.init(0)
    assert list(params) == ["embed"]
    assert language_model != TIED
    assert_identical(TIED(params, IDS), F.linear(params["embed"]["weight"][IDS], params["embed"]["weight"]))
    module = fn.to_module(TIED, params, buffers)
    assert module.head.weight is module.embed.weight
    assert_identical(fn.from_module(module)[0](params, IDS), TIED(params, IDS))
    nested = fn.Sequential(TIED, fn.Identity())
    assert_identical(nested({"0": params}, IDS), TIED(params, IDS))
    assert nested.aliases == {"0.head.weight": "0.embed.weight"}


def test_a_file_may_hold_a_tie_under_one_name_or_all():
    params, _ = TIED.init(0)
    weight = params["embed"]["weight"]
    for state_dict in (
        {"embed.weight": weight},
        {"head.weight": weight},
        {"embed.weight": weight, "head.weight": weight.clone()},
    ):
        assert_identical(fn.from_state_dict(TIED, state_dict)[0], params)
    with pytest.raises(fn.TreeError, match=r"untied      'head\.weight' and 'embed\.weight' are one tensor"):
        fn.from_state_dict(TIED, {"embed.weight": weight, "head.weight": weight + 1})


@pytest.mark.parametrize(
    ("aliases", "message"),
    [
        ({"head.wieght": "embed.weight"}, "'head.wieght' is not a tensor of the net"),
        ({"head.weight": "embed.weight", "embed.weight": "head.weight"}, "and is an alias itself"),
    ],
)
def test_impossible_ties_are_refused(aliases, message):
    with pytest.raises(fn.TreeError, match=message.replace(".", r"\.")):
        language_model.tie(aliases)


def test_ties_of_different_shapes_are_refused():
    with pytest.raises(fn.TreeError, match=r"'0\.bias' has shape \(2,\), '0\.weight' has \(2, 3\)"):
        fn.Sequential(fn.Linear(3, 2)).tie({"0.bias": "0.weight"})
