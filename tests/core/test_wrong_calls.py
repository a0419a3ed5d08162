"""Calls that a net cannot take: on nets of one's own, composed, foreign and traced, the error says what is at fault."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import funcnet as fn
from tests.helpers import str_with_notes

X = torch.linspace(-1, 1, 12).view(4, 3)


class Own(fn.Net):
    def parts(self):
        return {"fc": fn.Linear(3, 3)}

    @staticmethod
    def forward(p, x):
        return p.fc(x)


class Foreign(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x):
        return self.fc(x)


def make_nets():
    @fn.compose(fc=fn.Linear(3, 3))
    def composed(p, x):
        return p.fc(x)

    yield "stock", fn.Linear(3, 3)
    yield "sequential", fn.Sequential(fn.Linear(3, 3))
    yield "own", Own()
    yield "composed", composed
    yield "foreign", fn.from_module(Foreign())[0]
    yield "traced", fn.trace(Foreign(), X)[0]


def trees_of(net):
    tensors = {entry.path: torch.ones(entry.spec.shape) for entry in net.entries()}
    return fn.tree.unflatten(tensors), {}


TO_APPLY = "A mode and draws are for net.apply(params, buffers, *inputs, train=, rng=)."
BUFFERS = "buffers go to net.apply(params, buffers, *inputs)."
WRONG_CALLS = {
    "no input": (lambda net, p: net(p), TypeError, ["missing a required argument"], [BUFFERS, TO_APPLY]),
    "too many inputs": (lambda net, p: net(p, X, X), TypeError, ["too many positional arguments"], [BUFFERS]),
    "buffers to the short form": (lambda net, p: net(p, {}, X), TypeError, ["too many", BUFFERS], [TO_APPLY]),
    "another name": (
        lambda net, p: net(p, X, mask=X),
        TypeError,
        ["unexpected keyword", "'mask'"],
        [BUFFERS, TO_APPLY],
    ),
    "train": (lambda net, p: net(p, X, train=True), TypeError, ["'train'", TO_APPLY], [BUFFERS]),
    "training": (lambda net, p: net.apply(p, {}, X, training=True), TypeError, ["'training'", TO_APPLY], [BUFFERS]),
    "rng": (lambda net, p: net(p, X, rng=0), TypeError, ["'rng'", TO_APPLY], [BUFFERS]),
    "no params": (lambda net, p: net(X), fn.TreeError, ["got Tensor; inputs come after the trees"], ["missing"]),
    "no buffers": (
        lambda net, p: net.apply(p, X),
        fn.TreeError,
        ["buffers: expected", "inputs come after"],
        ["params:"],
    ),
    "both trees at once": (lambda net, p: net((p, {}), X), fn.TreeError, ["params, buffers = net.init(0)"], []),
    "exchanged trees": (lambda net, p: net.apply({}, p, X), fn.TreeError, ["in the place of the other"], ["missing"]),
    "a module": (lambda net, p: net(nn.Linear(3, 3), X), fn.TreeError, ["funcnet.from_module(module)"], []),
    "a method": (lambda net, p: net(p, X, method="encode"), AttributeError, ["has no method 'encode'"], []),
    "a wrong shape": (lambda net, p: net(p, X[:, :2]), RuntimeError, ["(4, 2)"], [BUFFERS, TO_APPLY]),
}


@pytest.mark.parametrize("net", [pytest.param(net, id=name) for name, net in make_nets()])
@pytest.mark.parametrize("what", WRONG_CALLS)
def test_a_wrong_call_blames_what_is_wrong(net, what):
    call, error, says, says_not = WRONG_CALLS[what]
    with pytest.raises(error) as caught:
        call(net, trees_of(net)[0])
    text = str_with_notes(caught.value)
    assert all(part in text for part in says), text
    assert not any(part in text for part in says_not), text


class Typo(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))

    def forward(self, x):
        return x * self.weight + self.bais


class Fixed(nn.Module):
    @property
    def size(self):
        return 3

    def forward(self, x):
        self.size = 4
        return x


@pytest.mark.parametrize(("make", "place"), [(Typo, "Typo"), (lambda: nn.Sequential(Typo()), "Typo at '0'")])
def test_a_name_that_a_foreign_forward_misses_is_told_by_torch_with_the_path(make, place):
    net, params, buffers = fn.from_module(make())
    with pytest.raises(AttributeError, match=r"^'Typo' object has no attribute 'bais'") as caught:
        net.apply(params, buffers, X)
    assert f"in the body of {place}: got input 0 (4, 3) float32" in str_with_notes(caught.value)


def test_a_property_that_a_foreign_forward_assigns_is_told_by_python():
    net, params, _ = fn.from_module(Fixed())
    with pytest.raises(AttributeError, match=r"no setter|can't set"):
        net(params, X)


def test_an_object_that_a_body_cannot_assign_to_is_not_taken_for_its_view():
    class Slots:
        __slots__ = ("x",)

    @fn.compose(fc=fn.Linear(3, 3))
    def net(p, x):
        Slots().fc = x

    with pytest.raises(AttributeError, match="'Slots' object has no attribute 'fc'"):
        net(net.init(0)[0], X)


def test_the_innermost_part_of_a_foreign_forward_is_named_at_any_depth():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([Foreign(), Foreign()])

        def forward(self, x):
            return self.blocks[1](self.blocks[0](x)[:, :2])

    foreign, params, _ = fn.from_module(Outer())
    net = fn.compose(model=foreign)(lambda p, x: p.model(x))
    with pytest.raises(RuntimeError) as caught:
        net({"model": params}, X)
    assert "in the body of Linear at 'model.blocks.1.fc': got input 0 (4, 2) float32" in str_with_notes(caught.value)
    with pytest.raises(RuntimeError) as caught:
        foreign(params, X, method="forward")
    assert "Linear at 'blocks.1.fc'" in str_with_notes(caught.value)


def test_buffers_in_the_place_of_an_input_with_room_for_more_are_told():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(5, 3)

        def forward(self, ids, mask=None):
            return self.embed(ids)

    net, params, buffers = fn.from_module(Tokens())
    with pytest.raises(TypeError, match=r"The first input is \{\}: .*buffers go to net\.apply"):
        net(params, buffers, torch.tensor([1]))
    own = fn.compose(fc=fn.Linear(3, 3))(lambda p, x, mask=None: p.fc(x))
    with pytest.raises(TypeError, match=r"Linear at 'fc': .*The first input is \{\}: .*buffers go to net\.apply"):
        own(own.init(0)[0], {}, X)


def keywords(net_or_module):
    class Swallows(nn.Module):
        def forward(self, x, **kwargs):
            return x

    class Takes(nn.Module):
        def forward(self, x, training=False, **kwargs):
            return x + training

    class Reads(nn.Module):
        def forward(self, x, **kwargs):
            return x + kwargs.get("training", False)

    class HandsOn(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = Takes()

        def forward(self, x, **kwargs):
            return self.part(x, **kwargs)

    return {
        "swallows": [fn.from_module(Swallows())[0], fn.compose()(lambda p, x, **kwargs: x)],
        "takes": [
            *[fn.from_module(cls())[0] for cls in (Takes, Reads, HandsOn)],
            fn.compose()(lambda p, x, training=False, **kwargs: x + training),
            fn.compose()(lambda p, x, **kwargs: x + kwargs["training"]),
            fn.compose()(lambda p, x, **kwargs: _add_if(x, **kwargs)),
        ],
    }[net_or_module]


def _add_if(x, training):
    return x + training


def test_a_mode_that_a_body_would_swallow_is_refused_by_name():
    for net in keywords("swallows"):
        plain = dict.fromkeys(("train", "training", "mode", "rng", "seed", "generator", "buffers"), 1)
        near = {"trian": True, "trainning": False, "rngs": 1, "key": 3, "keys": fn.random.key(3), "bufers": {}}
        near |= {"traim": True, "tralning": True, "genrator": torch.Generator()}
        for name, value in (plain | near).items():
            with pytest.raises(TypeError, match=rf"takes \(x, \*\*kwargs\) and would swallow {name}= unread.*apply"):
                net({}, X, **{name: value})
        for name, value in {"mask": None, "key": X, "keys": [1], "rain": X, "buffer": X, "strain": True}.items():
            assert torch.equal(net({}, X, **{name: value}), X)  # what is no mode, rng or buffers is its own affair


def test_a_mode_or_generator_given_to_a_layer_is_told_where_it_belongs():
    for net in (fn.Linear(3, 3), fn.Dropout(0.5), fn.Sequential(fn.ReLU())):
        for name, value in {"generator": torch.Generator(), "mode": "train", "traim": True, "seed": 0}.items():
            with pytest.raises(TypeError, match=rf"'{name}'\. A mode and draws are for net\.apply"):
                net(net.init(0)[0], X, **{name: value})


def test_a_body_that_reads_a_mode_of_its_own_is_given_it():
    for net in keywords("takes"):
        assert torch.equal(net({}, X, training=True), X + 1)


@pytest.mark.parametrize("function", [fn.from_module, fn.train_flags, lambda module: fn.effects(module, X)])
def test_a_module_that_contains_itself_is_told_by_its_two_paths(function):
    module = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.ReLU()))
    module[1].add_module("parent", module)
    with pytest.raises(fn.ConversionError, match=r"Sequential contains itself: 'the module' and '1\.parent' are one"):
        function(module)
    inner = nn.Sequential(module[1])
    del module[1].parent
    module[1].add_module("parent", inner)
    with pytest.raises(fn.ConversionError, match=r"Sequential contains itself: '1' and '1\.parent\.0' are one"):
        function(module)
    twice = nn.Linear(3, 3)  # which a module at two places does not
    assert fn.from_module(nn.Sequential(twice, nn.ReLU(), twice))[0].aliases


@pytest.mark.parametrize("dtype", [torch.half, torch.double, torch.complex64])
def test_mixed_dtypes_are_told_by_entry(dtype):
    for net in (fn.Sequential(fn.Linear(3, 2)), fn.from_module(nn.Sequential(nn.Linear(3, 2)))[0]):
        params, _ = net.init(0)
        params["0"]["weight"] = params["0"]["weight"].to(dtype)
        with pytest.raises(fn.ShapeError) as caught:
            net(params, torch.ones(2, 3))
        name = str(dtype).removeprefix("torch.")
        assert "expected one floating dtype, got input" in str(caught.value)
        assert f"(2, 3) float32; params '0.weight' is {name}; params '0.bias' is float32." in str(caught.value)


def test_params_of_another_dtype_than_buffers_are_told():
    net = fn.BatchNorm1d(3)
    params, buffers = net.init(0)
    params = fn.tree.map(torch.Tensor.double, params)
    message = "params 'weight', params 'bias' are float64; buffers 'running_mean', buffers 'running_var' are float32"
    with pytest.raises(fn.ShapeError, match=message):
        net.apply(params, buffers, torch.ones(2, 3).double(), train=True)


def test_a_machine_without_the_memory_is_no_fault_of_the_inputs():
    with pytest.raises(RuntimeError, match="allocate memory") as caught:
        fn.Sequential(fn.ConstantPad1d((0, 10**15), 0.0))({}, torch.ones(1, 2))
    assert not isinstance(caught.value, fn.ShapeError)
