"""Bodies known not to draw are known for the right reasons."""

from __future__ import annotations

import functools
import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import funcnet as fn
from funcnet.core._facts import never_draws_globally
from tests.cases.models import Branches, Branches_net, two_convs


def plain_helper(x, scale=2.0):
    return F.relu(x) * scale if x.dim() else torch.tanh(x)


def drawing_helper(x):
    return plain_helper(x) + torch.rand_like(x)


def recursive(p, x):
    return recursive(p, x[1:]) if len(x) else x


def far_helper(x):
    return (lambda y: drawing_helper(y))(x)


def make_closure(function):
    return lambda p, x: function(x)


WRAPPED = fn.from_module(Branches())[0]
SILENT = {
    "parts and F": two_convs.body,
    "loop, sum, builtins": lambda p, x: sum(layer(x) for layer in p.layers[: max(1, len(p.layers))]),
    "a helper": lambda p, x: plain_helper(x),
    "recursion": recursive,
    "a closure": make_closure(plain_helper),
    "a closure over torch": make_closure(torch.relu),
}
DRAWING = {
    "F.dropout": Branches_net.body,
    "torch.rand": lambda p, x: x + torch.rand(3),
    "a method": lambda p, x: x.clone().normal_(),
    "a helper": lambda p, x: drawing_helper(x),
    "a helper's helper": lambda p, x: far_helper(x),
    "a closure": make_closure(drawing_helper),
    "a closure over torch": make_closure(torch.bernoulli),
    "a module": lambda p, x: nn.Linear(3, 3)(x),
    "by name": lambda p, x: getattr(F, "drop" + "out")(x),
    "an unknown module": lambda p, x: random.choice([x, -x]),
    "an unknown object": lambda p, x: CALLABLE(x),
    "attention": lambda p, x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.5),
    "further down in torch": lambda p, x: torch.svd_lowrank(x)[0],
    "a partial": make_closure(functools.partial(F.dropout, p=0.5)),
    "a name that is taken": lambda p, x: x * fn.random.bernoulli(p.rng, x.shape),
    "a default": lambda p, x, draw=torch.rand: x + draw(3),
}
CALLABLE = type("Callable", (), {"__call__": lambda self, x: x + torch.rand(3)})()


@pytest.mark.parametrize("name", SILENT)
def test_what_is_known_not_to_draw(name):
    assert never_draws_globally(fn.compose()(SILENT[name]))


@pytest.mark.parametrize("name", DRAWING)
def test_what_draws_or_may_draw(name):
    assert not never_draws_globally(fn.compose()(DRAWING[name]))


def test_functions_as_parts_count():
    body = SILENT["parts and F"]
    assert never_draws_globally(fn.compose(act=F.relu, n=3, nothing=None)(body))
    assert not never_draws_globally(fn.compose(act=F.dropout)(body))
    assert not never_draws_globally(fn.compose(act=lambda x: torch.rand_like(x))(body))
    assert never_draws_globally(fn.Sequential(F.relu)[0])
    assert not never_draws_globally(fn.Sequential(F.dropout)[0])
    assert not never_draws_globally(WRAPPED)
