"""Time per call of foreign modules: the module, torch.func.functional_call on it, and the net made of it.

All contestants take turns in one process, in blocks of calls, and the medians are reported as ratios; a machine that
slows down slows them all. Run it with ``python -m tests.benchmarks.wrapped``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

import funcnet as fn
from tests.benchmarks.apply import measure


class Tower(nn.Module):
    """100 tiny affine layers in a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(100))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


class Block(nn.Module):
    """A residual block with attributes of several kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.scale, self.config = 0.5, {"kernel": 3, "groups": [1, 1]}

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * torch.relu(self.norm(self.conv(x)))


class Counting(Tower):
    """The same tower, which writes to itself in each call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.kept = 0, {}

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.kept["x"] = x
        return super().forward(x)


def models() -> dict[str, tuple[nn.Module, Any, bool]]:
    """Name -> a module, its input, and whether it is in training mode."""
    torch.manual_seed(0)
    image = torch.randn(2, 4, 4, 4)
    rows: dict[str, tuple[nn.Module, Any, bool]] = {
        "tower": (Tower(), torch.randn(4, 8), False),
        "counting tower": (Counting(), torch.randn(4, 8), False),
        "residual": (nn.Sequential(*(Block() for _ in range(30))), image, False),
        "residual, training": (nn.Sequential(*(Block() for _ in range(30))), image, True),
    }
    try:
        from transformers import GPT2Config, GPT2LMHeadModel
    except ImportError:
        return rows
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    config = GPT2Config(60, n_positions=16, n_embd=16, n_layer=12, n_head=2, use_cache=False, **ends)
    ids = torch.arange(12).view(2, 6)
    rows["GPT-2"] = (GPT2LMHeadModel(config), ids, False)
    rows["GPT-2, training"] = (GPT2LMHeadModel(config), ids, True)
    return rows


def contestants(module: nn.Module, x: Any, train: bool) -> dict[str, Callable[[], Any]]:
    """Name -> one call on the same weights and the same input."""
    module.train(train)
    net, params, buffers = fn.from_module(module)
    flat = {**fn.tree.flatten(params), **fn.tree.flatten(buffers)}
    rng = 0 if train else None
    return {
        "nn.Module": lambda: module(x),
        "functional_call": lambda: functional_call(module, flat, (x,)),
        "net.apply": lambda: net.apply(params, buffers, x, train=train, rng=rng),
    }


def main() -> None:
    """Print one line for each model."""
    print(f"no_grad, {torch.get_num_threads()} threads; us per call")
    print(f"{'':20}{'nn.Module':>11}{'functional_call':>17}{'net.apply':>11}{'/ functional_call':>19}")
    for name, row in models().items():
        medians = {which: seconds * 1e6 for which, seconds in measure(contestants(*row), rounds=30, block=5).items()}
        ratio = medians["net.apply"] / medians["functional_call"]
        module, call, apply = medians.values()
        print(f"{name:20}{module:11.0f}{call:17.0f}{apply:11.0f}{ratio:19.3f}")


if __name__ == "__main__":
    main()
