"""Nets from functions."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import funcnet as fn
from tests.helpers import assert_identical

X = torch.ones(2, 3)


@fn.compose(fc=fn.Linear(3, 2))
def at_module_level(p, x):
    return p.fc(x)


def test_a_composed_net_is_pickled_by_its_name():
    assert pickle.loads(pickle.dumps(at_module_level)) is at_module_level
    module = fn.to_module(at_module_level, *at_module_level.init(0))
    for again in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
        assert_identical(again(X), module(X))


def test_parts_are_attributes_of_the_net():
    assert at_module_level.fc == fn.Linear(3, 2)
    assert [path for path, _ in at_module_level.named_nets()] == ["", "fc"]
    assert at_module_level.__name__ == "at_module_level"


def test_compose_without_parentheses_and_as_a_call():
    @fn.compose
    def double(p, x):
        return 2 * x

    assert_identical(double({}, X), 2 * X)
    lambda_net = fn.compose(fc=fn.Linear(3, 2))(lambda p, x: p.fc(x))
    params, _ = lambda_net.init(0)
    assert_identical(lambda_net(params, X), at_module_level(params, X))


def test_own_tensors_come_before_those_of_parts_as_in_a_module():
    @fn.compose(fc=fn.Linear(3, 2), scale=fn.Param(2, nn.init.ones_), seen=fn.Buffer((), 0, dtype=torch.int64))
    def net(p, x):
        return p.fc(x) * p.scale

    params, buffers = net.init(0)
    assert list(fn.to_state_dict(net, params, buffers)) == ["scale", "seen", "fc.weight", "fc.bias"]
    assert list(fn.to_module(net, params, buffers).state_dict()) == ["scale", "seen", "fc.weight", "fc.bias"]


@pytest.mark.parametrize("name", ["forward", "train", "training", "rng", "state_dict", "a.b", "half"])
def test_names_that_modules_use_are_refused(name):
    with pytest.raises(ValueError, match="a part cannot be named"):
        fn.compose(**{name: fn.ReLU()})


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (nn.Linear(2, 2), "is an nn.Module, which holds its own tensors. Use funcnet.Linear"),
        (torch.ones(2), "is a tensor; a net holds none"),
        ([fn.ReLU()], "wrap nets in funcnet.ModuleList"),
        ({"a": fn.ReLU()}, "wrap nets in funcnet.ModuleDict"),
        ({1, 2}, "is not hashable"),
    ],
    ids=["module", "tensor", "list", "dict", "set"],
)
def test_parts_that_hold_state_are_refused(part, message):
    with pytest.raises(TypeError, match=message.replace(".", r"\.")):
        fn.compose(part=part)


def test_a_net_is_a_part_and_no_body():
    with pytest.raises(TypeError, match=r"a function body\(p, \*inputs\), not Linear\. Parts are given by name"):
        fn.compose(fn.Linear(2, 2))


class Mlp(fn.Net):
    """A net as a class, its fields the hyperparameters."""

    width: int = 4
    activation: str = "relu"

    def parts(self):
        return {"fc1": fn.Linear(3, self.width), "fc2": fn.Linear(self.width, 2)}

    def forward(self, p, x):
        return p.fc2(getattr(torch, self.activation)(p.fc1(x)))


def test_a_net_may_be_a_class():
    assert Mlp() == Mlp(4)
    assert Mlp(5) != Mlp(4)
    assert len({Mlp(), Mlp(), Mlp(5)}) == 2
    params, buffers = Mlp(activation="tanh").init(0)
    module = fn.to_module(Mlp(activation="tanh"), params, buffers)
    assert_identical(module(X), Mlp(activation="tanh")(params, X))
    assert fn.from_module(module)[0] == Mlp(activation="tanh")
    with pytest.raises(AttributeError):
        Mlp().width = 3


def test_a_mistake_in_parts_is_told_as_one():
    class Wrong(fn.Net):
        width: int = 3

        def parts(self):
            return {"fc": fn.Linear(3, self.widht)}

    with pytest.raises(TypeError, match=r"Wrong\.parts\(\) failed: .*'widht'"):
        Wrong().init(0)


@pytest.mark.parametrize("name", ["train", "eval", "parameters", "state_dict", "to", "named_modules"])
def test_habits_from_modules_are_answered(name):
    with pytest.raises(AttributeError, match=r"A net h.* no|net\.named_nets"):
        getattr(fn.Linear(2, 2), name)


def test_training_a_body_either_way_gives_equal_weights():
    @fn.compose(
        fc1=fn.Linear(3, 8), bn=fn.BatchNorm1d(8), drop=fn.Dropout(0.3), fc2=fn.Linear(8, 1), seen=fn.Buffer(())
    )
    def net(p, x):
        if p.training:
            p.seen = p.seen + x.shape[0]
        return p.fc2(p.drop(torch.relu(p.bn(p.fc1(x)))))

    params, buffers = net.init(0)
    module = fn.to_module(net, params, buffers)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    x = torch.linspace(-1, 1, 24).view(8, 3)

    def loss(params, buffers, seed):
        y, buffers = net.apply(params, buffers, x, train=True, rng=seed)
        return y.pow(2).mean(), buffers

    for step in range(5):
        optimizer.zero_grad()
        torch.manual_seed(step)
        module(x).pow(2).mean().backward()
        optimizer.step()
        (_, buffers), grads = fn.value_and_grad(loss, has_aux=True)(params, buffers, step)
        params = fn.tree.map(lambda w, g: torch.add(w, g, alpha=-0.1), params, grads)
    assert_identical(fn.to_state_dict(net, params, buffers), dict(module.state_dict()))


def test_first_values_are_drawn_in_the_order_of_the_parts():
    net = fn.compose(fc=fn.Linear(3, 2), scale=fn.Param(2, nn.init.normal_), out=fn.Linear(2, 2))(lambda p, x: x)

    class Twin(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 2)
            self.scale = nn.Parameter(torch.randn(2))
            self.out = nn.Linear(2, 2)

    torch.manual_seed(1)
    assert_identical(fn.to_state_dict(net, *net.init(1)), dict(Twin().state_dict()))


def test_names_of_class_parts_and_fields_are_checked_too():
    class Typed(fn.Net):
        rng: int = 0

    class Parted(fn.Net):
        def parts(self):
            return {"train": fn.ReLU()}

    for net in (Typed(), Parted()):
        with pytest.raises(ValueError, match="has parts or fields named"):
            net({}, X)


def test_a_net_composed_in_a_function_says_why_it_is_not_pickled():
    net = fn.compose(fc=fn.Linear(3, 2))(lambda p, x: p.fc(x))
    with pytest.raises(pickle.PicklingError, match="Compose it at the top of a module"):
        pickle.dumps(net)


def test_parts_of_classes_hold_no_state_either():
    class Hidden(fn.Net):
        def parts(self):
            return {"fc": nn.Linear(3, 3)}

        @staticmethod
        def forward(p, x):
            return p.fc(x)

    with pytest.raises(TypeError, match=r"part 'fc' is an nn.Module"):
        Hidden().init(0)


def test_a_body_without_self_is_told_to_be_static():
    with pytest.raises(TypeError, match="decorate it with"):

        class Forgot(fn.Net):
            def forward(p, x):  # noqa: N805 - the mistake
                return x


def test_a_field_may_have_the_name_of_a_part():
    class Affine(fn.Net):
        inner: fn.Net
        bias: bool = True

        def parts(self):
            return {"inner": self.inner, "bias": fn.Param(2) if self.bias else None}

        @staticmethod
        def forward(p, x):
            x = p.inner(x)
            return x if p.bias is None else x + p.bias

    for net in (Affine(fn.Linear(3, 2)), Affine(fn.Linear(3, 2), bias=False)):
        params, buffers = net.init(0)
        module = fn.to_module(net, params, buffers)
        assert_identical(module(X), net(params, X))
        assert repr(module) == repr(net)


def test_a_cached_function_is_a_part():
    import functools

    doubled = functools.lru_cache(lambda x: x * 2)
    net = fn.compose(act=doubled, fc=fn.Linear(3, 2))(lambda p, x: p.act(p.fc(x)))
    params, buffers = net.init(0)
    assert_identical(net(params, X), fn.to_module(net, params, buffers)(X))


@fn.compose(a=fn.Linear(3, 3), b=fn.Linear(3, 3))
def pair(p, x):
    return p.b(p.a(x))


def test_a_tied_composed_net_is_pickled():
    tied = pair.tie({"b.weight": "a.weight"})
    again = pickle.loads(pickle.dumps(tied))
    assert again == tied != pair
