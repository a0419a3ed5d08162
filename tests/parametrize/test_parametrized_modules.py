"""Parametrized modules to nets and back: converted without a call, and really parametrized afterwards."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import funcnet as fn
from tests.cases import LAYER_CASES
from tests.helpers import assert_identical, buffers_of, clone, global_generator_untouched, params_of
from tests.helpers import parametrize as axes

X = torch.linspace(-1, 1, 20).view(4, 5)
NORMS = ["weight_norm", "spectral_norm", "orthogonal"]


class CountReads(nn.Module):
    """A foreign parametrization that counts how often it is read."""

    def __init__(self):
        super().__init__()
        self.register_buffer("times", torch.zeros((), dtype=torch.int64))

    def forward(self, tensor):
        self.times = self.times + 1
        return tensor * 2

    def right_inverse(self, tensor):
        return tensor / 2


class Foreign(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Parameter(torch.randn(3, 5))
        self.register_buffer("table", torch.ones(5))

    def forward(self, x):
        return F.linear(x * self.table, self.mix) + self.mix.sum()


def assert_equal_both_ways(module, *xs):
    """The net of a module has its bits in both modes, and a module of that net equals the module."""
    state, modes = clone(dict(module.state_dict())), (False, True)
    net, params, buffers = fn.from_module(module)
    assert_identical(dict(module.state_dict()), state)
    module_back = fn.to_module(net, params, buffers)
    assert repr(module_back) == repr(module)
    assert_identical(dict(module_back.state_dict()), state)
    for train in modes:
        y, new = net.apply(params, buffers, *xs, train=train, rng=3)
        for copy_of_module in (module, module_back):
            torch.manual_seed(3)
            assert_identical(copy_of_module.train(train)(*xs), y)
            assert_identical(buffers_of(copy_of_module), new)
        buffers = new
    return net


@pytest.mark.parametrize("name", NORMS)
def test_converting_computes_nothing_and_writes_nothing(name, monkeypatch):
    module = getattr(parametrizations, name)(nn.Linear(5, 3))
    state = clone(dict(module.state_dict()))
    versions = [tensor._version for tensor in module.state_dict().values()]
    monkeypatch.setattr(parametrize.ParametrizationList, "forward", None)
    with global_generator_untouched():
        net, params, buffers = fn.from_module(module)
        fn.to_module(net, params, buffers)
    assert not isinstance(net, fn.Wrapped)
    assert_identical(dict(module.state_dict()), state)
    assert [tensor._version for tensor in module.state_dict().values()] == versions


@pytest.mark.parametrize("name", NORMS)
def test_a_net_becomes_a_module_that_is_really_parametrized(name):
    net = getattr(fn.parametrize, name)(fn.Linear(5, 3))
    params, buffers = net.init(0)
    module = fn.to_module(net, params, buffers)
    twin = getattr(parametrizations, name)(nn.Linear(5, 3))
    assert parametrize.is_parametrized(module, "weight")
    assert type(module).__name__ == type(twin).__name__ == "ParametrizedLinear" and isinstance(module, nn.Linear)
    assert [type(child) for child in module.modules()][1:] == [type(child) for child in twin.modules()][1:]
    twin.load_state_dict(module.state_dict())
    assert_identical(module.eval()(X), twin.eval()(X))
    for trained in (module, twin):
        optimizer = torch.optim.SGD(trained.train().parameters(), 0.1)
        for _ in range(2):
            optimizer.zero_grad()
            trained(X).square().sum().backward()
            optimizer.step()
    assert_identical(dict(module.state_dict()), dict(twin.state_dict()))
    assert_identical(copy.deepcopy(module).eval()(X), module.eval()(X))
    parametrize.remove_parametrizations(module, "weight")
    assert type(module) is nn.Linear


def test_a_module_made_of_a_net_reads_the_keys_of_the_older_weight_norm():
    module = fn.to_module(
        fn.parametrize.weight_norm(fn.Linear(5, 3)), *fn.parametrize.weight_norm(fn.Linear(5, 3)).init(0)
    )
    with pytest.warns(FutureWarning):
        older = nn.utils.weight_norm(nn.Linear(5, 3))
    module.load_state_dict(older.state_dict())
    assert_identical(module(X), older(X))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("called", [False, True])
@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.utils.weight_norm(nn.Linear(5, 3)),
        lambda: nn.utils.spectral_norm(nn.Linear(5, 3)),
        lambda: prune.l1_unstructured(nn.Linear(5, 3), "weight", 0.4),
    ],
    ids=["weight_norm", "spectral_norm", "prune"],
)
def test_the_older_norms_that_use_hooks_are_wrapped(build, called):
    module = nn.Sequential(build(), nn.ReLU())
    if called:
        module(X)
    net = assert_equal_both_ways(module, X)
    assert isinstance(net[0], fn.Wrapped)


def test_a_foreign_parametrization_is_wrapped_inside_a_native_net():
    module = parametrize.register_parametrization(nn.Linear(5, 3), "weight", CountReads())
    net = assert_equal_both_ways(module, X)
    assert [type(child).__name__ for _, child in net.named_nets()] == [
        "Parametrized",
        "ModuleDict",
        "ParametrizationList",
        "Wrapped",
    ]


def test_modules_with_a_forward_of_their_own_are_wrapped_as_a_whole():
    module = parametrizations.spectral_norm(Foreign(), "mix")
    parametrize.register_parametrization(module, "table", CountReads())
    net = assert_equal_both_ways(nn.Sequential(module, parametrizations.orthogonal(nn.Linear(3, 3))), X)
    assert isinstance(net[0], fn.Wrapped) and not isinstance(net[1], fn.Wrapped)


def test_a_hook_on_a_parametrized_module_is_kept():
    module = parametrizations.weight_norm(nn.Linear(5, 3))
    module.register_forward_hook(lambda module, inputs, output: output * 2)
    assert isinstance(assert_equal_both_ways(module, X), fn.Wrapped)


def test_a_layer_whose_buffers_are_computed_is_wrapped():
    module = parametrize.register_parametrization(nn.BatchNorm1d(5), "running_mean", CountReads())
    assert isinstance(assert_equal_both_ways(module, X), fn.Wrapped)


@pytest.mark.parametrize("name", NORMS)
def test_recurrent_weights_are_read_as_often_as_by_the_module(name):
    module = getattr(parametrizations, name)(nn.LSTM(5, 4), "weight_hh_l0")
    assert not isinstance(
        assert_equal_both_ways(getattr(parametrizations, name)(module, "weight_ih_l0"), X), fn.Wrapped
    )


def test_shared_and_tied_modules_stay_shared_and_tied():
    layer = parametrizations.spectral_norm(nn.Linear(5, 5))
    tied_layer = parametrizations.weight_norm(nn.Linear(5, 5))
    tied_layer.parametrizations.weight.original1 = layer.parametrizations.weight.original
    net = assert_equal_both_ways(nn.Sequential(layer, layer, tied_layer), X)
    assert net.aliases["2.parametrizations.weight.original1"] == "0.parametrizations.weight.original"


def test_module_and_net_of_double_precision_and_of_complex_numbers():
    for dtype, names in ((torch.float64, NORMS), (torch.complex64, ("orthogonal", "spectral_norm"))):
        for name in names:
            module = getattr(parametrizations, name)(nn.Linear(5, 5, dtype=dtype))
            net, params, buffers = fn.from_module(module)
            y, _ = net.apply(params, buffers, X.to(dtype))
            assert_identical(y, module.eval()(X.to(dtype)))
            torch.manual_seed(3)
            twin = getattr(parametrizations, name)(nn.Linear(5, 5, dtype=dtype))
            trees = getattr(fn.parametrize, name)(fn.Linear(5, 5, dtype=dtype)).init(3)
            assert_identical(trees, (params_of(twin), buffers_of(twin)))


@axes(case=LAYER_CASES)
def test_a_body_reads_each_tensor_as_often_as_the_module(case):
    module = case.module()
    for child in list(module.modules()):
        for name in [name for name, param in child._parameters.items() if param is not None]:
            parametrize.register_parametrization(child, name, CountReads())
    if list(module.parameters()):
        net, params, buffers = fn.from_module(module)
        xs = case.inputs()
        y, new = net.apply(params, buffers, *xs, **case.call, train=True, rng=3)
        torch.manual_seed(3)
        assert_identical(module(*clone(xs), **case.call), y)
        assert_identical(new, buffers_of(module))
