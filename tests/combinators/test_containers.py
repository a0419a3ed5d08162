"""Sequential, ModuleList, ModuleDict beside their twins."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import funcnet as fn
from tests.helpers import assert_identical

X = torch.linspace(-1, 1, 12).view(4, 3)


def test_three_ways_to_write_a_sequential():
    layers = [fn.Linear(3, 4), fn.ReLU(), fn.Linear(4, 2)]
    by_name = OrderedDict(fc1=layers[0], act=layers[1], fc2=layers[2])
    side_by_side = fn.Sequential(fn.Linear(3, 4), fn.ReLU(), fn.Linear(4, 2))
    assert fn.Sequential(*layers) == side_by_side
    assert list(fn.Sequential(by_name).init(0)[0]) == ["fc1", "fc2"]
    assert_identical(
        fn.tree.flatten(fn.Sequential(by_name).init(0)[0]).popitem()[1], side_by_side.init(0)[0]["2"]["bias"]
    )


def test_indexing_slicing_and_joining_are_those_of_the_twin():
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.Tanh())
    net, params, _ = fn.from_module(module)
    assert len(net) == len(module) == 4
    assert [type(part).__name__ for part in net] == [type(part).__name__ for part in module]
    assert net[0] == net[-4] == fn.Linear(3, 4)
    for cut in (slice(1, None), slice(None, 2), slice(None, None, 2), slice(-2, None)):
        assert repr(net[cut]) == repr(module[cut])
        keys = [name for name, _ in net[cut].named_nets() if name]
        share = {key: params[key] for key in keys if key in params}
        x = X if net[cut][0] == net[0] else torch.ones(4, 4)
        assert_identical(net[cut](share, x), module[cut](x))
    assert repr(net + net) == repr(module + module)


def test_functions_are_layers():
    net = fn.Sequential(fn.Linear(3, 4), F.relu, lambda x: x * 2, torch.tanh)
    params, buffers = net.init(0)
    expected = torch.tanh(F.relu(F.linear(X, params["0"]["weight"], params["0"]["bias"])) * 2)
    assert_identical(net(params, X), expected)
    module = fn.to_module(net, params, buffers)
    assert_identical(module(X), expected)
    assert repr(module) == repr(net)
    assert fn.from_module(module)[0] == net


def test_lists_and_dicts_are_made_and_indexed_as_their_twins():
    layers = fn.ModuleList([fn.Linear(3, 3) for _ in range(4)] + [F.relu])
    assert repr(layers[:4]) == repr(nn.ModuleList([nn.Linear(3, 3) for _ in range(4)]))
    assert layers[0] == layers[-2] and len(layers + fn.ModuleList([fn.ReLU()])) == 6
    heads = fn.ModuleDict([("a", fn.Linear(3, 1)), ("b", fn.Linear(3, 2))])
    assert repr(heads) == repr(nn.ModuleDict({"a": nn.Linear(3, 1), "b": nn.Linear(3, 2)}))
    assert heads.keys() == ["a", "b"] and heads["b"] == heads.values()[1] and ("a", heads["a"]) in heads.items()
    assert heads == fn.ModuleDict({"a": fn.Linear(3, 1), "b": fn.Linear(3, 2)})


@pytest.mark.parametrize("container", [fn.ModuleList([F.relu]), fn.ModuleDict({"a": F.relu})], ids=["list", "dict"])
def test_lists_and_dicts_are_not_called(container):
    with pytest.raises(TypeError, match=r"has no forward of its own.*funcnet\.compose"):
        container({}, X)


def test_a_dict_names_its_parts_when_asked_for_another():
    @fn.compose(heads=fn.ModuleDict({"a": fn.Linear(3, 1)}))
    def net(p, x):
        return p.heads["b"](x)

    with pytest.raises(KeyError, match=r"'b'; the parts are \['a'\]"):
        net(net.init(0)[0], X)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: fn.Sequential(nn.Linear(2, 2)), "is an nn.Module, which holds its own tensors"),
        (lambda: fn.Sequential(fn.ReLU), "is the class ReLU, not a net: write ReLU"),
        (lambda: fn.Sequential(3), "part '0' is no net and no function, but 3"),
        (lambda: fn.ModuleList([fn.ReLU(), "relu"]), "part '1' is no net and no function, but 'relu'"),
    ],
)
def test_what_is_no_part_is_refused(build, message):
    with pytest.raises(TypeError, match=message.replace(".", r"\.")):
        build()


@pytest.mark.parametrize("name", ["", "a.b", "keys", "forward"])
def test_names_that_modules_cannot_have_are_refused(name):
    with pytest.raises(ValueError, match="cannot be named"):
        fn.ModuleDict({name: fn.ReLU()})


def test_deep_nests_keep_names_keys_and_values():
    def build(make):
        inner = make.Sequential(
            OrderedDict(lin=make.Linear(3, 3), tail=make.Sequential(make.ReLU(), make.Linear(3, 3)))
        )
        return make.Sequential(inner, make.Sequential(make.Sequential(make.Linear(3, 3))))

    torch.manual_seed(0)
    module = build(nn)
    params, buffers = build(fn).init(0)
    assert_identical(fn.to_state_dict(params, buffers), dict(module.state_dict()))
    assert_identical(build(fn)(params, X), module(X))
