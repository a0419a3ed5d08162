"""Norms and clipped sums of the gradients of single examples, beside the gradient of the batch.

The contestants take turns in one process, and the medians of CPU seconds are reported in units of the batch's gradient:
what funcnet needs, what vmap(grad) with clipping needs, and Opacus' ghost clipping where it is installed. Run it with
``python -m tests.benchmarks.per_sample``, or for some models with ``python -m tests.benchmarks.per_sample mlp tied``.
"""

from __future__ import annotations

import copy
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funcnet as fn

BATCH, SECONDS = 64, 4.0


def mlp() -> tuple[nn.Module, Tensor, Tensor]:
    """Three linear maps, 256-512-512-10."""
    module = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    return module, torch.randn(BATCH, 256), torch.randint(10, (BATCH,))


def cnn() -> tuple[nn.Module, Tensor, Tensor]:
    """Two convolutions and two linear maps on images (1, 28, 28)."""
    convolutions = [nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 5, padding=2)]
    head = [nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 49, 128), nn.ReLU(), nn.Linear(128, 10)]
    return nn.Sequential(*convolutions, *head), torch.randn(BATCH, 1, 28, 28), torch.randint(10, (BATCH,))


class Tokens(nn.Module):
    """Embeddings, two layers of a transformer, and a head that may be tied to the embeddings."""

    def __init__(self, is_tied: bool, vocabulary: int = 1000, size: int = 128, length: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, size)
        self.position = nn.Parameter(torch.randn(length, size))
        layer = nn.TransformerEncoderLayer(size, 4, 4 * size, 0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(size, vocabulary, bias=False)
        if is_tied:
            self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layers(self.embed(tokens) + self.position))
        return logits


def transformer() -> tuple[nn.Module, Tensor, Tensor]:
    """Two layers of size 128 on 32 tokens, and 1000 logits for each."""
    return Tokens(False), torch.randint(1000, (BATCH, 32)), torch.randint(1000, (BATCH, 32))


class TiedOnly(nn.Module):
    """A table of embeddings that is the last linear map too, and two linear maps between."""

    def __init__(self, vocabulary: int = 1000, size: int = 128) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, size)
        self.up, self.down = nn.Linear(size, 4 * size), nn.Linear(4 * size, size)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        return F.linear(x + self.down(F.gelu(self.up(x))), self.embed.weight)


def tied() -> tuple[nn.Module, Tensor, Tensor]:
    """A tied table of 1000 rows of 128, and a perceptron, on 32 tokens."""
    return TiedOnly(), torch.randint(1000, (BATCH, 32)), torch.randint(1000, (BATCH, 32))


def tied_transformer() -> tuple[nn.Module, Tensor, Tensor]:
    """The transformer with one table for embeddings and logits."""
    return Tokens(True), torch.randint(1000, (BATCH, 32)), torch.randint(1000, (BATCH, 32))


MODELS = {function.__name__: function for function in (mlp, cnn, transformer, tied, tied_transformer)}


def contestants(module: nn.Module, x: Tensor, y: Tensor) -> dict[str, Callable[[], Any]]:
    """The calls that are compared; the first is the unit."""
    net, params, _ = fn.from_module(module)

    def loss(params: Any, x: Tensor, y: Tensor) -> Tensor:
        logits = net(params, x[None])
        return F.cross_entropy(logits.flatten(0, -2), y.flatten())

    def batch_loss(params: Any) -> Tensor:
        logits = net(params, x)
        return F.cross_entropy(logits.flatten(0, -2), y.flatten())

    def clip_stacked() -> Any:
        grads = torch.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(params, x, y)
        norms = torch.stack([grad.flatten(1).norm(dim=1) for grad in fn.tree.flatten(grads).values()]).norm(dim=0)
        factors = (1 / norms).clamp(max=1)
        return fn.tree.map(lambda grad: torch.einsum("b,b...->...", factors, grad), grads)

    calls: dict[str, Callable[[], Any]] = {
        "batch gradient": lambda: fn.value_and_grad(batch_loss)(params),
        "norms": lambda: fn.per_sample_norms(loss)(params, x, y),
        "clipped sum": lambda: fn.clipped_grads(loss, 1.0)(params, x, y),
        "dots": lambda: fn.per_sample_dots(loss)(params, params, x, y),
        "gradients": lambda: fn.per_sample_grads(loss)(params, x, y),
        "vmap(grad)": lambda: torch.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(params, x, y),
        "vmap(grad), clipped": clip_stacked,
    }
    return calls | opacus_contestants(module, x, y)


def opacus_contestants(module: nn.Module, x: Tensor, y: Tensor) -> dict[str, Callable[[], Any]]:
    """Opacus' ghost clipping, where it is installed and takes the module."""
    if importlib.util.find_spec("opacus") is None:
        return {}
    grad_sample = importlib.import_module("opacus.grad_sample")
    try:
        ghost = grad_sample.GradSampleModuleFastGradientClipping(
            copy.deepcopy(module), loss_reduction="sum", max_grad_norm=1.0, use_ghost_clipping=True
        )
    except NotImplementedError:
        return {}

    def clip_by_ghost() -> Any:
        ghost.enable_hooks()
        losses = F.cross_entropy(ghost(x).flatten(0, -2), y.flatten(), reduction="none").view(BATCH, -1).mean(1)
        losses.sum().backward(retain_graph=True)
        factors = ghost.get_clipping_coef()
        ghost.disable_hooks()
        ghost.zero_grad()
        (factors * losses).sum().backward()

    try:
        clip_by_ghost()
    except (RuntimeError, ValueError, AttributeError) as error:
        print(f"           Opacus fails: {str(error).splitlines()[0][:90]}")
        return {}
    return {"Opacus ghost, clipped": clip_by_ghost}


def measure(calls: dict[str, Callable[[], Any]], seconds: float = SECONDS) -> dict[str, float]:
    """Median CPU seconds of each call, taking turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    end = time.process_time() + seconds
    while time.process_time() < end or len(times["batch gradient"]) < 5:
        for name, call in calls.items():
            start = time.process_time()
            call()
            times[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def main(names: list[str]) -> None:
    """Print one line for each model and contestant."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for name in names or MODELS:
        medians = measure(contestants(*MODELS[name]()))
        unit = medians["batch gradient"]
        print(f"{name}: batch gradient {unit * 1e3:.2f} ms of CPU")
        for contestant, median in medians.items():
            print(f"{median / unit:10.2f}  {contestant}")


if __name__ == "__main__":
    main(sys.argv[1:])
