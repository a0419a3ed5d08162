"""Models, each written both ways."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funcnet as fn
from tests.cases.case import Case, normal


class TwoConvs(nn.Module):
    """The articles' custom model."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3)
        self.conv2 = nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(F.relu(self.conv1(x))))


@fn.compose(conv1=fn.Conv2d(1, 4, 3), conv2=fn.Conv2d(4, 4, 3))
def two_convs(p, x):
    return F.relu(p.conv2(F.relu(p.conv1(x))))


class Branches(nn.Module):
    """ModuleList, ModuleDict, a part used twice, own tensors, Python branches, dropout by module and by function."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("shift", torch.zeros(6), persistent=False)
        self.layers = nn.ModuleList([nn.Linear(6, 6) for _ in range(3)])
        self.heads = nn.ModuleDict({"a": nn.Linear(6, 2), "b": nn.Linear(6, 3)})
        self.norm = nn.BatchNorm1d(6)
        self.drop = nn.Dropout(0.3)

    def forward(self, x: Tensor, head: str = "a") -> Any:
        kept = []
        for index, layer in enumerate(self.layers):
            x = F.relu(layer(x)) if index else torch.tanh(layer(x))
            x = self.drop(self.norm(x)) + self.shift
            kept.append(x)
        if self.training:
            self.steps = self.steps + 1
        x = F.dropout(x * self.scale, 0.2, self.training)
        return {"out": self.heads[head](x), "kept": kept, "tied": F.linear(x, self.layers[0].weight)}


@fn.compose(
    scale=fn.Param(6, 1.0),
    steps=fn.Buffer((), 0, dtype=torch.int64),
    shift=fn.Buffer(6, 0.0, persistent=False),
    layers=fn.ModuleList([fn.Linear(6, 6) for _ in range(3)]),
    heads=fn.ModuleDict({"a": fn.Linear(6, 2), "b": fn.Linear(6, 3)}),
    norm=fn.BatchNorm1d(6),
    drop=fn.Dropout(0.3),
)
def Branches_net(p, x, head="a"):  # noqa: N802 - named as the module, whose repr it shares
    kept = []
    for index, layer in enumerate(p.layers):
        x = F.relu(layer(x)) if index else torch.tanh(layer(x))
        x = p.drop(p.norm(x)) + p.shift
        kept.append(x)
    if p.training:
        p.steps = p.steps + 1
    x = F.dropout(x * p.scale, 0.2, p.training)
    return {"out": p.heads[head](x), "kept": kept, "tied": F.linear(x, p.layers[0].weight)}


def mlp(make: Any) -> Any:
    return make.Sequential(make.Linear(6, 8), make.ReLU(), make.Linear(8, 3))


def named(make: Any) -> Any:
    return make.Sequential(OrderedDict(fc1=make.Linear(6, 8), act=make.Tanh(), fc2=make.Linear(8, 3)))


def nested(make: Any) -> Any:
    blocks = [
        make.Sequential(make.Conv2d(c, 4, 3, padding=1), make.BatchNorm2d(4, affine=c == 1), make.ReLU(True))
        for c in (1, 4)
    ]
    return make.Sequential(*blocks, make.Dropout2d(0.2), make.Flatten(), make.Dropout(0.5), make.Linear(4 * 16, 3))


MODEL_CASES = [
    Case("mlp", lambda: mlp(nn), lambda: mlp(fn), (normal(4, 6),)),
    Case("named", lambda: named(nn), lambda: named(fn), (normal(4, 6),)),
    Case("nested", lambda: nested(nn), lambda: nested(fn), (normal(4, 1, 4, 4),), dropout=True),
    Case("empty", lambda: nn.Sequential(), lambda: fn.Sequential(), (normal(4, 6),)),
    Case("two_convs", TwoConvs, lambda: two_convs, (normal(2, 1, 8, 8),)),
    Case("branches", Branches, lambda: Branches_net, (normal(4, 6),), dropout=True),
]
