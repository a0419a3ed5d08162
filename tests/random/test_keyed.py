"""torch's random functions drawn from a Key inside foreign code: the same in every transform, and of the right law."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import funcnet as fn
from tests.helpers import assert_identical, global_generator_untouched, parametrize

X = torch.linspace(0.1, 0.9, 24).view(4, 6)
CALLS = {
    "rand_like": lambda x: torch.rand_like(x) + torch.randn_like(x),
    "rand": lambda x: torch.rand(4, 6),
    "randn": lambda x: torch.randn((4, 6), dtype=torch.float64),
    "randint": lambda x: torch.randint(3, 9, (4, 6)),
    "randint of named": lambda x: torch.randint(high=5, size=(4,), dtype=torch.int32),
    "randperm": lambda x: torch.randperm(7),
    "normal of numbers": lambda x: torch.normal(1.0, 2.0, (4, 6)),
    "normal of tensors": lambda x: torch.normal(x, x),
    "bernoulli": lambda x: torch.bernoulli(x),
    "Tensor.bernoulli": lambda x: x.bernoulli(0.3),
    "multinomial": lambda x: torch.multinomial(x, 3),
    "multinomial again": lambda x: x.multinomial(9, replacement=True),
    "uniform_": lambda x: torch.empty_like(x).uniform_(-1, 1),
    "normal_": lambda x: x.new_empty(4, 6).normal_(2.0, 0.1),
    "bernoulli_": lambda x: x.new_empty(4, 1).bernoulli_(0.7),
    "bernoulli_ of tensor": lambda x: torch.zeros_like(x).bernoulli_(x),
    "exponential_": lambda x: torch.empty_like(x).exponential_(2.0),
    "log_normal_": lambda x: torch.empty_like(x).log_normal_(),
    "cauchy_": lambda x: torch.empty_like(x).cauchy_(1.0, 2.0),
    "geometric_": lambda x: torch.empty_like(x).geometric_(0.3),
    "random_": lambda x: torch.empty_like(x).random_(10),
    "gumbel_softmax": lambda x: F.gumbel_softmax(x, hard=True),
}


class Draws(nn.Module):
    def __init__(self, call):
        super().__init__()
        self.call = call

    def forward(self, x):
        return self.call(x)


@parametrize(name=CALLS)
def test_each_draws_the_module_s_numbers_from_a_seed(name):
    net, _, _ = fn.from_module(Draws(CALLS[name]))
    with global_generator_untouched():
        y, _ = net.apply({}, {}, X, rng=3)
    torch.manual_seed(3)
    assert_identical(y, CALLS[name](X))


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@parametrize(name=CALLS)
def test_each_draws_from_keys_under_vmap_and_compile(name):
    net, _, _ = fn.from_module(Draws(CALLS[name]))
    keys = fn.random.split(fn.random.key(0), 3)
    xs = torch.stack([X, X * 0.5, X.flip(0)])

    def one(x, key):
        return net.apply({}, {}, x, rng=key)[0]

    with global_generator_untouched():
        mapped = torch.vmap(one)(xs, keys)
        looped = torch.stack([one(x, key) for x, key in zip(xs, keys, strict=True)])
    assert_identical(mapped, looped)
    assert looped.dtype == CALLS[name](X).dtype and looped.shape[1:] == CALLS[name](X).shape
    if name != "gumbel_softmax":  # which Dynamo does not take apart
        torch._dynamo.reset()
        assert_identical(torch.compile(one, fullgraph=True, backend="aot_eager")(X, keys[0]), one(X, keys[0]))


MEANS = {
    "randint": (lambda x: torch.randint(3, 9, (90000,)), 5.5),
    "bernoulli": (lambda x: torch.bernoulli(torch.full((90000,), 0.3)), 0.3),
    "bernoulli_": (lambda x: torch.empty(90000).bernoulli_(0.7), 0.7),
    "exponential_": (lambda x: torch.empty(90000).exponential_(2.0), 0.5),
    "geometric_": (lambda x: torch.empty(90000).geometric_(0.25), 4.0),
    "log_normal_": (lambda x: torch.empty(90000).log_normal_(0.0, 0.5), 1.1331),
    "random_": (lambda x: torch.empty(90000).random_(2, 10), 5.5),
    "multinomial": (lambda x: torch.multinomial(torch.tensor([1.0, 2.0, 5.0]), 90000, True), 1.5),
    "multinomial once": (lambda x: torch.multinomial(torch.tensor([[1.0, 3.0]]).expand(90000, 2), 1), 0.75),
}


@parametrize(name=MEANS)
def test_draws_from_a_key_have_the_mean_of_their_law(name):
    call, mean = MEANS[name]
    net, _, _ = fn.from_module(Draws(call))
    y, _ = net.apply({}, {}, X, rng=fn.random.key(1))
    assert y.double().mean().item() == pytest.approx(mean, rel=0.02)
