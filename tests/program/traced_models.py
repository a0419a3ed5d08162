"""Modules that the tests of trace write down, and the comparison of a trace with its module."""

from __future__ import annotations

import copy
import dataclasses
import enum
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import Tensor, nn

import funcnet as fn
from tests.cases.models import MODEL_CASES
from tests.helpers import assert_identical, buffers_of, clone, global_generator_untouched, total

X = torch.linspace(-1, 1, 24).view(4, 6)


class Pair(NamedTuple):
    left: Any
    right: Any


@dataclasses.dataclass
class Result:
    out: Tensor
    kept: list[Tensor]
    note: str = "none"


class Side(enum.Enum):
    LEFT = 1
    RIGHT = 2


class Everything(nn.Module):
    """In place on inputs and buffers, attributes, draws of several kinds, ties, hooks, containers, grad modes."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.1, 1, 6))
        self.register_parameter("nothing", None)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("table", torch.arange(6.0), persistent=False)
        self.register_buffer("window", torch.zeros(2, 6))
        self.fc = nn.Linear(6, 6)
        self.act = nn.ReLU(inplace=True)
        self.bn = nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 6)
        self.head.weight = self.fc.weight
        self.drop = nn.Dropout(0.2)
        self.calls = 0
        self.fc.register_forward_hook(lambda module, args, output: output + 1)

    def forward(self, x, *, gain=1.0, side=Side.LEFT):
        self.calls += 1
        x += self.calls
        self.seen += x.shape[0]
        self.table = self.table + 1
        x = self.drop(self.act(self.bn(self.fc(x)))) * self.scale
        if self.training:
            x = x + torch.rand(6) + torch.zeros(6).normal_()
        with torch.no_grad():
            self.window[1:] = x.mean(0)
            self.window[0].mul_(2).add_(1)
        x[:, 0] = 0.5
        x = F.dropout(x, 0.2, self.training, inplace=True)
        x = x + self.table if side is Side.LEFT else x - self.table
        return {"out": self.head(x) * gain, "calls": self.calls, "pair": Pair(x, (self.scale, None))}


class Deep(nn.Module):
    def __init__(self, depth: int = 25) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 6) for _ in range(depth)])
        self.norms = nn.ModuleList([nn.LayerNorm(6) for _ in range(depth)])

    def forward(self, x):
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = x + F.relu(layer(norm(x)))
        return x


def convolutions() -> nn.Module:
    blocks = [nn.Sequential(nn.Conv2d(c, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(True)) for c in (1, 4, 4)]
    return nn.Sequential(*blocks, nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.2), nn.Linear(16, 3))


def encoder() -> nn.Module:
    return nn.TransformerEncoderLayer(6, 2, 12, dropout=0.1, batch_first=True)


def recurrent() -> nn.Module:
    return nn.LSTM(6, 5, 2, batch_first=True, bidirectional=True)


class Refused(nn.Module):
    TABLE = torch.ones(6)

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.fc = nn.Linear(6, 6)
        self.plain = torch.ones(6)

    def forward(self, x):
        if self.how == "branch":
            if x.sum() > 0:
                return x
        elif self.how == "print":
            print("x", end="")
        elif self.how == "attribute":
            return x + self.plain
        elif self.how == "checkpoint":
            return torch.utils.checkpoint.checkpoint(self.fc, x, use_reentrant=False)
        elif self.how == "item":
            return [x] * int(x.argmax())
        elif self.how == "object":
            return Opaque(x)
        return self.fc(x)


class Opaque:
    def __init__(self, x):
        self.x = x


MODELS = {
    **{case.name: (case.module, case.inputs()) for case in MODEL_CASES if case.name != "empty"},
    "everything": (Everything, [X]),
    "deep": (Deep, [X]),
    "convolutions": (convolutions, [torch.linspace(-1, 1, 64).view(4, 1, 4, 4)]),
    "encoder": (encoder, [torch.linspace(-1, 1, 72).view(4, 3, 6)]),
    "recurrent": (recurrent, [torch.linspace(-1, 1, 72).view(4, 3, 6)]),
}


def check(module, net, params, buffers, xs, train, **kwargs) -> None:
    """Outputs, new buffers and gradients of a trace are those of the module; nothing given is written to."""
    given = clone((params, buffers, xs))
    with global_generator_untouched():
        y, new = net.apply(params, buffers, *xs, train=train, rng=7, **kwargs)
        _, grads = fn.value_and_grad(lambda p: total(net.apply(p, buffers, *xs, train=train, rng=7, **kwargs)[0]))(
            params
        )
    assert_identical((params, buffers, xs), given)
    module = copy.deepcopy(module).train(train)
    torch.manual_seed(7)
    expected = module(*clone(xs), **kwargs)
    assert_identical(y, expected)
    assert_identical(new, buffers_of(module))
    total(expected).backward()
    held = {name: param.grad for name, param in module.named_parameters() if param.grad is not None}
    flat = fn.tree.flatten(grads)
    assert_identical({name: flat[name] for name in held}, held)
