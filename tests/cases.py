"""The one table of cases: a module, its net and an input in each row; every promise is tested on every row."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funcnet as fn


@dataclass(frozen=True)
class Case:
    """A module and the net that must be its equal."""

    name: str
    module: Callable[[], nn.Module]
    net: Callable[[], fn.Net]
    shapes: tuple[tuple[int, ...], ...]
    ints: int = 0  # inputs are ints below this
    channels_last: bool = False
    compiles: bool = True
    dropout: bool = False

    def inputs(self, dtype: torch.dtype = torch.float32, seed: int = 0, examples: int | None = None) -> list[Tensor]:
        """Inputs made from a private generator; with ``examples``, that many stacked in front."""
        generator = torch.Generator().manual_seed(seed)
        made = []
        for shape in self.shapes:
            shape = shape if examples is None else (examples, *shape)
            if self.ints:
                made.append(torch.randint(self.ints, shape, generator=generator))
            else:
                made.append(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype))
        if self.channels_last and examples is None:
            made = [x.to(memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d) for x in made]
        return made


def layer(name: str, /, *args: Any, shape: Any, other: Any = None, **kwargs: Any) -> Case:
    """A stock layer: the same call on torch.nn and on funcnet."""
    options = {key: kwargs.pop(key) for key in ("ints", "channels_last", "dropout") if key in kwargs}
    words = [*(str(arg) for arg in args), *(f"{key}={value}" for key, value in kwargs.items())]
    flags = [key for key in ("channels_last",) if options.get(key)]
    label = f"{name}({','.join(words)}){'x'.join(str(size) for size in shape)}{''.join(flags)}".replace(" ", "")
    shapes = (shape,) if other is None else (shape, other)
    return Case(
        label,
        lambda: getattr(nn, name)(*args, **kwargs),
        lambda: getattr(fn, name)(*args, **kwargs),
        shapes,
        **options,
    )


LAYER_CASES = [
    layer("Linear", 5, 3, shape=(4, 5)),
    layer("Linear", 5, 3, shape=(5,)),
    layer("Linear", 5, 3, shape=(2, 3, 5)),
    layer("Linear", 5, 3, bias=False, shape=(4, 5)),
    layer("Bilinear", 3, 4, 5, shape=(2, 3), other=(2, 4)),
    layer("Bilinear", 3, 4, 5, bias=False, shape=(2, 3), other=(2, 4)),
    layer("Identity", shape=(4, 5)),
    layer("Identity", 54, unused=0.1, shape=(4, 5)),
    layer("Conv1d", 4, 6, 3, shape=(2, 4, 9)),
    layer("Conv1d", 4, 6, 3, 2, padding=1, dilation=2, groups=2, shape=(2, 4, 9)),
    layer("Conv1d", 4, 6, 3, padding="same", padding_mode="circular", shape=(2, 4, 9)),
    layer("Conv1d", 4, 6, 3, padding="valid", bias=False, shape=(4, 9)),
    layer("Conv2d", 3, 6, 3, shape=(2, 3, 8, 8)),
    layer("Conv2d", 3, 6, 3, shape=(2, 3, 8, 8), channels_last=True),
    layer("Conv2d", 3, 6, (3, 2), stride=(2, 1), padding=(1, 0), bias=False, shape=(2, 3, 8, 8)),
    layer("Conv2d", 4, 8, 3, padding="same", groups=2, shape=(2, 4, 8, 8)),
    layer("Conv2d", 3, 6, 3, padding=2, padding_mode="reflect", shape=(2, 3, 8, 8)),
    layer("Conv2d", 3, 6, 3, padding=(1, 2), padding_mode="replicate", shape=(2, 3, 8, 8)),
    layer("Conv2d", 3, 6, 4, padding="same", dilation=2, padding_mode="circular", shape=(2, 3, 9, 9)),
    layer("Conv3d", 2, 4, 2, padding=1, shape=(2, 2, 4, 4, 4)),
    layer("Conv3d", 2, 4, 2, padding=1, padding_mode="circular", shape=(2, 2, 4, 4, 4)),
    layer("ReLU", shape=(4, 5)),
    layer("ReLU", inplace=True, shape=(4, 5)),
    layer("Sigmoid", shape=(4, 5)),
    layer("Tanh", shape=(4, 5)),
    layer("GELU", shape=(4, 5)),
    layer("GELU", approximate="tanh", shape=(4, 5)),
    layer("SiLU", shape=(4, 5)),
    layer("SiLU", inplace=True, shape=(4, 5)),
    layer("LeakyReLU", shape=(4, 5)),
    layer("LeakyReLU", 0.3, True, shape=(4, 5)),
    layer("Softmax", 1, shape=(4, 5)),
    layer("LogSoftmax", dim=-1, shape=(4, 5)),
    layer("BatchNorm1d", 3, shape=(4, 3)),
    layer("BatchNorm1d", 3, shape=(4, 3, 5)),
    layer("BatchNorm1d", 3, affine=False, shape=(4, 3)),
    layer("BatchNorm2d", 3, shape=(4, 3, 5, 5)),
    layer("BatchNorm2d", 3, shape=(4, 3, 5, 5), channels_last=True),
    layer("BatchNorm2d", 3, momentum=None, shape=(4, 3, 5, 5)),
    layer("BatchNorm2d", 3, momentum=0.3, eps=1e-3, shape=(4, 3, 5, 5)),
    layer("BatchNorm2d", 3, track_running_stats=False, shape=(4, 3, 5, 5)),
    layer("BatchNorm2d", 3, affine=False, track_running_stats=False, shape=(4, 3, 5, 5)),
    layer("BatchNorm2d", 3, bias=False, shape=(4, 3, 5, 5)),
    layer("BatchNorm3d", 3, shape=(2, 3, 4, 4, 4)),
    layer("LayerNorm", 5, shape=(4, 5)),
    layer("LayerNorm", [3, 5], shape=(4, 3, 5)),
    layer("LayerNorm", 5, elementwise_affine=False, shape=(4, 5)),
    layer("LayerNorm", 5, bias=False, eps=1e-3, shape=(4, 5)),
    layer("GroupNorm", 2, 4, shape=(3, 4, 5)),
    layer("GroupNorm", 2, 4, affine=False, shape=(3, 4, 5, 5), channels_last=True),
    layer("Dropout", shape=(40, 5), dropout=True),
    layer("Dropout", 0.2, True, shape=(4, 3, 5, 5), channels_last=True, dropout=True),
    layer("Dropout", 0.0, shape=(4, 5), dropout=True),
    layer("Dropout", 1.0, shape=(4, 5), dropout=True),
    layer("Dropout1d", 0.4, shape=(4, 6, 5), dropout=True),
    layer("Dropout1d", 0.4, shape=(6, 5), dropout=True),
    layer("Dropout2d", 0.4, shape=(4, 6, 5, 5), dropout=True),
    layer("Dropout2d", 0.4, shape=(4, 6, 5, 5), dropout=True, channels_last=True),
    layer("Dropout3d", 0.4, shape=(4, 6, 2, 3, 3), dropout=True),
    layer("Dropout3d", 0.4, shape=(6, 2, 3, 3), dropout=True),
    layer("MaxPool1d", 2, shape=(2, 3, 8)),
    layer("MaxPool1d", 3, 2, 1, return_indices=True, shape=(2, 3, 8)),
    layer("MaxPool2d", 2, shape=(2, 3, 8, 8)),
    layer("MaxPool2d", (3, 2), stride=1, padding=1, ceil_mode=True, shape=(2, 3, 8, 8), channels_last=True),
    layer("MaxPool3d", 2, dilation=2, shape=(2, 3, 6, 6, 6)),
    layer("AvgPool1d", 2, shape=(2, 3, 8)),
    layer("AvgPool2d", 3, padding=1, count_include_pad=False, shape=(2, 3, 8, 8)),
    layer("AvgPool2d", 2, divisor_override=3, ceil_mode=True, shape=(2, 3, 7, 7)),
    layer("AvgPool3d", 2, shape=(2, 3, 4, 4, 4)),
    layer("AdaptiveAvgPool1d", 3, shape=(2, 3, 8)),
    layer("AdaptiveAvgPool2d", 1, shape=(2, 3, 8, 8)),
    layer("AdaptiveAvgPool2d", (None, 3), shape=(2, 3, 8, 8)),
    layer("AdaptiveAvgPool3d", (1, 2, 3), shape=(2, 3, 4, 4, 4)),
    layer("Flatten", shape=(2, 3, 4)),
    layer("Flatten", 0, 1, shape=(2, 3, 4)),
    layer("Unflatten", 1, (3, 4), shape=(2, 12)),
    layer("Embedding", 7, 3, shape=(4, 5), ints=7),
    layer("Embedding", 7, 3, padding_idx=-2, shape=(4, 5), ints=7),
    layer("Embedding", 7, 3, scale_grad_by_freq=True, shape=(4, 5), ints=7),
    layer("Embedding", 7, 3, max_norm=1.0, shape=(4, 5), ints=7),
]


# --- models, each written both ways ---


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
    Case("mlp", lambda: mlp(nn), lambda: mlp(fn), ((4, 6),)),
    Case("named", lambda: named(nn), lambda: named(fn), ((4, 6),)),
    Case("nested", lambda: nested(nn), lambda: nested(fn), ((4, 1, 4, 4),), dropout=True),
    Case("empty", lambda: nn.Sequential(), lambda: fn.Sequential(), ((4, 6),)),
    Case("two_convs", TwoConvs, lambda: two_convs, ((2, 1, 8, 8),)),
    Case("branches", Branches, lambda: Branches_net, ((4, 6),), dropout=True),
]

CASES = LAYER_CASES + MODEL_CASES
