"""source in the stateful style: containers, modes, nets."""

from __future__ import annotations

import copy
import re
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import funcnet as fn
from tests.helpers import assert_identical, buffers_of, clone, parametrize

X = torch.linspace(-1, 1, 4 * 8).mul(5).sin().view(4, 8)
IMAGES = torch.linspace(-1, 1, 2 * 3 * 64).mul(5).sin().view(2, 3, 8, 8)


class Scaled(nn.Sequential):
    """A Sequential with a parameter and a forward of its own."""

    def __init__(self):
        super().__init__(nn.Linear(8, 8), nn.BatchNorm1d(8))
        self.scale = nn.Parameter(torch.ones(8))

    def forward(self, x):
        return super().forward(x) * self.scale


class Residual(nn.Sequential):
    """A Sequential whose parts have names, one of them no identifier."""

    def __init__(self):
        super().__init__(OrderedDict([("fc-1", nn.Linear(8, 8)), ("relu", nn.ReLU())]))

    def forward(self, x):
        return x + super().forward(x)


class Plain(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(8, 8), nn.ReLU())


class Containers(nn.Module):
    def __init__(self):
        super().__init__()
        self.scaled, self.residual, self.plain = Scaled(), Residual(), Plain()
        self.named = nn.Sequential(OrderedDict([("first", Scaled()), ("second", Plain())]))
        self.gains = nn.ParameterList([torch.ones(8), torch.zeros(8)])

    def forward(self, x):
        return self.named(self.plain(self.residual(self.scaled(x)))) * self.gains[0] + self.gains[1]


class NormAct(nn.BatchNorm2d):
    """A norm with an activation, as image models have it."""

    def forward(self, x):
        if self.training:
            self.num_batches_tracked.add_(1)
        mean, var = self.running_mean, self.running_var
        return F.relu(F.batch_norm(x, mean, var, self.weight, self.bias, self.training, self.momentum, self.eps))


class StochasticDepth(nn.Module):
    def forward(self, x):
        if not self.training:
            return x
        kept = x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(0.5)
        return x * kept.div_(0.5)


class Image(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.depth = nn.Conv2d(3, 4, 3), NormAct(4, momentum=0.2), StochasticDepth()

    def forward(self, x):
        x = self.norm(self.conv(x))
        return x + self.depth(x)


class Borrowing(nn.Module):
    """Calls a module that its parent holds under another path."""

    def __init__(self, lent):
        super().__init__()
        self.fc = nn.Linear(8, 8)
        self.lent = [lent]  # in a list, so that it is no part

    def forward(self, x):
        return self.lent[0](self.fc(x))


class Lending(nn.Module):
    def __init__(self):
        super().__init__()
        self.lent = Residual()
        self.act = nn.Linear(8, 8)
        self.parts = nn.ModuleList([Borrowing(self.lent), Borrowing(self.lent), Borrowing(self.act)])

    def forward(self, x):
        for part in self.parts:
            x = part(x)
        return x


class Owned(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 8)
        self.register_buffer("table", torch.ones(8))

    def forward(self, x):
        return self.fc(x) * self.table


MODULES = {
    "containers": (Containers, X),
    "modes": (Image, IMAGES),
    "borrowed": (Lending, X),
    "sequential": (lambda: nn.Sequential(nn.Linear(8, 4), nn.Sequential(nn.ReLU(), nn.Dropout(0.2))), X),
    "named": (lambda: nn.Sequential(OrderedDict([("fc", nn.Linear(8, 4)), ("act", nn.Tanh())])), X),
    "one layer": (lambda: nn.BatchNorm1d(8, momentum=0.3), X),
    "recurrent": (lambda: nn.LSTM(8, 4), X),
    "attention": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), X[:, None]),
}


def made(text):
    space = {"__name__": "emitted"}
    exec(compile(text, "<emitted>", "exec"), space)
    return space[re.findall(r"^class (\w+)", text, re.MULTILINE)[-1]]()


@parametrize(name=MODULES)
def test_a_class_has_the_keys_and_the_bits_of_its_module_in_both_modes(name):
    build, x = MODULES[name]
    torch.manual_seed(0)
    module = build()
    twin = made(fn.source(module, x, style="stateful"))
    assert list(twin.state_dict()) == list(module.state_dict())
    twin.load_state_dict(module.state_dict())
    for train in (False, True):
        results = []
        for one in (twin.train(train), copy.deepcopy(module).train(train)):
            torch.manual_seed(7)
            results.append((one(clone(x)), buffers_of(one)))
        assert_identical(*results)


@parametrize(name=["containers", "borrowed"])
def test_the_functions_of_such_modules_have_their_bits(name):
    build, x = MODULES[name]
    module = build()
    _, params, buffers = fn.from_module(module)
    for train in (False, True):
        space = {"__name__": "emitted"}
        exec(compile(fn.source(module, x, train=train), "<emitted>", "exec"), space)
        twin = copy.deepcopy(module).train(train)
        leaves = fn.tree.map(lambda leaf: leaf.detach().requires_grad_(), params)
        output, new = space["forward"](leaves, buffers, x)
        assert_identical((output, new), (twin(x), buffers_of(twin)))


@fn.compose(a=fn.Linear(8, 4), b=fn.Linear(4, 2))
def two_layers(p, x):
    return p.b(torch.relu(p.a(x)))


NETS = {
    "Sequential": fn.Sequential(fn.Linear(8, 16), fn.ReLU()),
    "Linear": fn.Linear(8, 4),
    "TwoLayers": two_layers,
    "Owned": fn.from_module(Owned())[0],
}


@parametrize(name=NETS)
def test_the_class_of_a_net_is_named_after_it(name):
    net = NETS[name]
    text = fn.source(net, X, style="stateful")
    params, buffers = fn.from_module(Owned())[1:] if name == "Owned" else net.init(0)
    twin = made(text)
    assert type(twin).__name__ == name
    twin.load_state_dict(fn.to_module(net, params, buffers).state_dict())
    assert_identical(twin(X), net(params, X) if not buffers else net.apply(params, buffers, X)[0])


class DrawsBetween(nn.Module):
    """Draws in training only, in a part that does more than pass on in eval mode."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x):
        x = self.fc(x)
        return x + torch.randn_like(x) if self.training else x.relu()


def test_a_class_that_cannot_have_both_modes_names_the_line_that_draws():
    with pytest.raises(fn.ConversionError, match=r"in training only, at .*test_stateful.py:\d+ \(`return x \+ torch"):
        fn.source(DrawsBetween(), X, style="stateful")


def test_a_class_reads_the_parameters_of_a_parametrized_part():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(3, 4, 2)
            nn.utils.parametrizations.weight_norm(self.conv, dim=2)

        def forward(self, x):
            return self.conv(x)

    torch.manual_seed(0)
    module, x = Scaled(), torch.ones(2, 3, 5)
    twin = made(fn.source(module, x, style="stateful"))
    twin.load_state_dict(module.state_dict())
    assert_identical(twin(x).detach(), module(x).detach())
