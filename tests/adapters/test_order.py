"""The order of tensors and children, which optimizers go by, is the module's own on both ways."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import funcnet as fn
from tests.helpers import assert_identical, params_of


def put_back(module, *names):
    """The module with these attributes taken off and put back, which makes them the last ones."""
    for name in names:
        value = getattr(module, name)
        delattr(module, name)
        if isinstance(value, (nn.Parameter, nn.Module)):
            setattr(module, name, value)
        else:
            module.register_buffer(name, value)
    return module


def without_weight_norm(module, name="weight"):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.remove_weight_norm(nn.utils.weight_norm(module, name), name)


def without_spectral_norm(module):
    return nn.utils.remove_spectral_norm(nn.utils.spectral_norm(module))


def without_orthogonal(module):
    return parametrize.remove_parametrizations(parametrizations.orthogonal(module), "weight")


def without_pruning(module):
    return prune.remove(prune.l1_unstructured(module, "weight", 0.5), "weight")


class Own(nn.Module):
    """A forward of its own around a module, with a parameter and a buffer that were taken off and put back."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.after = inner, nn.Linear(2, 2)
        self.first, self.second = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(2))
        put_back(self, "first", "steps", "inner")

    def forward(self, x):
        return self.after(x) * self.first + self.second


MODULES = {
    "weight_norm": lambda: without_weight_norm(nn.Linear(3, 4)),
    "spectral_norm": lambda: without_spectral_norm(nn.Conv1d(3, 4, 2)),
    "orthogonal": lambda: without_orthogonal(nn.Linear(3, 4)),
    "pruning": lambda: without_pruning(nn.Linear(3, 4)),
    "a weight put back": lambda: put_back(nn.Bilinear(3, 4, 2), "weight"),
    "buffers put back": lambda: put_back(nn.BatchNorm1d(3), "weight", "running_mean"),
    "a recurrent weight": lambda: without_weight_norm(nn.LSTM(3, 4), "weight_hh_l0"),
    "attention": lambda: put_back(nn.MultiheadAttention(4, 2), "in_proj_weight", "out_proj"),
    "a child put back": lambda: put_back(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), "linear1"),
    "a named parameter": lambda: put_back(nn.ParameterDict({"a": torch.ones(2), "b": torch.ones(3)}), "a"),
    "beside a computed one": lambda: parametrizations.weight_norm(put_back(nn.Bilinear(3, 4, 2), "weight"), "bias"),
    "tied": lambda: nn.ModuleList([layer := put_back(nn.Linear(3, 3), "weight"), nn.ReLU(), layer]),
}


def names_of(module):
    return {
        "state_dict": list(module.state_dict()),
        "parameters": [name for name, _ in module.named_parameters()],
        "all parameters": [name for name, _ in module.named_parameters(remove_duplicate=False)],
        "buffers": [name for name, _ in module.named_buffers()],
        "modules": [name for name, _ in module.named_modules()],
        "repr": repr(module),
    }


@pytest.mark.parametrize("around", [lambda module: module, lambda module: nn.Sequential(nn.ReLU(), module), Own])
@pytest.mark.parametrize("build", MODULES.values(), ids=MODULES)
def test_order_goes_both_ways(build, around):
    module = around(build())
    net, params, buffers = fn.from_module(module)
    back = fn.to_module(net, params, buffers)
    assert names_of(back) == names_of(module)
    assert repr(net) == repr(module)
    assert fn.tree.paths(params) == names_of(module)["parameters"]
    state = fn.to_state_dict(net, params, buffers)
    assert list(state) == list(module.state_dict())
    assert_identical(dict(state), dict(module.state_dict()))
    again, params_again, buffers_again = fn.from_module(back)
    for left, right in ((params_again, params), (buffers_again, buffers), (fn.from_state_dict(net, state)[0], params)):
        assert fn.tree.paths(left) == fn.tree.paths(right)
        assert_identical(left, right)
    assert again == net or any(isinstance(part, fn.Wrapped) for _, part in net.named_nets())


def test_such_layers_are_nets_of_funcnets_own_with_the_first_values_of_the_class():
    net, params, _ = fn.from_module(without_weight_norm(nn.Linear(3, 4)))
    assert type(net) is fn.Linear
    assert list(net.init(0)[0]) == list(params) == ["bias", "weight"]
    torch.manual_seed(0)
    assert_identical(net.init(0)[0]["weight"], nn.Linear(3, 4).weight.detach())
    replaced = fn.Sequential(net, fn.ReLU()).replaced({"1": fn.Tanh()})
    assert list(replaced.init(0)[0]["0"]) == ["bias", "weight"]


def test_the_state_of_an_optimizer_lands_on_the_same_tensors():
    module = nn.Sequential(without_weight_norm(nn.Linear(3, 4)), put_back(nn.BatchNorm1d(4), "weight"))
    x = torch.randn(5, 3)

    def step(module, optimizer):
        optimizer.zero_grad()
        module(x).square().sum().backward()
        optimizer.step()

    optimizer = torch.optim.Adam(module.parameters())
    step(module, optimizer)
    back = fn.to_module(*fn.from_module(module))
    optimizer_back = torch.optim.Adam(back.parameters())
    optimizer_back.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for pair in ((module, optimizer), (back, optimizer_back)):
        step(*pair)
    assert_identical(params_of(back), params_of(module))


@pytest.mark.parametrize("ties", [{"head.weight": "embed.weight"}, {"embed.weight": "head.weight"}])
def test_a_tie_keeps_the_name_that_it_goes_by(ties):
    net = fn.Sequential({"embed": fn.Embedding(5, 3), "head": fn.Linear(3, 5)}).tie(ties)
    params, _ = net.init(0)
    module = fn.to_module(net, params)
    again, params_again, _ = fn.from_module(module)
    assert (again, again.aliases) == (net, ties)
    assert fn.tree.paths(params_again) == fn.tree.paths(params)
    assert list(fn.to_state_dict(net, params)) == list(module.state_dict())
    module.head.weight = nn.Parameter(torch.ones(5, 3))
    assert fn.from_module(module)[0].aliases == {}


def test_a_module_at_two_places_stays_one_as_long_as_the_net_has_it_so():
    module = nn.Sequential(layer := nn.Linear(3, 3), act := nn.ReLU(), own := Own(layer), act, own)
    net, params, buffers = fn.from_module(module)
    back = fn.to_module(net, params, buffers)
    assert names_of(back) == names_of(module)
    assert back[0] is back[2].inner
    assert back[1] is back[3]
    assert back[2] is back[4]
    other = fn.to_module(net.replaced({"3": fn.Tanh()}), params, buffers)
    assert (repr(other[1]), repr(other[3])) == ("ReLU()", "Tanh()")
    untied = fn.Sequential(net[0], net[0])
    first, second = fn.to_module(untied, *untied.init(0))
    assert first is not second
