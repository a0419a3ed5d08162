"""What the tests of foreign modules share: an input, a module, and the comparison of a net with it."""

from __future__ import annotations

import copy

import torch
from torch import nn

import funcnet as fn
from tests.helpers import assert_identical, buffers_of, clone, global_generator_untouched

X = torch.linspace(-1, 1, 24).view(4, 6)


def detached(output):
    return {key: value.detach() for key, value in output.items()} if isinstance(output, dict) else output.detach()


def assert_same_as_module(module, *inputs, train=False, rng=None, **kwargs):
    """Three calls of the net, each with the module's bits; nothing given is changed."""
    net, params, buffers = fn.from_module(module)
    given = clone((params, buffers, inputs))
    fresh = copy.deepcopy(module).train(train)
    torch.manual_seed(rng or 0)
    expected = fresh(*clone(inputs), **clone(kwargs))
    leaves = fn.tree.map(
        lambda leaf: leaf.clone().requires_grad_(), params
    )  # as they do in the module: see the limits in the guide
    for _ in range(3):
        with global_generator_untouched():
            output, new = net.apply(leaves, buffers, *inputs, train=train, rng=rng, **kwargs)
        assert_identical(detached(output), detached(expected))
        assert_identical(fn.tree.map(torch.Tensor.detach, new), buffers_of(fresh))
    assert_identical((params, buffers, inputs), given)
    return net, params, buffers


class Coder(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.up, self.drop = nn.Linear(6, 3), nn.Linear(3, 6), nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros(()))

    def encode(self, x, *, gain=1.0):
        self.calls += 1
        return self.drop(self.down(x)) * gain

    def forward(self, x):
        return self.up(self.encode(x))
