"""ParameterList and ParameterDict beside their twins."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict

import pytest
import torch
from torch import nn

import funcnet as fn
from tests.cases.parametrized import Experts_net
from tests.helpers import assert_identical, clone, params_of

X = torch.linspace(-1, 1, 12).view(4, 3)


def test_they_are_made_indexed_and_shown_as_their_twins():
    tensors = [torch.eye(2), torch.ones(3), torch.zeros(())]
    layers, module = fn.ParameterList(tensors), nn.ParameterList(tensors)
    assert repr(layers) == repr(module)
    assert repr(layers[1:]) == repr(module[1:])
    assert len(layers) == 3 and layers[-1] == list(layers)[2] and layers[1].shape == (3,)
    assert_identical(layers.init(0)[0], params_of(module))
    for given in ({"b": tensors[0], "a": tensors[1]}, OrderedDict(b=tensors[0], a=tensors[1]), [("b", tensors[0])]):
        table, twin = fn.ParameterDict(given), nn.ParameterDict(given)
        assert repr(table) == repr(twin)
        assert table.keys() == list(twin.keys()) and len(table) == len(twin) and list(table) == list(twin)
        assert_identical(table.init(0)[0], params_of(twin))
    assert table["b"] == table.values()[0] and "b" in table and ("b", table["b"]) in table.items()
    assert fn.ParameterDict(table) == table
    assert repr(fn.ParameterList()) == repr(nn.ParameterList())
    assert repr(fn.ParameterDict()) == repr(nn.ParameterDict())


def test_tensors_keep_a_dtype_that_is_not_the_default():
    layers = fn.ParameterList([torch.ones(2, dtype=torch.float64), torch.ones(2, dtype=torch.complex64)])
    assert repr(layers) == repr(nn.ParameterList([torch.ones(2).double(), torch.ones(2, dtype=torch.complex64)]))
    assert [tensor.dtype for tensor in layers.init(0)[0].values()] == [torch.float64, torch.complex64]


def test_a_body_reads_them_as_it_reads_the_modules():
    params, buffers = Experts_net.init(0)
    assert list(params["weights"]) == ["0", "1", "2"] and list(params["table"]) == ["a", "b", "scale"]
    module = fn.to_module(Experts_net, params, buffers)
    assert type(module.weights) is nn.ParameterList and type(module.table) is nn.ParameterDict
    for which in ("a", "b"):
        assert_identical(Experts_net(params, X, which), module(X, which))
    again = copy.deepcopy(module)
    assert fn.from_module(again)[0] == Experts_net
    assert pickle.loads(pickle.dumps(Experts_net)) == Experts_net


def test_names_need_not_be_words_of_python_or_free_on_a_view():
    @fn.compose(table=fn.ParameterDict([("the first", fn.Param(3, 2.0)), ("_params", fn.Param(3, 3.0))]))
    def net(p, x):
        return x * p.table["the first"] + p.table["_params"], list(reversed(p.table))

    y, names = net(net.init(0)[0], X)
    assert_identical(y, X * 2 + 3)
    assert names == ["_params", "the first"]


def test_the_order_is_the_declared_one_whatever_order_the_params_are_given_in():
    @fn.compose(table=fn.ParameterDict([("b", fn.Param(3, 2.0)), ("a", fn.Param(3, 3.0))]))
    def net(p):
        return list(p.table), [float(value[0]) for value in p.table.values()]

    params, _ = net.init(0)
    assert net({"table": dict(sorted(params["table"].items()))}) == net(params) == (["b", "a"], [2.0, 3.0])


def test_containers_of_modules_become_native_and_go_back():
    module = nn.ModuleDict(
        {
            "w": nn.ParameterList([torch.randn(2, 3), torch.randn(())]),
            "t": nn.ParameterDict({"x": torch.randn(2), "y": torch.randn(3)}),
        }
    )
    net, params, buffers = fn.from_module(module)
    assert [type(below).__name__ for _, below in net.named_nets()] == ["ModuleDict", "ParameterList", "ParameterDict"]
    again = fn.to_module(net, params, buffers)
    assert repr(again) == repr(module)
    assert_identical(dict(again.state_dict()), dict(module.state_dict()))
    assert_identical(fn.from_state_dict(net, module.state_dict()), (params, buffers))
    assert fn.from_module(again)[0] == net
    with pytest.raises(fn.InitError, match="no known first value"):
        net.init(0)


def test_a_tensor_in_two_places_of_a_list_is_one():
    shared = nn.Parameter(torch.randn(3))
    net, params, _ = fn.from_module(nn.ParameterList([shared, torch.ones(3), shared]))
    assert net.aliases == {"2": "0"} and list(params) == ["0", "1"]
    back = fn.to_module(net, params)
    assert back[0] is back[2]


class Odd(nn.Module):
    """Containers that hold more than parameters."""

    def __init__(self):
        super().__init__()
        self.items = nn.ParameterList([torch.ones(3), 2.5, "name"])
        self.table = nn.ParameterDict({"w": torch.ones(3), "n": None})

    def forward(self, x):
        return x * self.items[0] * self.items[1] + self.table["w"]


def test_containers_that_hold_anything_else_are_wrapped():
    module = Odd()
    net, params, buffers = fn.from_module(module)
    assert [type(below).__name__ for _, below in net.named_nets()] == ["Wrapped"] * 3
    assert_identical(net(params, X), module(X))
    again = fn.to_module(net, params, buffers)
    assert repr(again) == repr(module)
    assert_identical(again(X), module(X))


def test_what_a_module_has_appended_is_seen():
    module = fn.to_module(Experts_net, *Experts_net.init(0))
    module.weights.append(torch.eye(3))
    net, params, _ = fn.from_module(module)
    assert list(params["weights"]) == ["0", "1", "2", "3"]
    assert_identical(net(clone(params), X), module(X))


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: fn.ParameterList([3]), TypeError, "'0' is no Param and no tensor, but 3"),
        (lambda: fn.ParameterList([fn.Linear(2, 2)]), TypeError, "'0' is no Param and no tensor"),
        (lambda: fn.ParameterList(torch.ones(3)), TypeError, "expected an iterable of Params or tensors, got Tensor"),
        (lambda: fn.ParameterList(3), TypeError, "expected an iterable"),
        (lambda: fn.ParameterList([torch.ones(3, dtype=torch.int64)]), TypeError, "a parameter is floating or complex"),
        (lambda: fn.ParameterDict({"keys": torch.ones(3)}), ValueError, "cannot be named ['keys']"),
        (lambda: fn.ParameterDict({"a.b": torch.ones(3)}), ValueError, "cannot be named ['a.b']"),
        (lambda: fn.ParameterList([torch.ones(3)])({"0": torch.ones(3)}, X), TypeError, "has no forward of its own"),
    ],
)
def test_what_cannot_be_is_refused(build, error, message):
    with pytest.raises(error) as caught:
        build()
    assert message in str(caught.value)


def test_a_wrong_name_or_index_is_told():
    @fn.compose(table=fn.ParameterDict({"a": fn.Param(3)}), items=fn.ParameterList([fn.Param(3)]))
    def net(p, key):
        return p.table[key] if isinstance(key, str) else p.items[key]

    params, _ = net.init(0)
    with pytest.raises(KeyError, match=r"'b'; the parts are \['a'\]"):
        net(params, "b")
    with pytest.raises(IndexError):
        net(params, 1)
