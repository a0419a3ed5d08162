"""Parametrized layers, and models with parametrized parts and with parameter containers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import funcnet as fn
from tests.cases.case import Case, Input, ints, normal


def by(name: str, layer: tuple[Any, ...], given: Any, note: str = "", /, **kwargs: Any) -> Case:
    """A stock layer with one of torch's own parametrizations; ``layer`` is its class and arguments."""
    kind, *args = layer
    words = ",".join([kind, *map(str, args), *(f"{key}={value}" for key, value in kwargs.items())])
    return Case(
        f"{name}({words}){note}".replace(" ", ""),
        lambda: getattr(parametrizations, name)(getattr(nn, kind)(*args), **kwargs),
        lambda: getattr(fn.parametrize, name)(getattr(fn, kind)(*args), **kwargs),
        (given if isinstance(given, Input) else normal(*given),),
    )


PARAMETRIZED = [
    by("weight_norm", ("Linear", 5, 3), (4, 5)),
    by("weight_norm", ("Linear", 5, 3), (4, 5), dim=None),
    by("weight_norm", ("Linear", 5, 3, False), (5,), dim=1),
    by("weight_norm", ("Conv2d", 4, 6, 3), (2, 4, 5, 5)),
    by("weight_norm", ("Conv1d", 4, 6, 3), (2, 4, 5), dim=1),
    by("weight_norm", ("LayerNorm", 5), (4, 5)),
    by("weight_norm", ("BatchNorm1d", 5), (4, 5), name="weight", dim=None),
    by("spectral_norm", ("Linear", 5, 3), (4, 5)),
    by("spectral_norm", ("Linear", 5, 3), (4, 5), n_power_iterations=3, eps=1e-6, dim=1),
    by("spectral_norm", ("Linear", 5, 3), (4, 5), name="bias"),
    by("spectral_norm", ("Conv2d", 2, 3, 2, 1, 1, 1, 1, True, "circular"), (2, 2, 4, 4)),
    by("spectral_norm", ("Embedding", 7, 3), ints(7, 4, 5)),
    by("orthogonal", ("Linear", 4, 4), (3, 4)),
    by("orthogonal", ("Linear", 5, 3), (4, 5)),
    by("orthogonal", ("Linear", 3, 5), (4, 3), orthogonal_map="matrix_exp"),
    by("orthogonal", ("Linear", 3, 5), (4, 3), orthogonal_map="cayley"),
    by("orthogonal", ("Linear", 5, 3), (4, 5), orthogonal_map="householder", use_trivialization=False),
    by("orthogonal", ("Conv1d", 3, 2, 4), (2, 3, 6)),
]


class Symmetric(nn.Module):
    """A parametrization with an inverse."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu() + weight.triu(1).mT

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight.triu()


class Symmetric_net(fn.Net):  # noqa: N801 - named as the module, whose repr it shares
    def title(self):
        return "Symmetric"

    @staticmethod
    def forward(_, weight):
        return weight.triu() + weight.triu(1).mT

    @staticmethod
    def right_inverse(_, weight):
        return weight.triu()


class Scaled(nn.Module):
    """A parametrization with a parameter and a buffer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((3, 1), 0.5))
        self.register_buffer("reads", torch.zeros(()))

    def forward(self, weight: Tensor) -> Tensor:
        if self.training:
            self.reads = self.reads + 1
        return weight * self.scale


class Scaled_net(fn.Net):  # noqa: N801
    def title(self):
        return "Scaled"

    def parts(self):
        return {"scale": fn.Param((3, 1), 0.5), "reads": fn.Buffer((), 0.0)}

    @staticmethod
    def forward(p, weight):
        if p.training:
            p.reads = p.reads + 1
        return weight * p.scale


def several_modules() -> nn.Module:
    layer = nn.Linear(3, 3)
    parametrize.register_parametrization(layer, "weight", Symmetric())
    parametrize.register_parametrization(layer, "weight", Scaled())
    parametrizations.spectral_norm(layer)
    return parametrizations.weight_norm(layer, "bias")


