"""Edits of a net (ties, frozen params, replaced parts) come along where a record is copied or a field replaced."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import sys

import pytest
import torch

import funcnet as fn
from tests.helpers import assert_identical


class Pair(fn.Net):
    width: int
    scale: float = 1.0
    has_bias: bool = True

    def parts(self):
        return {"a": fn.Linear(3, 3, bias=self.has_bias), "b": fn.Linear(3, self.width, bias=self.has_bias)}

    @staticmethod
    def forward(p, x):
        return p.b(p.a(x)) * p.scale


EDITED = {
    "tie": Pair(3).tie({"b.weight": "a.weight"}),
    "freeze": Pair(3).freeze("b.bias"),
    "replaced": Pair(3).replaced({"b": fn.Sequential(fn.Linear(3, 2), fn.ReLU())}),
    "all": Pair(3).replaced({"a": fn.Sequential(fn.Linear(3, 3))}).tie({"b.weight": "a.0.weight"}).freeze("a"),
}


def edits_of(net):
    return net.aliases, net.frozen, [type(part).__name__ for _, part in net.named_nets()]


@pytest.mark.parametrize("name", EDITED)
def test_edits_come_along_when_a_field_is_replaced(name):
    net = EDITED[name]
    other = dataclasses.replace(net, scale=2.0)
    assert (other.scale, edits_of(other)) == (2.0, edits_of(net)) and other != net
    back = dataclasses.replace(other, scale=1.0)
    assert (back, hash(back), repr(back)) == (net, hash(net), repr(net))
    params, _ = net.init(0)
    assert_identical(other(params, torch.ones(2, 3)), net(params, torch.ones(2, 3)) * 2)
    if sys.version_info >= (3, 13):
        assert edits_of(getattr(copy, "replace")(net, scale=2.0)) == edits_of(net)


@pytest.mark.parametrize("name", EDITED)
@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_edits_come_along_when_a_net_is_copied(name, make):
    net = make(EDITED[name])
    assert (net, edits_of(net)) == (EDITED[name], edits_of(EDITED[name]))
    assert edits_of(dataclasses.replace(net, scale=2.0)) == edits_of(net)


@pytest.mark.parametrize(
    ("name", "fields", "problem"),
    [
        ("tie", {"width": 5}, r"cannot tie: 'b.weight' has shape \(5, 3\), 'a.weight' has \(3, 3\)"),
        ("freeze", {"has_bias": False}, r"no param 'b.bias', which was frozen"),
    ],
)
def test_edits_that_do_not_fit_the_new_fields_are_refused(name, fields, problem):
    with pytest.raises(
        fn.TreeError, match=rf"does not fit Pair with its new fields:\n  it (has )?{problem}.*(\n.*)*again"
    ):
        dataclasses.replace(EDITED[name], **fields)
    assert dataclasses.replace(Pair(3), **fields) == Pair(**{"width": 3, **fields})


def test_a_replaced_part_that_is_gone_is_refused():
    class Depth(fn.Net):
        depth: int

        def parts(self):
            return {f"layer{index}": fn.Linear(3, 3) for index in range(self.depth)}

    net = Depth(2).replaced({"layer1": fn.Linear(3, 2)})
    assert dataclasses.replace(net, depth=3).replaced({}).layer1 == fn.Linear(3, 2)
    with pytest.raises(fn.TreeError, match="it has no net 'layer1', which was replaced"):
        dataclasses.replace(net, depth=1)


def test_ties_that_follow_from_fields_are_those_of_the_new_fields():
    model = fn.models.GPT2(vocab_size=7, max_position_embeddings=4, hidden_size=24, num_hidden_layers=1)
    frozen = model.freeze(next(model.entries()).path)
    assert dataclasses.replace(frozen, vocab_size=9).aliases == model.aliases != {}
    assert dataclasses.replace(frozen, tie_word_embeddings=False).aliases == {}
    assert dataclasses.replace(frozen, tie_word_embeddings=False).frozen == frozen.frozen != ()


def test_a_layer_remembers_lists_of_the_fields_that_stay():
    layer = fn.MaxPool2d([3, 3])
    assert repr(dataclasses.replace(layer, padding=1)) == repr(fn.MaxPool2d([3, 3], padding=1))
    assert repr(dataclasses.replace(layer, kernel_size=2, stride=1)) == repr(fn.MaxPool2d(2, stride=1).replaced({}))


def test_fields_and_signatures_show_no_edits():
    for net in (Pair(3), *EDITED.values()):
        assert [field.name for field in dataclasses.fields(net)] == ["width", "scale", "has_bias"]
        assert dataclasses.asdict(net) == {"width": 3, "scale": 1.0, "has_bias": True}
    assert list(inspect.signature(Pair).parameters) == ["width", "scale", "has_bias"]
