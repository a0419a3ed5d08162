"""What a foreign forward draws under vmap: numbers for each example from its Key, or an error with the path."""

from __future__ import annotations

import pytest
import torch
import torch.distributions as D
from torch import nn
from torch.func import grad, vmap

import funcnet as fn
from tests.helpers import assert_identical

X = torch.linspace(0.1, 1, 12).view(4, 3)
KEYS = fn.random.split(fn.random.key(5), 4)


def drawing(function):
    class Draws(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(3, 3)

        def forward(self, x):
            return function(self.lin(x).sigmoid())

    torch.manual_seed(0)
    return nn.ModuleDict({"part": Draws()})["part"]


def fill_out(x):
    out = torch.empty(3)
    torch.randn(3, out=out)
    return x + out


WORKING = {
    "empty": lambda x: x + torch.empty(3).uniform_(),
    "empty_like": lambda x: x + torch.empty_like(x).exponential_(),
    "new_empty": lambda x: x + x.new_empty(3).normal_(),
    "new": lambda x: x + x.new(3).cauchy_(),
    "out": fill_out,
    "randint_like": lambda x: x + torch.randint_like(x, 9),
    "randperm": lambda x: x[..., torch.randperm(3)],
    "multinomial": lambda x: x + torch.multinomial(x, 2).sum(-1, keepdim=True),
    "Normal": lambda x: D.Normal(x, 1.0).rsample(),
    "Normal.sample": lambda x: D.Normal(x, 1.0).sample() + x,
    "Bernoulli": lambda x: D.Bernoulli(x).sample() * x,
    "Categorical": lambda x: x + D.Categorical(logits=x).sample(),
    "Exponential": lambda x: D.Exponential(x).rsample(),
    "Laplace": lambda x: D.Laplace(x, 1.0).rsample(),
    "Uniform": lambda x: D.Uniform(x - 1, x).rsample(),
    "Gumbel": lambda x: D.Gumbel(x, 1.0).rsample(),
    "LogNormal": lambda x: D.LogNormal(x, 1.0).rsample(),
    "MultivariateNormal": lambda x: D.MultivariateNormal(x, torch.eye(3)).rsample(),
    "RelaxedBernoulli": lambda x: D.RelaxedBernoulli(torch.tensor(1.0), probs=x).rsample(),
}


@pytest.mark.parametrize("name", WORKING)
def test_each_example_draws_from_its_own_key(name):
    net, params, buffers = fn.from_module(drawing(WORKING[name]))

    def call(key, x):
        return net.apply(params, buffers, x, rng=key)[0]

    each = vmap(call)(KEYS, X)
    torch.testing.assert_close(each, torch.stack(list(map(call, KEYS, X))))
    assert not torch.equal(each[0] - each[1], X[0] - X[1])
    grads = vmap(grad(lambda p, key, x: net.apply(p, buffers, x, rng=key)[0].sum()), (None, 0, 0))(params, KEYS, X)
    assert all(leaf.isfinite().all() for leaf in fn.tree.flatten(grads).values())


@pytest.mark.parametrize("name", WORKING)
def test_one_key_draws_the_same_for_all_examples(name):
    net, params, buffers = fn.from_module(drawing(WORKING[name]))
    key = fn.random.key(3)
    each = vmap(lambda x: net.apply(params, buffers, x, rng=key)[0])(X)
    torch.testing.assert_close(each, torch.stack([net.apply(params, buffers, x, rng=key)[0] for x in X]))


REFUSED = {
    "zeros": (lambda x: x + torch.zeros(3).normal_(), r"Draws has draws that differ from one example to the next"),
    "Gamma": (lambda x: D.Gamma(x, x).rsample(), r"Draws calls torch's _standard_gamma, which draws inside its kernel"),
    "Poisson": (
        lambda x: D.Poisson(x).sample(),
        r"Draws draws by torch's poisson, which cannot draw from a Key under vmap",
    ),
    "Dirichlet": (lambda x: D.Dirichlet(x).rsample(), r"Draws: the code calls a torch.autograd.Function without"),
    "Binomial": (lambda x: D.Binomial(5, x).sample(), r"Draws calls torch's binomial, which draws inside its kernel"),
    "generator": (
        lambda x: x + torch.rand(3, generator=torch.Generator().manual_seed(3)),
        r"Draws: the code has a random operation from a generator of its own",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_drawn_under_vmap_is_an_error_with_path_and_way_out(name):
    function, message = REFUSED[name]
    net, params, buffers = fn.from_module(drawing(function))
    with pytest.raises(fn.TransformError, match=message):
        vmap(lambda key, x: net.apply(params, buffers, x, rng=key)[0])(KEYS, X)


def test_draws_into_out_come_from_the_key_in_eager_calls():
    net, params, buffers = fn.from_module(drawing(fill_out))
    key = fn.random.key(0)
    expected, _, _ = fn.from_module(drawing(lambda x: x + torch.randn(3)))
    assert_identical(net.apply(params, buffers, X, rng=key)[0], expected.apply(params, buffers, X, rng=key)[0])


class Forks(nn.Module):
    def __init__(self, seed):
        super().__init__()
        self.lin, self.seed = nn.Linear(3, 3), seed

    def forward(self, x):
        with torch.random.fork_rng(devices=[]):
            if self.seed is not None:
                torch.manual_seed(self.seed)
            return self.lin(x) + torch.rand(3)


def test_draws_within_fork_rng_come_from_the_rng_of_the_call():
    net, params, buffers = fn.from_module(Forks(None))
    with pytest.raises(fn.RandomnessError, match="rng is None"):
        net.apply(params, buffers, X)
    first, second = (net.apply(params, buffers, X, rng=fn.random.key(seed))[0] for seed in (0, 1))
    assert not torch.equal(first, second)
    torch.manual_seed(9)
    assert_identical(net.apply(params, buffers, X, rng=fn.random.key(0))[0], first)


def test_a_seed_within_fork_rng_decides_what_is_drawn():
    module = Forks(3)
    net, params, buffers = fn.from_module(module)
    assert_identical(net.apply(params, buffers, X)[0], module(X).detach())