def several_nets() -> fn.Net:
    layer = fn.parametrize.register_parametrization(fn.Linear(3, 3), "weight", Symmetric_net())
    layer = fn.parametrize.register_parametrization(layer, "weight", Scaled_net())
    return fn.parametrize.weight_norm(fn.parametrize.spectral_norm(layer), "bias")


class Discriminator(nn.Module):
    """Parametrized parts, one of them read twice in a call, and a parametrized tensor of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.randn(4, 4))
        self.layers = nn.Sequential(
            parametrizations.spectral_norm(nn.Conv1d(2, 4, 3)),
            nn.BatchNorm1d(4),
            nn.Sequential(parametrizations.weight_norm(nn.Conv1d(4, 4, 1)), nn.Dropout(0.3)),
        )
        self.head = parametrizations.spectral_norm(nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Any:
        x = self.layers(x).mean(-1) @ self.mix
        return self.head(F.relu(self.head(x))), self.head.weight


@fn.compose(
    mix=fn.Param((4, 4), fn.init.normal()),
    layers=fn.Sequential(
        fn.parametrize.spectral_norm(fn.Conv1d(2, 4, 3)),
        fn.BatchNorm1d(4),
        fn.Sequential(fn.parametrize.weight_norm(fn.Conv1d(4, 4, 1)), fn.Dropout(0.3)),
    ),
    head=fn.parametrize.spectral_norm(fn.Linear(4, 4)),
)
def Discriminator_net(p, x):  # noqa: N802
    x = p.layers(x).mean(-1) @ p.mix
    return p.head(F.relu(p.head(x))), p.head.weight


class Experts(nn.Module):
    """Parameter containers, at the top and below, and one of their owners parametrized."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.ones(3, 2))
        self.weights = nn.ParameterList([nn.Parameter(torch.randn(3, 3)) for _ in range(2)] + [torch.eye(3)])
        self.table = nn.ParameterDict({"b": torch.zeros(3), "a": torch.ones(3), "scale": torch.full((), 0.5)})
        self.nested = nn.ModuleDict({"rows": nn.ParameterList([torch.ones(3)]), "fc": nn.Linear(3, 2)})

    def forward(self, x: Tensor, which: str = "a") -> Any:
        for weight in self.weights:
            x = torch.tanh(x @ weight)
        x = x @ self.weights[-1] + self.weights[0][0] + sum(self.weights[1:])[0] * len(self.weights)
        for name, value in self.table.items():
            x = x + value if name != "scale" else x * value
        x = x + self.table[which] + self.table.get("c", 1.0) + len(self.table) + ("b" in self.table)
        total = sum(value.sum() for value in self.table.values())
        x = x + len(list(self.table.keys())) + len(list(self.table))
        return self.nested["fc"](x) @ self.gate.mT * self.nested["rows"][0], total


@fn.compose(
    gate=fn.Param((3, 2), 1.0),
    weights=fn.ParameterList([fn.Param((3, 3), fn.init.normal())] * 2 + [torch.eye(3)]),
    table=fn.ParameterDict({"b": torch.zeros(3), "a": torch.ones(3), "scale": torch.full((), 0.5)}),
    nested=fn.ModuleDict({"rows": fn.ParameterList([torch.ones(3)]), "fc": fn.Linear(3, 2)}),
)
def Experts_net(p, x, which="a"):  # noqa: N802
    return Experts.forward(p, x, which)  # the very body of the module


PARAMETRIZED_MODELS = [
    Case("several_parametrizations", several_modules, several_nets, (normal(4, 3),)),
    Case("discriminator", Discriminator, lambda: Discriminator_net, (normal(4, 2, 5),), dropout=True),
    Case("experts", Experts, lambda: Experts_net, (normal(4, 3),)),
]
