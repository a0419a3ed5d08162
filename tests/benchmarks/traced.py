"""Time per call of models of many small layers: the module, its trace, ``from_module`` and ``functional_call``.

All contestants take turns in one process, in blocks of calls, and the medians are reported as ratios; a machine that
slows down slows them all. Run it with ``python -m tests.benchmarks.traced``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

import funcnet as fn
from tests.benchmarks.apply import measure


class Residual(nn.Module):
    """A forward of its own, so that ``from_module`` wraps it."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(depth)])
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(depth)])

    def forward(self, x: Tensor) -> Tensor:
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = x + F.relu(layer(norm(x)))
        return x


def mlp() -> tuple[nn.Module, Tensor]:
    layers = (layer for _ in range(60) for layer in (nn.Linear(8, 8), nn.ReLU()))
    return nn.Sequential(*layers), torch.randn(4, 8)


def residual() -> tuple[nn.Module, Tensor]:
    return Residual(8, 30), torch.randn(4, 8)


def convolutions() -> tuple[nn.Module, Tensor]:
    layers = (layer for _ in range(20) for layer in (nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()))
    return nn.Sequential(*layers), torch.randn(2, 4, 6, 6)


def encoder() -> tuple[nn.Module, Tensor]:
    layers = (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(6))
    return nn.Sequential(*layers), torch.randn(2, 3, 8)


MODELS = {"mlp": mlp, "residual": residual, "convolutions": convolutions, "encoder": encoder}


def contestants(make: Callable[[], tuple[nn.Module, Tensor]], train: bool) -> dict[str, Callable[[], Any]]:
    """Name -> one call on the same weights and the same input."""
    torch.manual_seed(0)
    module, x = make()
    module.train(train)
    net, params, buffers = fn.from_module(module)
    traced, _, _ = fn.trace(module, x, train=train)
    flat = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {
        "nn.Module": lambda: module(x),
        "traced": lambda: traced.apply(params, buffers, x, train=train, rng=0),
        "from_module": lambda: net.apply(params, buffers, x, train=train, rng=0),
        "functional_call": lambda: functional_call(module, flat, (x,)),
    }


def main() -> None:
    """Print one block of lines for each model and mode."""
    for name, make in MODELS.items():
        for train in (False, True):
            medians = measure(contestants(make, train))
            print(f"{name}, {'train' if train else 'eval'}, no_grad, {torch.get_num_threads()} threads")
            for contestant, median in medians.items():
                print(f"  {contestant:18}{median * 1e6:10.1f} us{median / medians['nn.Module']:8.3f} of nn.Module")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
