"""Time per call of a 100-layer tiny MLP: explicit trees by hand, funcnet, nn.Module, functional_call and tensordict.

All contestants take turns in one process, in blocks of calls, and the medians are reported as ratios; a machine that
slows down slows them all. Run it with ``python -m tests.benchmarks.apply``.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

import funcnet as fn

LAYERS, WIDTH, BATCH = 100, 8, 4


def contestants() -> dict[str, Callable[[], Any]]:
    """Name -> one call on the same weights and the same input."""
    torch.manual_seed(0)
    module = nn.Sequential(*(layer for _ in range(LAYERS) for layer in (nn.Linear(WIDTH, WIDTH), nn.ReLU()))).eval()
    x = torch.randn(BATCH, WIDTH)
    net, params, buffers = fn.from_module(module)
    keys = list(params)

    def by_hand(params: Any, x: Any) -> Any:
        for key in keys:
            x = F.relu(F.linear(x, params[key]["weight"], params[key]["bias"]))
        return x

    @fn.compose(layers=fn.ModuleList(fn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))
    def looped(p: Any, x: Any) -> Any:
        for layer in p.layers:
            x = F.relu(layer(x))
        return x

    names = {f"fc{index}": fn.Linear(WIDTH, WIDTH) for index in range(LAYERS)}
    lines = "".join(f"    x = F.relu(p.{name}(x))\n" for name in names)
    space: dict[str, Any] = {"F": F}
    exec(f"def named(p, x):\n{lines}    return x\n", space)
    named = fn.compose(**names)(space["named"])

    looped_params = {"layers": {str(index): params[key] for index, key in enumerate(keys)}}
    named_params = {name: params[key] for name, key in zip(names, keys, strict=True)}
    flat = fn.to_state_dict(params, buffers)
    calls: dict[str, Callable[[], Any]] = {
        "by hand": lambda: by_hand(params, x),
        "net(params, x)": lambda: net(params, x),
        "net.apply": lambda: net.apply(params, buffers, x),
        "composed, loop": lambda: looped(looped_params, x),
        "composed, names": lambda: named(named_params, x),
        "nn.Module": lambda: module(x),
        "functional_call": lambda: functional_call(module, flat, (x,)),
    }
    try:
        from tensordict import TensorDict
    except ImportError:
        return calls
    state = TensorDict.from_module(module)

    def with_tensordict() -> Any:
        with state.to_module(module):
            return module(x)

    return {**calls, "tensordict": with_tensordict}


def measure(calls: dict[str, Callable[[], Any]], rounds: int = 60, block: int = 10) -> dict[str, float]:
    """Median seconds per call, by name."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    with torch.no_grad():
        for _ in range(rounds):
            for name, call in calls.items():
                call()
                start = time.perf_counter()
                for _ in range(block):
                    call()
                seconds[name].append((time.perf_counter() - start) / block)
    return {name: statistics.median(times) for name, times in seconds.items()}


def main() -> None:
    """Print one line for each contestant."""
    medians = measure(contestants())
    print(f"{LAYERS} layers, width {WIDTH}, batch {BATCH}, no_grad, {torch.get_num_threads()} threads")
    print(f"{'':18}{'us/call':>10}{'/ by hand':>12}{'/ nn.Module':>13}")
    for name, median in medians.items():
        print(f"{name:18}{median * 1e6:10.1f}{median / medians['by hand']:12.3f}{median / medians['nn.Module']:13.3f}")


if __name__ == "__main__":
    main()
