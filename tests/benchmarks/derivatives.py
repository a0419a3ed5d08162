"""Products of the Hessian with a vector, in gradients: ``fn.hvp`` beside the words of torch.func and autograd by hand.

All contestants take turns in one process and one thread, and the medians of their CPU time are reported as multiples of
``fn.value_and_grad``. Beside the times stand the floating-point operations, which do not depend on the machine. Run it
with ``python -m tests.benchmarks.derivatives``; give it a name of a model for that one alone.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.func import grad, jvp, vjp
from torch.utils.flop_counter import FlopCounterMode

import funcnet as fn

BATCH = 64
Loss = Callable[..., torch.Tensor]


def mlp() -> tuple[Loss, Any]:
    net = fn.Sequential(fn.Linear(256, 512), fn.ReLU(), fn.Linear(512, 512), fn.ReLU(), fn.Linear(512, 10))
    x, y = torch.randn(BATCH, 256), torch.randint(10, (BATCH,))
    return lambda params: F.cross_entropy(net(params, x), y), net.init(0)[0]


def cnn() -> tuple[Loss, Any]:
    net = fn.Sequential(
        *(fn.Conv2d(3, 16, 3, padding=1), fn.ReLU(), fn.Conv2d(16, 32, 3, stride=2, padding=1), fn.ReLU()),
        *(fn.Conv2d(32, 32, 3, stride=2, padding=1), fn.ReLU(), fn.Flatten(), fn.Linear(32 * 8 * 8, 10)),
    )
    x, y = torch.randn(BATCH, 3, 32, 32), torch.randint(10, (BATCH,))
    return lambda params: F.cross_entropy(net(params, x), y), net.init(0)[0]


def transformer() -> tuple[Loss, Any]:
    layer = fn.TransformerEncoderLayer(64, 4, 128, 0.0, batch_first=True)
    net = fn.Sequential(layer, layer, fn.Linear(64, 10))
    x, y = torch.randn(BATCH, 16, 64), torch.randint(10, (BATCH, 16))
    return lambda params: F.cross_entropy(net(params, x).flatten(0, 1), y.flatten()), net.init(0)[0]


MODELS = {"mlp": mlp, "cnn": cnn, "transformer": transformer}


def contestants(loss: Loss, params: Any) -> dict[str, Callable[[], Any]]:
    """Name -> one call."""
    vector = fn.tree.map(torch.randn_like, params)

    def by_hand() -> Any:
        paths = fn.tree.flatten(params)
        leaves = [leaf.clone().requires_grad_() for leaf in paths.values()]
        value = loss(fn.tree.unflatten(dict(zip(paths, leaves, strict=True))))
        grads = torch.autograd.grad(value, leaves, create_graph=True)
        return torch.autograd.grad(grads, leaves, list(fn.tree.flatten(vector).values()))

    return {
        "fn.value_and_grad": lambda: fn.value_and_grad(loss)(params),
        "fn.hvp": lambda: fn.hvp(loss)(params, vector),
        "autograd by hand": by_hand,
        "vjp(grad)": lambda: vjp(grad(loss), params)[1](vector),
        "jvp(grad)": lambda: jvp(grad(loss), (params,), (vector,)),
    }


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for model in sys.argv[1:] or MODELS:
        calls = contestants(*MODELS[model]())
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        work: dict[str, float] = {}
        for name, call in list(calls.items()):
            try:
                with FlopCounterMode(display=False) as counter:
                    call()
            except RuntimeError as error:  # attention's kernel has no second derivative by hand
                print(f"{model:12} {name:18} {type(error).__name__}: {str(error).partition('. ')[0]}")
                del calls[name]
            work[name] = counter.get_total_flops()
        for _ in range(15):
            for name, call in calls.items():
                call()
                before = time.process_time()
                call()
                seconds[name].append(time.process_time() - before)
        medians = {name: statistics.median(seconds[name]) for name in calls}
        base = "fn.value_and_grad"
        for name, median in medians.items():
            in_gradients = f"{median / medians[base]:5.2f} gradients, operations {work[name] / work[base]:.2f}"
            print(f"{model:12} {name:18} {median * 1e3:8.2f} ms {in_gradients}")


if __name__ == "__main__":
    main()
