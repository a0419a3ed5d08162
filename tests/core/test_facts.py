"""What is known of a body comes from what its class promises, never from its name or from its place in a folder."""

from __future__ import annotations

import dis
import importlib
import pickle
import pkgutil
import re
from types import FunctionType

import pytest
import torch
import torch.nn.functional as F

import funcnet as fn
from funcnet.core._facts import BodyFacts
from funcnet.core.internals import ForeignNet, StockNet
from tests.cases import LAYER_CASES
from tests.helpers import str_with_notes

X = torch.ones(64)


def classes_of_nets():
    for module in pkgutil.walk_packages(fn.__path__, "funcnet."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    classes = [fn.Net]
    for cls in classes:
        classes += [sub for sub in cls.__subclasses__() if sub.__module__.startswith("funcnet.") and sub not in classes]
    return classes


def test_all_nets_of_funcnet_are_trusted_but_those_that_run_unknown_code():
    untrusted = {cls.__name__ for cls in classes_of_nets() if not cls._traits.trusted}
    assert untrusted == {"Net", "Composed", "Function", "Lazy", "ForeignNet", "Wrapped"}


@pytest.mark.parametrize("case", LAYER_CASES)
def test_stock_layers_are_trusted(case):
    stock = [net for _, net in case.net().named_nets() if isinstance(net, StockNet)]
    assert all(net._facts.is_trusted != net.calls_unknown_code() for net in stock)


def test_a_body_that_promises_to_ignore_its_view_does_not_use_it():
    promised = [cls for cls in classes_of_nets() if cls._traits.ignores_view]
    assert {fn.ReLU, fn.Identity, fn.core.Function} <= set(promised)
    for cls in promised:
        code = cls.forward.__code__
        view = code.co_varnames[code.co_varnames[0] == "self"]
        assert view not in {step.argval for step in dis.get_instructions(code)}, cls


def test_a_class_of_a_user_inherits_no_promise_about_the_body():
    class Doubled(fn.Linear):
        @staticmethod
        def forward(p, input):
            return 2 * F.linear(input, p.weight, p.bias)

    class Listed(fn.Sequential):
        def __init__(self, *layers):
            super().__init__(*layers)

    class Noisy(fn.ReLU):
        @staticmethod
        def forward(p, input):
            return input + torch.rand_like(input) if p.training else input

    assert not Doubled(2, 3)._facts.is_trusted
    assert Doubled(2, 3)._facts.slots is None
    assert not Listed(fn.ReLU())._facts.is_trusted
    assert not Noisy()._facts.is_trusted
    assert not Noisy()._facts.ignores_view
    y, _ = fn.Sequential(Noisy()).apply({}, {}, X, train=True, rng=0)
    assert len(set(y.tolist())) > 1
    net = Doubled(2, 3)
    params, _ = net.init(0)
    assert torch.equal(net(params, torch.ones(2)), 2 * fn.Linear(2, 3)(params, torch.ones(2)))


def test_a_class_of_a_user_can_make_promises_itself():
    class Square(fn.Net, trusted=True, ignores_view=True):
        @staticmethod
        def forward(_, x):
            return x * x

    class Cube(Square):
        @staticmethod
        def forward(p, x):
            return x**3

    assert Square()._facts.is_trusted
    assert Square()._facts.ignores_view
    assert not Cube()._facts.is_trusted
    assert not Cube()._facts.ignores_view


def test_a_new_body_within_funcnet_is_trusted_and_uses_its_view():
    class Shifted(fn.ReLU):
        __module__ = "funcnet.somewhere"

        @staticmethod
        def forward(p, input):
            return F.relu(input) + p.training

    assert Shifted._traits.trusted
    assert not Shifted._traits.ignores_view


def test_a_view_may_be_called_underscore():
    @fn.compose()
    def twice_in_training(_, x):
        return 2 * x if _.training else x

    @fn.compose(drop=fn.Dropout(0.5))
    def dropping(_, x):
        return _.drop(x)

    class Scaled(fn.Net):
        factor: float

        @staticmethod
        def forward(_, x):
            return _.factor * x if _.training else x

    for net, factor in ((twice_in_training, 2), (Scaled(3.0), 3)):
        for whole in (net, fn.Sequential(net), fn.compose(part=net)(lambda p, x: p.part(x))):
            assert torch.equal(whole.apply({}, {}, X, train=True)[0], factor * X)
            assert torch.equal(whole({}, X), X)
    for whole in (dropping, fn.Sequential(dropping), fn.compose(part=dropping)(lambda p, x: p.part(x))):
        y, _ = whole.apply({}, {}, X, train=True, rng=0)
        assert set(y.tolist()) == {0.0, 2.0}


def test_an_error_in_a_body_whose_view_is_called_underscore_names_its_place():
    @fn.compose(fc=fn.Linear(2, 3))
    def body(_, x):
        return _.fc(x).reshape(7)

    net = fn.Sequential(body)
    with pytest.raises(RuntimeError) as info:
        net(net.init(0)[0], torch.ones(2))
    assert "body at '0'" in str_with_notes(info.value)


def test_a_function_given_to_a_layer_is_unknown_code():
    loss = fn.TripletMarginWithDistanceLoss(distance_function=lambda a, b: (a - b).abs().sum(-1))
    assert loss.calls_unknown_code()
    assert not loss._facts.is_trusted
    assert fn.TripletMarginWithDistanceLoss()._facts.is_trusted


def test_what_foreign_nets_say_about_themselves():
    class Foreign(torch.nn.Module):
        def forward(self, x):
            return torch.rand_like(x)

    net = fn.from_module(Foreign())[0]
    assert isinstance(net, ForeignNet)
    facts = net._facts
    assert not facts.is_trusted
    assert not facts.draws_from_view_only
    assert facts.reads_trees
    assert facts.foreign_classes == {Foreign}
    assert isinstance(type(net).forward, FunctionType)


NET = fn.Sequential(fn.Linear(2, 2, bias=False), fn.ReLU(), fn.Linear(2, 2))
EDITED = {
    "tied": NET.tie({"2.weight": "0.weight"}),
    "frozen": NET.freeze("0"),
    "replaced": fn.TransformerEncoderLayer(8, 2).replaced({"linear1": fn.Linear(8, 16), "linear2": fn.Linear(16, 8)}),
    "all": NET.tie({"2.weight": "0.weight"}).freeze("0").replaced({"1": fn.Tanh()}),
}


@pytest.mark.parametrize("name", EDITED)
def test_edits_of_a_net_are_pickled(name):
    net = EDITED[name]
    copy = pickle.loads(pickle.dumps(net))
    assert copy == net
    assert hash(copy) == hash(net)
    assert copy.aliases == net.aliases
    assert copy.frozen == net.frozen
    assert [type(child) for _, child in copy.named_nets()] == [type(child) for _, child in net.named_nets()]


def test_nets_that_differ_in_what_is_frozen_are_equal():
    assert EDITED["frozen"] == NET
    assert hash(EDITED["frozen"]) == hash(NET)
    assert EDITED["tied"] != NET


class Foreign(torch.nn.Module):
    def forward(self, x):
        return x


def drawing(p, x):
    return x + torch.rand_like(x)


def make_examples():
    from funcnet.models._llama import LlamaRMSNorm

    layers = {
        "Linear": [fn.Linear(2, 3), fn.LSTM(2, 3), fn.BatchNorm1d(2)],
        "ReLU": [fn.ReLU(), fn.Identity()],
        "MultiheadAttention": [fn.MultiheadAttention(4, 2), fn.TransformerEncoderLayer(4, 2)],
        "calls a given function": [fn.TransformerEncoderLayer(4, 2, activation=lambda x: x)],
    }
    models = {"LlamaRMSNorm": [LlamaRMSNorm(3, 1e-6)], "Stack": [fn.Stack(fn.Linear(2, 2), 3)]}
    return (
        layers
        | models
        | {
            "Sequential": [fn.Sequential(fn.ReLU()), fn.ModuleList([fn.ReLU()]), fn.ModuleDict({"a": fn.ReLU()})],
            "ParameterList": [fn.ParameterList([X]), fn.ParameterDict({"a": X})],
            "Parametrized": [fn.parametrize.weight_norm(fn.Linear(2, 3)), fn.parametrize.weight_norm(Weighted(3))],
            "Traced": [fn.trace(torch.nn.Linear(2, 3), torch.ones(1, 2))[0]],
            "composed": [fn.compose()(lambda p, x: x), fn.compose()(drawing), Weighted(3)],
            "Function": [fn.core.Function(F.relu), fn.core.Function(lambda x: x + torch.rand_like(x))],
            "Wrapped": [fn.from_module(Foreign())[0]],
        }
    )


class Weighted(fn.Net):
    features: int

    def parts(self):
        return {"weight": fn.Param((self.features, 2), 1.0)}

    @staticmethod
    def forward(p, x):
        return F.linear(x, p.weight)


def test_the_table_of_bodies_is_true():
    lines = [line.strip() for line in BodyFacts.__doc__.splitlines()]
    rules = [index for index, line in enumerate(lines) if line.startswith("=====")]
    starts = [match.start() for match in re.finditer("=+", lines[rules[0]])]
    rows = [
        [line[start:stop].strip() for start, stop in zip(starts, [*starts[1:], None], strict=True)]
        for line in lines[rules[1] + 1 : rules[2]]
    ]
    examples = make_examples()
    assert len(rows) == len(examples)
    for row in rows:
        (key,) = [key for key in examples if re.search(rf"\b{key}\b", row[0])]
        for net in examples[key]:
            facts = net._facts
            answers = (
                facts.is_trusted,
                facts.draws_from_view_only,
                facts.ignores_view,
                facts.reads_trees,
                facts.one_piece,
                facts.slots is not None,
            )
            for cell, answer in zip(row[1:], answers, strict=True):
                if cell not in ("code", "as base"):
                    assert answer == (cell == "yes"), (row, net)
