"""Small modules for the tests of effects, and short forms of what is asked of them."""

from __future__ import annotations

import torch
from torch import nn

import funcnet as fn

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


class Calls(nn.Module):
    """A module that calls a function."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs, **kwargs):
        return self.function(self, *inputs, **kwargs)


def effects_of(function, *inputs, batch_dim=0, train=False, **parts):
    return fn.effects(Calls(function, **parts), *(inputs or (X,)), batch_dim=batch_dim, train=train)


def summarize(report):
    return [(effect.kind, effect.path, effect.code) for effect in report]
