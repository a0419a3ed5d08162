"""Compile time and time per call of stacked blocks beside one block and beside eager code, in CPU seconds.

Caches are off and every compile begins from nothing, after one that warms the compiler up. Run it with
``python -m tests.benchmarks.depth``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

import funcnet as fn
from funcnet.models import GPT2, Bert, Llama

COUNT = 48


@fn.compose(norm=fn.LayerNorm(64), up=fn.Linear(64, 128), down=fn.Linear(128, 64))
def residual(p: Any, x: torch.Tensor) -> torch.Tensor:
    """A block of a user."""
    return x + p.down(F.gelu(p.up(p.norm(x))))


def _models(count: int) -> dict[str, fn.Net]:
    sizes = {"hidden_size": 64, "num_hidden_layers": count, "num_attention_heads": 4, "stacked": True}
    return {
        "composed": fn.Stack(residual, count),
        "GPT2": GPT2(64, 32, **sizes),
        "Llama": Llama(64, intermediate_size=128, **sizes),
        "Bert": Bert(64, 32, intermediate_size=128, **sizes),
    }


def _seconds(call: Callable[[], object], calls: int = 1) -> float:
    start = time.process_time()
    for _ in range(calls):
        call()
    return (time.process_time() - start) / calls


def measure(name: str, count: int, with_gradient: bool) -> dict[str, float]:
    """CPU seconds of the first call, of a later one, and of one in eager code."""
    net = _models(count)[name]
    params, _ = net.init(0)
    x = torch.randn(8, 64) if name == "composed" else torch.arange(32).view(2, 16)

    def loss(params: Any) -> torch.Tensor:
        output = net(params, x)
        return (output[0] if isinstance(output, tuple) else output).square().mean()

    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True)
    calls = {form: fn.value_and_grad(run) if with_gradient else run for form, run in _forms(compiled, loss).items()}
    with torch.set_grad_enabled(with_gradient):
        first = _seconds(lambda: calls["compiled"](params))
        result = {form: min(_seconds(lambda: call(params), 3) for _ in range(5)) for form, call in calls.items()}  # noqa: B023
    return {"compile": first, **result}


def _forms(compiled: Any, loss: Any) -> dict[str, Any]:
    return {"compiled": compiled, "eager": loss}


def main() -> None:
    """Print one line for each net, forward and with its gradient."""
    torch.set_num_threads(1)
    torch.compiler.config.force_disable_caches = True
    torch._inductor.config.compile_threads = 1
    measure("composed", 1, True)
    print(f"{'':20}{'1 block, s':>12}{f'{COUNT} blocks':>12}{'ratio':>8}{'call, ms':>12}{'eager, ms':>12}")
    for name in _models(1):
        for with_gradient in (False, True):
            one, deep = (measure(name, count, with_gradient) for count in (1, COUNT))
            title = f"{name}{', gradient' if with_gradient else ''}"
            print(
                f"{title:20}{one['compile']:12.2f}{deep['compile']:12.2f}{deep['compile'] / one['compile']:8.2f}"
                f"{deep['compiled'] * 1e3:12.2f}{deep['eager'] * 1e3:12.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
