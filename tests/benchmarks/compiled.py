"""Time per call of compiled nets beside their compiled modules: what guarding nested dicts of tensors costs.

The backend runs the captured graph as it is, so what differs between the two is the guards alone. Both take turns in
one process and the smallest times are reported. Run it with ``python -m tests.benchmarks.compiled``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import funcnet as fn


class Loop(nn.Module):
    """A forward that funcnet does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(30))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


def mlp() -> nn.Sequential:
    """30 layers, 60 tensors."""
    return nn.Sequential(*(layer for _ in range(30) for layer in (nn.Linear(8, 8), nn.ReLU())))


def tied_mlp() -> nn.Sequential:
    """The same with one weight at two places."""
    module = mlp()
    module[2].weight = module[0].weight
    return module


def normalised_mlp() -> nn.Sequential:
    """20 layers with their BatchNorm, 140 tensors."""
    return nn.Sequential(*(layer for _ in range(20) for layer in (nn.Linear(8, 8), nn.BatchNorm1d(8))))


MODULES: dict[str, Callable[[], nn.Module]] = {
    "mlp": mlp,
    "mlp, bfloat16": lambda: mlp().bfloat16(),
    "mlp, tied": tied_mlp,
    "batch norm": normalised_mlp,
    "foreign loop": Loop,
}


def measure(module: nn.Module, rounds: int = 80, block: int = 10) -> dict[str, float]:
    """Smallest seconds per call of the compiled net and of the compiled module."""
    module = module.eval().requires_grad_(False)
    net, params, buffers = fn.from_module(module)
    x = torch.randn(4, 8, dtype=next(module.parameters()).dtype)
    compiled_net = torch.compile(lambda p, b, x: net.apply(p, b, x), backend="eager", fullgraph=True)
    compiled_module = torch.compile(module, backend="eager", fullgraph=True)
    calls: dict[str, Callable[[], Any]] = {
        "net": lambda: compiled_net(params, buffers, x),
        "module": lambda: compiled_module(x),
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    with torch.no_grad():
        for _ in range(rounds):
            for name, call in calls.items():
                call()
                start = time.perf_counter()
                for _ in range(block):
                    call()
                seconds[name].append((time.perf_counter() - start) / block)
    return {name: min(times) for name, times in seconds.items()}


def main() -> None:
    """Print one line for each module."""
    print(f"{'':16}{'net, us':>10}{'module, us':>12}{'ratio':>8}")
    for name, build in MODULES.items():
        torch.compiler.reset()
        seconds = measure(build())
        ratio = seconds["net"] / seconds["module"]
        print(f"{name:16}{seconds['net'] * 1e6:10.1f}{seconds['module'] * 1e6:12.1f}{ratio:8.3f}")


if __name__ == "__main__":
    main()
