"""Other nets in the place of parts of a foreign module."""

from __future__ import annotations

import torch
from torch import nn

import funcnet as fn
from tests.helpers import assert_identical


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.fc = nn.BatchNorm1d(4), nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(self.norm(x))


class Model(nn.Module):
    """A forward that reaches its parts in more ways than one."""

    def __init__(self):
        super().__init__()
        self.block, self.act = Block(), nn.ReLU()
        self.norms = [self.block.norm]
        self.run = lambda x: self.act(x)

    def forward(self, x):
        return self.run(self.norms[0](self.block(x)))


def test_a_part_is_replaced_wherever_the_module_refers_to_it():
    torch.manual_seed(0)
    module = Model()
    net, params, buffers = fn.from_module(module)
    changed = net.replaced({"block.norm": fn.BatchNorm1d(4, momentum=0.5), "act": fn.Tanh()})
    x = torch.randn(6, 4)
    y, new_buffers = changed.apply(params, buffers, x, train=True)
    untouched = net.apply(params, buffers, x, train=True)
    module.block.norm.momentum, module.act = 0.5, nn.Tanh()
    assert_identical(y, module.train()(x).detach())
    assert_identical(fn.tree.flatten(new_buffers), dict(module.named_buffers()))
    assert not torch.equal(untouched[0], y)
    back = fn.to_module(changed, params, buffers)
    assert repr(back) == repr(module)
