"""torch's alpha dropouts and rrelu inside foreign code: any rng, every transform."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import funcnet as fn
from tests.helpers import assert_identical, global_generator_untouched, parametrize

X = torch.linspace(-2, 2, 120).view(4, 10, 3)
CALLS = {
    "F.alpha_dropout": lambda x: F.alpha_dropout(x, 0.4, True),
    "F.alpha_dropout in place": lambda x: F.alpha_dropout(x * 1, 0.4, training=True, inplace=True),
    "F.feature_alpha_dropout": lambda x: F.feature_alpha_dropout(x, 0.4, True),
    "F.rrelu": lambda x: F.rrelu(x, training=True),
    "F.rrelu in place": lambda x: F.rrelu(x * 1, 0.1, 0.9, True, True),
    "torch.alpha_dropout": lambda x: torch.alpha_dropout(x, 0.4, True),
    "torch.alpha_dropout_": lambda x: torch.alpha_dropout_(x * 1, 0.4, train=True),
    "torch.feature_alpha_dropout": lambda x: torch.feature_alpha_dropout(x, 0.4, True),
    "torch.feature_dropout": lambda x: torch.feature_dropout(x, 0.4, True),
    "torch.rrelu": lambda x: torch.rrelu(x, training=True),
    "torch.rrelu_": lambda x: torch.rrelu_(x * 1, 0.1, 0.9, True),
    "not in training": lambda x: F.alpha_dropout(x, 0.4) + F.feature_alpha_dropout(x, 0.4) + F.rrelu(x),
}


class Foreign(nn.Module):
    """A module funcnet knows nothing of."""

    def __init__(self, call):
        super().__init__()
        self.call = call
        self.fc = nn.Linear(3, 3)

    def forward(self, x):
        return self.call(self.fc(x))


@parametrize(name=CALLS)
def test_they_draw_what_the_module_draws_from_a_seed(name):
    module = Foreign(CALLS[name])
    net, params, buffers = fn.from_module(module)
    with global_generator_untouched():
        y, _ = net.apply(params, buffers, X, train=True, rng=3)
    torch.manual_seed(3)
    assert_identical(y, module(X))


@parametrize(name=CALLS)
def test_they_draw_from_keys_under_vmap_gradients_and_compile(name):
    net, params, buffers = fn.from_module(Foreign(CALLS[name]))
    keys = fn.random.split(fn.random.key(0), 3)

    def loss(params, key, x):
        return net.apply(params, buffers, x, train=True, rng=key)[0].square().sum()

    grad = torch.func.grad(loss)
    xs = torch.stack([X, X + 1, X + 2])
    mapped = torch.vmap(grad, in_dims=(None, 0, 0))(params, keys, xs)
    for index, key in enumerate(keys):
        alone = grad(params, key, xs[index])
        torch.testing.assert_close(fn.tree.map(lambda leaf, index=index: leaf[index], mapped), alone)
    assert (loss(params, keys[0], X) == loss(params, keys[1], X)) == (name == "not in training")
    if name.endswith("_"):
        return  # torch.compile shows these to nobody
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    with global_generator_untouched():
        torch.testing.assert_close(compiled(params, keys[0], X), loss(params, keys[0], X))


def test_a_generator_that_the_code_brings_is_used():
    @fn.compose()
    def net(p, x):
        return torch.rrelu(x, 0.1, 0.9, True, generator=torch.Generator().manual_seed(5))

    torch.manual_seed(5)
    assert_identical(net.apply({}, {}, X, rng=0)[0], torch.rrelu(X, 0.1, 0.9, True))


def test_arguments_out_of_range_and_a_missing_rng_are_refused():
    for rule in (fn.random.alpha_dropout, fn.random.feature_alpha_dropout):
        assert rule(X, 0.5, False, rng=None) is X
        with pytest.raises(fn.RandomnessError, match="rng is None"):
            rule(X, 0.5, rng=None)
        with pytest.raises(ValueError, match=r"between 0 and 1, but got 1\.5"):
            rule(X, 1.5, rng=0)
    with pytest.raises(fn.RandomnessError, match="rng is None"):
        fn.random.rrelu(X, training=True, rng=None)
    with pytest.raises(ValueError, match="lower is at most upper"):
        fn.random.rrelu(X, 0.3, 0.1, rng=None)
