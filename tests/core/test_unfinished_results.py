"""A body that returns a generator has not run when its call is over, so nothing of it could be checked."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import funcnet as fn

X = torch.ones(4, 3)


class Steps(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(3), nn.Dropout(0.5)

    def forward(self, x):
        for _ in range(2):
            x = self.drop(self.norm(x))
            yield x


class Maps(Steps):
    def forward(self, x):
        return x, map(self.norm, [x])


class Collects(Steps):
    def forward(self, x):
        return list(super().forward(x))


@fn.compose(norm=fn.BatchNorm1d(3), drop=fn.Dropout(0.5))
def steps(p, x):
    for _ in range(2):
        x = p.drop(p.norm(x))
        yield x


@fn.compose(norm=fn.BatchNorm1d(3))
def filtered(p, x):
    return [filter(None, [p.norm(x)])]


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("net", [fn.from_module(Steps())[0], fn.from_module(Maps())[0], steps, filtered])
def test_a_generator_is_refused(net, train):
    params, buffers = steps.init(0)
    with pytest.raises(fn.PurityError, match=r"returned a (generator|map|filter), .* Return a list"):
        net.apply(params, buffers, X, train=train, rng=fn.random.key(0))


def test_one_within_a_call_runs():
    net, params, buffers = fn.from_module(Collects())
    outputs, new_buffers = net.apply(params, buffers, X, train=True, rng=fn.random.key(0))
    assert len(outputs) == 2
    assert new_buffers["norm"]["num_batches_tracked"] == 2


def test_effects_say_that_they_did_not_see_it():
    report = fn.effects(Steps(), X, train=True)
    assert "what the generator that the call returned does when it is read" in str(report)
