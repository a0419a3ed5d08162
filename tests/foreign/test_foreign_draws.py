"""Where the draws of foreign forwards come from: a key by path, a seed, and the generators of Python and NumPy."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import funcnet as fn
from tests.foreign.helpers import X, assert_same_as_module
from tests.helpers import assert_identical, global_generator_untouched, parametrize


def block(drops):
    return nn.Sequential(*(nn.Dropout(0.5) for _ in range(drops)))


class Drops(nn.Module):
    def __init__(self, first):
        super().__init__()
        self.first, self.last = block(first), block(1)

    def forward(self, x):
        return self.first(x), self.last(x)


def test_draws_from_a_key_depend_on_the_path_of_what_draws():
    key = fn.random.key(1)
    outputs = []
    for count in (1, 3):
        net, params, buffers = fn.from_module(Drops(count))
        outputs.append(net.apply(params, buffers, X, train=True, rng=key)[0])
    assert_identical(outputs[0][1], outputs[1][1])  # a layer more elsewhere reshuffles nothing
    assert not torch.equal(outputs[0][0], outputs[1][0])
    composed = fn.compose(first=fn.Sequential(fn.Dropout(0.5)), last=fn.Sequential(fn.Dropout(0.5)))(
        lambda p, x: (p.first(x), p.last(x))
    )
    assert_identical(composed.apply({}, {}, X, train=True, rng=key)[0], outputs[0])  # and a net's own draws are these
    net, params, buffers = fn.from_module(Drops(1))
    for wrapped in (nn.Sequential(nn.ReLU(), Drops(1)), Drops(1)):
        net, params, buffers = fn.from_module(wrapped)
        torch._dynamo.reset()
        call = torch.compile(net.apply, fullgraph=True, backend="aot_eager")
        eager, _ = net.apply(params, buffers, X, train=True, rng=key)
        assert_identical(call(params, buffers, X, train=True, rng=key)[0], eager)


class DrawsEverywhere(nn.Module):
    """Dropout modules, functions that draw, kernels that draw inside, and a draw in eval mode too."""

    def __init__(self):
        super().__init__()
        self.drop, self.features = nn.Dropout(0.4), nn.AlphaDropout(0.3, inplace=True)
        self.attend = nn.MultiheadAttention(6, 2, dropout=0.3, batch_first=True)
        self.lstm = nn.LSTM(6, 6, num_layers=2, dropout=0.4)
        self.inner = nn.Sequential(nn.Dropout1d(0.5), nn.Linear(6, 6))

    def forward(self, x):
        x = F.dropout(self.drop(x), 0.2, self.training) + self.drop.forward(x)
        x = self.attend(x[None], x[None], x[None])[0][0] + torch.rand_like(x)
        q = self.inner(self.features(x))[None]
        return self.lstm(F.scaled_dot_product_attention(q, q, q, dropout_p=0.2 * self.training))[0][0]


@parametrize(alone=[False, True], train=[False, True])
def test_a_seed_gives_the_draws_of_the_module_in_one_thread_or_several(alone, train, monkeypatch):
    monkeypatch.setattr("funcnet.core._global_draws.is_only_drawer", lambda: alone)
    assert_same_as_module(DrawsEverywhere(), X, train=train, rng=5)
    mixed = nn.Sequential(nn.Dropout(0.3), DrawsEverywhere(), nn.Dropout(0.3), nn.Linear(6, 2), DrawsIfLarge())
    assert_same_as_module(mixed, X, train=train, rng=6)  # draws of the net's own and of foreign forwards take turns


class DrawsIfLarge(nn.Module):
    def forward(self, x):
        if x.sum() > 1000:
            raise ValueError("large")
        return x + torch.randn(2)


def test_the_global_generator_is_given_back_by_a_call_that_fails(monkeypatch):
    net, params, buffers = fn.from_module(nn.Sequential(DrawsIfLarge()))
    for alone in (False, True):
        monkeypatch.setattr("funcnet.core._global_draws.is_only_drawer", lambda alone=alone: alone)
        with global_generator_untouched(), pytest.raises(ValueError, match="large"):
            net.apply(params, buffers, torch.full((4, 2), 1e4), rng=0)


def test_draws_from_a_key_are_the_same_in_every_call():
    module = DrawsEverywhere()
    module.lstm = nn.Unflatten(0, (1, 1))  # an LSTM is not mapped
    net, params, buffers = fn.from_module(module)
    key = fn.random.key(3)
    with global_generator_untouched():
        first = net.apply(params, buffers, X, train=True, rng=key)[0]  # finds out where it draws
        for _ in range(3):
            assert_identical(net.apply(params, buffers, X, train=True, rng=key)[0], first)
        other = net.apply(params, buffers, X, train=True, rng=fn.random.key(4))[0]
    assert not torch.equal(other, first)
    mapped = torch.vmap(lambda x: net.apply(params, buffers, x, train=True, rng=key)[0])(torch.stack([X, X]))
    torch.testing.assert_close(mapped, torch.stack([first, first]))


def test_a_draw_that_only_some_calls_make_is_from_the_key_too():
    class Sometimes(nn.Module):
        def __init__(self):
            super().__init__()
            self.always, self.rarely = nn.Sequential(DrawsIfLarge()), DrawsIfLarge()

        def forward(self, x):
            return self.rarely(self.always(x)) if x.sum() > 0 else self.always(x)

    net, params, buffers = fn.from_module(Sometimes())
    fresh, _, _ = fn.from_module(Sometimes())
    key, low, high = fn.random.key(0), -torch.ones(3, 2), torch.ones(3, 2)
    with global_generator_untouched():
        for x in (low, low, high, low, high):
            assert_identical(net.apply(params, buffers, x, rng=key)[0], fresh.apply(params, buffers, x, rng=key)[0])
            fresh, _, _ = fn.from_module(Sometimes())


def test_checkpointed_parts_draw_the_module_s_numbers_again_in_one_thread(monkeypatch):
    monkeypatch.setattr("funcnet.core._global_draws.is_only_drawer", lambda: True)

    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5), nn.Tanh())

        def forward(self, x):
            return checkpoint(self.block, x, use_reentrant=False)

    module = Checkpointed()
    net, params, buffers = fn.from_module(module)
    torch.manual_seed(2)
    module(X).sum().backward()
    with global_generator_untouched():
        grads = fn.value_and_grad(lambda params: net.apply(params, buffers, X, train=True, rng=2)[0].sum())(params)[1]
    assert_identical(fn.tree.flatten(grads), {name: param.grad for name, param in module.named_parameters()})


def test_a_forward_that_seeds_the_global_generator_has_the_bits_of_a_seed_and_no_key():
    class Seeds(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 6)

        def forward(self, x):
            x = F.dropout(self.fc(x), 0.5, self.training)
            torch.manual_seed(3)
            return x + torch.rand(6)

    net, params, buffers = assert_same_as_module(Seeds(), X, train=True, rng=5)
    for _ in range(2):
        with global_generator_untouched(), pytest.raises(fn.RandomnessError, match="or seeds it"):
            net.apply(params, buffers, X, train=True, rng=fn.random.key(5))


class DropsLayers(nn.Module):
    """Layer drop and masks as speech models make them: from the generators of Python and NumPy, seldom in eval."""

    def __init__(self, always=False):
        super().__init__()
        self.fc, self.always = nn.Linear(6, 6), always

    def forward(self, x):
        chance = random.uniform(0, 1)  # drawn in eval too, to no effect
        if self.training or self.always:
            x = x * np.random.rand() + chance
        return F.dropout(self.fc(x), 0.2, self.training)


def test_draws_from_python_and_numpy_are_those_of_the_seed_and_move_nothing():
    module = DropsLayers()
    net, params, buffers = fn.from_module(module)

    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), np.random.get_state()[2]

    before = states()
    for rng in (5, fn.random.key(5)):
        outputs = [net.apply(params, buffers, X, train=True, rng=rng)[0] for _ in range(3)]
        assert_identical(outputs[1:], outputs[:1] * 2)
    assert not torch.equal(net.apply(params, buffers, X, train=True, rng=6)[0], outputs[0])
    assert_identical(net(params, X), F.linear(X, **params["fc"]))
    assert states() == before
    seeded = net.apply(params, buffers, X, train=True, rng=5)[0]
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    assert_identical(seeded, module(X).detach())


def test_draws_from_python_and_numpy_need_an_rng_where_they_matter_and_are_refused_under_vmap():
    net, params, buffers = fn.from_module(DropsLayers(always=True))
    with pytest.raises(fn.RandomnessError, match="global generator of Python or NumPy and rng is None"):
        net(params, X)
    with pytest.raises(fn.RandomnessError, match="not under vmap"):
        torch.vmap(lambda x: net.apply(params, buffers, x, rng=fn.random.key(0))[0])(X)


def test_batch_norm_in_training_is_mapped_with_shared_buffers():
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.norm = nn.Linear(6, 6), nn.BatchNorm1d(6)
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x):
            self.seen += x.sum()
            return self.norm(self.fc(x))

    net, params, buffers = fn.from_module(Normed())
    xs = torch.stack([X, 2 * X, X + 1])
    outputs, new = torch.vmap(lambda x: net.apply(params, buffers, x, train=True))(xs)
    for index, x in enumerate(xs):
        output, alone = net.apply(params, buffers, x, train=True)
        torch.testing.assert_close(outputs[index], output)
        torch.testing.assert_close(fn.tree.map(lambda leaf, index=index: leaf[index], new), alone)
    ensemble = fn.tree.map(lambda leaf: torch.stack([leaf, 2 * leaf]), params)
    grads = torch.vmap(torch.func.grad(lambda params: net.apply(params, buffers, X, train=True)[0].pow(3).sum()))(
        ensemble
    )
    assert grads["fc"]["weight"].shape == (2, 6, 6)
