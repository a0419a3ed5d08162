"""Time of one optimizer step beside torch.optim: many small tensors, some of a million numbers, one of 25 million.

The contestants take turns in one process on one thread. The medians of their processor time are reported as ratios to
torch's fused kernel, and to torch's default form. Run it with ``python -m tests.benchmarks.optimizers``, for some
optimizers with ``python -m tests.benchmarks.optimizers AdamW SGD``, and with ``--small`` for the small tensors alone.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import funcnet as fn

SIZES = {"50 x 256": (50, (16, 16), 400), "25 x 1M": (25, (1024, 1024), 9), "1 x 25M": (1, (5000, 5000), 7)}
FUSED = ("SGD", "Adam", "AdamW", "Adagrad")
ARGUMENTS: dict[str, dict[str, Any]] = {"SGD": {"momentum": 0.9}}


def make_torch_step(name: str, count: int, shape: tuple[int, ...], **more: Any) -> Callable[[], Any]:
    params = [torch.randn(shape).requires_grad_() for _ in range(count)]
    for param in params:
        param.grad = torch.randn(shape)
    return getattr(torch.optim, name)(params, **ARGUMENTS.get(name, {}), **more).step


def make_tree(count: int, shape: tuple[int, ...]) -> dict[str, dict[str, Tensor]]:
    """Params two to a layer, as weight and bias are."""
    tree: dict[str, dict[str, Tensor]] = {}
    for index in range(count):
        tree.setdefault(str(index // 2), {})["bias" if index % 2 else "weight"] = torch.randn(shape)
    return tree


def make_our_step(name: str, count: int, shape: tuple[int, ...], donate: bool, **more: Any) -> Callable[[], Any]:
    optimizer = getattr(fn.optim, name)(**ARGUMENTS.get(name, {}), **more)
    params, grads = make_tree(count, shape), make_tree(count, shape)
    trees = [params, optimizer.init(params)]

    def step() -> None:
        trees[:] = optimizer.step(trees[0], grads, trees[1], donate=donate)

    return step


def make_contestants(name: str, count: int, shape: tuple[int, ...]) -> dict[str, Callable[[], Any]]:
    contestants = {
        "torch": make_torch_step(name, count, shape),
        "pure": make_our_step(name, count, shape, donate=False),
        "donated": make_our_step(name, count, shape, donate=True),
    }
    if name in FUSED:
        contestants["torch fused"] = make_torch_step(name, count, shape, fused=True)
        contestants["pure fused"] = make_our_step(name, count, shape, donate=False, fused=True)
        contestants["donated fused"] = make_our_step(name, count, shape, donate=True, fused=True)
    return contestants


def measure(contestants: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each contestant."""
    seconds: dict[str, list[float]] = {label: [] for label in contestants}
    for step in contestants.values():
        step()
        step()
    for _ in range(rounds):
        for label, step in contestants.items():
            start = time.thread_time()
            step()
            seconds[label].append(time.thread_time() - start)
    return {label: statistics.median(times) for label, times in seconds.items()}


def main(arguments: list[str]) -> None:
    """Print one line for each optimizer and size."""
    torch.set_num_threads(1)
    names = [argument for argument in arguments if not argument.startswith("-")] or ["AdamW"]
    for label, (count, shape, rounds) in SIZES.items():
        if "--small" in arguments and count < 50:
            continue
        for name in names:
            seconds = measure(make_contestants(name, count, shape), rounds)
            base = seconds["torch"]
            text = f"{label:9} {name:9} torch {base * 1e3:8.3f} ms; to it: "
            text += f"pure {seconds['pure'] / base:.2f}, donated {seconds['donated'] / base:.2f}"
            if "torch fused" in seconds:
                fused = seconds["torch fused"]
                text += (
                    f"; torch fused {fused * 1e3:.3f} ms; to it: donated fused {seconds['donated fused'] / fused:.2f}"
                )
                text += f", pure fused {seconds['pure fused'] / fused:.2f}, pure {seconds['pure'] / fused:.2f}"
                text += f", donated {seconds['donated'] / fused:.2f}"
            print(text, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
