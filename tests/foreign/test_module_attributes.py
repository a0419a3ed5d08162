"""What a module is besides its tensors: frozen parameters, modes, extra state, hooks, lazy parts, wrappers of torch."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import funcnet as fn
from tests.foreign.helpers import Coder, X
from tests.helpers import assert_identical, buffers_of, global_generator_untouched, parametrize


def test_frozen_parameters_are_a_selector():
    module = nn.Sequential(nn.Linear(6, 6), Coder())
    for param in (module[0].weight, *module[1].up.parameters()):
        param.requires_grad_(False)
    net, params, buffers = fn.from_module(module)
    assert net.frozen == ("0.weight", "1.up.weight", "1.up.bias")
    frozen, trainable = fn.tree.partition(params, net.frozen)
    assert list(fn.tree.flatten(frozen)) == list(net.frozen)
    _, grads = fn.value_and_grad(lambda trainable: net.apply(fn.tree.combine(frozen, trainable), buffers, X)[0].sum())(
        trainable
    )
    assert list(fn.tree.flatten(grads)) == [name for name, param in module.named_parameters() if param.requires_grad]
    back = fn.to_module(net, params, buffers)
    assert [p.requires_grad for p in back.parameters()] == [p.requires_grad for p in module.parameters()]
    again = fn.from_module(back)[0]
    assert again.frozen == net.frozen == pickle.loads(pickle.dumps(net)).frozen
    assert net[0].freeze(True) == fn.Linear(6, 6)  # what is frozen is no part of what is computed
    assert fn.compose(body=net)(lambda p, x: p.body(x)).frozen == tuple(f"body.{path}" for path in net.frozen)


def test_train_flags_of_each_part_are_a_selector():
    module = nn.Sequential(nn.Linear(6, 6), nn.Sequential(nn.BatchNorm1d(6), nn.Dropout(0.5)), nn.BatchNorm1d(6))
    assert fn.train_flags(module) is True and fn.train_flags(module.eval()) is False
    module[1][1].train()
    module[2].train()
    net, params, buffers = fn.from_module(module)
    assert fn.train_flags(module) == ("1.1", "2")
    y, new = net.apply(params, buffers, X, train=fn.train_flags(module), rng=1)
    torch.manual_seed(1)
    assert_identical(y, module(X).detach())
    assert_identical(new, buffers_of(module))


class Extra(nn.Module):
    def __init__(self, version):
        super().__init__()
        self.fc, self.version = nn.Linear(6, 6), version

    def get_extra_state(self):
        return {"version": self.version, "range": torch.ones(2)}

    def set_extra_state(self, state):
        self.version = state["version"]

    def forward(self, x):
        return self.fc(x) * self.version


def test_extra_state_goes_both_ways():
    module = nn.Sequential(Extra(2), nn.Linear(6, 6))
    net, params, buffers = fn.from_module(module)
    state = fn.to_state_dict(net, params, buffers)
    assert_identical(dict(state), dict(module.state_dict()))
    assert_identical(fn.from_state_dict(net, state), (params, buffers))
    assert_identical(dict(fn.to_module(net, params, buffers).state_dict()), dict(state))
    assert fn.to_module(net, params, buffers)[0].version == 2
    other = dict(nn.Sequential(Extra(3), nn.Linear(6, 6)).state_dict())
    with pytest.raises(fn.TreeError, match=r"other +'0\._extra_state'"):
        fn.from_state_dict(net, other)


@parametrize(kind=["module", "module_pre", "tensor", "accumulate"])
def test_backward_hooks_are_refused_by_name(kind):
    module = nn.Sequential(nn.Linear(6, 6), Coder())
    hook = {
        "module": lambda: module[1].down.register_full_backward_hook(print),
        "module_pre": lambda: module[1].down.register_full_backward_pre_hook(print),
        "tensor": lambda: module[1].down.weight.register_hook(print),
        "accumulate": lambda: module[1].down.weight.register_post_accumulate_grad_hook(print),
    }[kind]()
    with pytest.raises(fn.ConversionError, match=r"has backward hooks(?s:.*)1\.down.*: print"):
        fn.from_module(module)
    hook.remove()
    fn.from_module(module)


class Lazies(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0
        self.conv, self.norm, self.fc = nn.LazyConv1d(4, 1), nn.LazyBatchNorm1d(), nn.LazyLinear(3)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        self.seen += 1
        return self.fc(self.norm(self.conv(x[..., None])).flatten(1))


def test_lazy_modules_get_their_shapes_from_example_inputs():
    module = Lazies()
    with pytest.raises(fn.ConversionError, match=r"conv\.weight, .*fc\.bias.* have no shape yet"):
        fn.from_module(module)
    torch.manual_seed(4)
    with global_generator_untouched():
        net, params, buffers = fn.from_module(module, example_inputs=X)
    assert isinstance(module.fc, nn.LazyLinear) and module.calls == 0 and module.fc.has_uninitialized_params()
    assert dict(net.named_nets())["fc"] == fn.Linear(4, 3) and not buffers["seen"]
    torch.manual_seed(4)
    module.eval()(X)
    assert_identical(params, fn.from_module(module)[1])
    assert_identical(net.apply(params, buffers, X)[0], module(X).detach())
    with pytest.raises(fn.ConversionError, match="cannot call Lazies on example_inputs"):
        fn.from_module(Lazies(), example_inputs=torch.ones(()))


@pytest.mark.filterwarnings("ignore")
def test_what_torch_puts_around_a_module_is_looked_through():
    module = nn.Sequential(nn.Linear(6, 6), Coder(), nn.BatchNorm1d(6))
    net, params, buffers = fn.from_module(module)
    inner = copy.deepcopy(module)
    inner[1].down = torch.compile(inner[1].down, backend="eager")
    called = copy.deepcopy(module)
    called.compile(backend="eager")
    for wrapper in (torch.compile(module, backend="eager"), nn.DataParallel(module), inner, called):
        other, *trees = fn.from_module(wrapper)
        assert_identical(trees, [params, buffers])
        assert_identical(other.apply(*trees, X)[0], net.apply(params, buffers, X)[0])
        assert repr(other) == repr(net)
        assert_identical(fn.from_state_dict(net, wrapper.state_dict()), (params, buffers))
    with pytest.raises(fn.TreeError, match=r"extra       'model\.0\.weight'"):
        fn.from_state_dict(net, {f"model.{key}": value for key, value in module.state_dict().items()})


def test_a_module_on_the_meta_device_is_a_net_without_numbers():
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 6)
            self.register_buffer("table", torch.arange(6.0), persistent=False)

        def forward(self, x):
            return self.fc(x) + self.table

    real = Table()
    with torch.device("meta"):
        net, params, _ = fn.from_module(Table())
    assert params["fc"]["weight"].is_meta
    with pytest.raises(fn.TreeError, match=r"'table' is not in the state_dict.*meta device"):
        fn.from_state_dict(net, real.state_dict())
    trees = fn.from_state_dict(net, {**real.state_dict(), "table": torch.arange(6.0)})
    assert_identical(net.apply(*trees, X)[0], real(X).detach())


class DeletesBuffers(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("kept", torch.ones(2))
        self.register_buffer("gone", torch.ones(2))

    def forward(self, x):
        del self.gone
        return x


@pytest.mark.parametrize(
    ("module", "path"),
    [(DeletesBuffers(), "gone"), (nn.Sequential(nn.Sequential(DeletesBuffers())), "gone"), (nn.Module(), "part.gone")],
)
def test_a_buffer_that_the_forward_deletes_is_named(module, path):
    if type(module) is nn.Module:
        module.part = DeletesBuffers()
        module.forward = module.part.forward
    net, params, buffers = fn.from_module(module)
    with pytest.raises(fn.TreeError, match=rf"deleted its buffer '{path}' in the call, (?s:.*)Assign zeros"):
        net.apply(params, buffers, torch.ones(2))
