"""Time per call of every layer beside its nn.Module: 100 copies in a row on the same tiny input, eval and training.

The two take turns in one process, and the medians are reported as ratios, the dearest layer first. A layer that draws
is called with an int seed, which gives the module's own numbers, and once more with a Key, which is seeded for each
place and so costs more. Run it with ``python -m tests.benchmarks.layers``, or for some layers with
``python -m tests.benchmarks.layers Linear LSTM``.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import funcnet as fn
from tests.cases import LAYER_CASES
from tests.cases.case import Case

COPIES, ROUNDS = 100, 21


class Row(nn.Module):
    """Modules called one after the other on the same inputs."""

    def __init__(self, modules: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(modules)

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        output = None
        for layer in self.layers:
            output = layer(*inputs, **kwargs)
        return output


def row(p: Any, *inputs: Any, **kwargs: Any) -> Any:
    """Nets called one after the other on the same inputs."""
    output = None
    for layer in p.layers:
        output = layer(*inputs, **kwargs)
    return output


def contestants(case: Case, train: bool, rng: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """One call of the modules, and one of the nets with the same tensors."""
    module = Row([case.module() for _ in range(COPIES)]).train(train)
    net = fn.compose(layers=fn.ModuleList([case.net()] * COPIES))(row)
    _, params, buffers = fn.from_module(module.layers)
    params, buffers = ({"layers": tree} if tree else {} for tree in (params, buffers))
    xs = case.inputs()
    return (
        lambda: module(*xs, **case.call),
        lambda: net.apply(params, buffers, *xs, **case.call, train=train, rng=rng),
    )


def ratio(case: Case, train: bool, rng: Any, rounds: int = ROUNDS) -> tuple[float, float]:
    """Median seconds of a module's call; and the net's in relation to it."""
    seconds: tuple[list[float], list[float]] = ([], [])
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        calls = contestants(case, train, rng)
        for call in calls:
            call()
        for _ in range(rounds):
            for call, times in zip(calls, seconds, strict=True):
                start = time.perf_counter()
                call()
                times.append(time.perf_counter() - start)
    module, net = (statistics.median(times) for times in seconds)
    return module / COPIES, net / module


def main(names: list[str]) -> None:
    """Print one line for each case and mode, the dearest first."""
    torch.set_num_threads(1)
    chosen = [case for case in LAYER_CASES if not names or case.name.split("(")[0] in names]
    lines = []
    for case in chosen:
        for train, mode in ((False, "eval"), (True, "train")):
            sources: dict[str, Any] = {"": None}
            if any(below.draws(train) for _, below in case.net().named_nets()):
                sources = {", seed": 0, ", key": fn.random.key(0)}
            for source, rng in sources.items():
                module, relative = ratio(case, train, rng)
                lines.append((relative, module, mode + source, case.name))
    print(f"{COPIES} copies, no_grad, {torch.get_num_threads()} thread\n{'net / module':>12}{'module us':>12}")
    for relative, module, mode, name in sorted(lines, reverse=True):
        print(f"{relative:12.3f}{module * 1e6:12.2f}  {mode:12}  {name}")


if __name__ == "__main__":
    main(sys.argv[1:])
