"""The models of the comparison, each written twice: as an nn.Module, and as parts with a function that uses them.

Readers see both programs, so they are written as a user writes them: without annotations, and narrow enough to stand
side by side.
"""
# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# fmt: off

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import nn

import funcnet as fn


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, 128),
            nn.ReLU(),
            nn.Linear(128, 10),
        )

    def forward(self, x):
        return self.layers(x)


@fn.compose(
    layers=fn.Sequential(
        fn.Flatten(),
        fn.Linear(64, 128),
        fn.ReLU(),
        fn.Linear(128, 10),
    )
)
def mlp(p, x):
    return p.layers(x)


class LayeredMLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Linear(64, 64) for _ in range(3)
        )
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        x = x.flatten(1)
        outputs = []
        for layer in self.layers:
            x = F.relu(layer(x))
            outputs.append(x)
        return self.head(x), outputs


@fn.compose(
    layers=fn.ModuleList(
        fn.Linear(64, 64) for _ in range(3)
    ),
    head=fn.Linear(64, 10),
)
def layered_mlp(p, x):
    x = x.flatten(1)
    outputs = []
    for layer in p.layers:
        x = F.relu(layer(x))
        outputs.append(x)
    return p.head(x), outputs


class MyModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 3)
        self.conv2 = nn.Conv2d(20, 20, 3)
        self.head = nn.Linear(320, 10)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x))
        return self.head(x.flatten(1))


@fn.compose(
    conv1=fn.Conv2d(1, 20, 3),
    conv2=fn.Conv2d(20, 20, 3),
    head=fn.Linear(320, 10),
)
def my_model(p, x):
    x = F.relu(p.conv1(x))
    x = F.relu(p.conv2(x))
    return p.head(x.flatten(1))


class NormedModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 20, 3)
        self.bn = nn.BatchNorm2d(20)
        self.drop = nn.Dropout(0.25)
        self.head = nn.Linear(720, 10)

    def forward(self, x):
        x = F.relu(self.bn(self.conv(x)))
        x = self.drop(x.flatten(1))
        return self.head(x)


@fn.compose(
    conv=fn.Conv2d(1, 20, 3),
    bn=fn.BatchNorm2d(20),
    drop=fn.Dropout(0.25),
    head=fn.Linear(720, 10),
)
def normed_model(p, x):
    x = F.relu(p.bn(p.conv(x)))
    x = p.drop(x.flatten(1))
    return p.head(x)


class Pair(NamedTuple):
    """One model in both forms. Their parts have the same names, so their states have the same keys."""

    name: str
    title: str
    module: type[nn.Module]
    net: fn.Net


PAIRS = {
    pair.name: pair
    for pair in (
        Pair("sequential", "Sequential", MLP, mlp),
        Pair("modulelist", "ModuleList", LayeredMLP, layered_mlp),
        Pair("conv", "Two convolutions", MyModel, my_model),
        Pair("batchnorm", "BatchNorm, Dropout", NormedModel, normed_model),
    )
}
