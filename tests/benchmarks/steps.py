"""Time of value_and_grad, and of a whole training step, of nets beside their modules.

The contestants take turns in one process on one thread, on the same weights and the same batch. The least processor
time of each is reported, as a ratio to that of the module. In the steps, every call gets the trees that the last one
returned, as in any training loop; alone, value_and_grad gets new trees in every call. Run it with
``python -m tests.benchmarks.steps``, or for some models with ``python -m tests.benchmarks.steps mlp cnn``; with
``--memory`` it reports the peak of memory of each step, and with ``--compile`` the graphs that the compiler makes of a
step and their time.
"""

from __future__ import annotations

import itertools
import resource
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch._dynamo.testing
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing import get_context

import funcnet as fn


class Model(NamedTuple):
    """A module and a batch for it."""

    module: nn.Module
    x: Tensor
    y: Tensor


def make_mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width, next_width in pairwise(widths):
        layers += [nn.Linear(width, next_width), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def make_cnn() -> nn.Sequential:
    blocks: list[nn.Module] = []
    for channels, next_channels in ((3, 16), (16, 32), (32, 32)):
        blocks += [
            nn.Conv2d(channels, next_channels, 3, padding=1),
            nn.BatchNorm2d(next_channels),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(32 * 4, 10))


def make_transformer() -> nn.Sequential:
    layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Flatten(), nn.Linear(256, 10))


MODELS: dict[str, Callable[[], Model]] = {
    "tiny mlp": lambda: Model(make_mlp(8, 16, 10), torch.randn(4, 8), torch.randint(10, (4,))),
    "mlp 8 x 256": lambda: Model(make_mlp(*[256] * 8, 10), torch.randn(32, 256), torch.randint(10, (32,))),
    "cnn": lambda: Model(make_cnn(), torch.randn(8, 3, 16, 16), torch.randint(10, (8,))),
    "transformer": lambda: Model(make_transformer(), torch.randn(4, 8, 32), torch.randint(10, (4,))),
}
LARGE = Model(make_mlp(1024, 4096, 4096, 10), torch.randn(16, 1024), torch.randint(10, (16,)))


class Contestant(NamedTuple):
    """What is timed, and what is done before each call and is not timed."""

    step: Callable[[], Any]
    prepare: Callable[[], Any] = lambda: None


def make_torch_gradient(model: Model) -> Contestant:
    module, x, y = model

    def step() -> None:
        module.zero_grad()
        F.cross_entropy(module(x), y).backward()

    return Contestant(step)


def make_torch_step(model: Model, clips: bool = False, **more: Any) -> Contestant:
    module, x, y = model
    optimizer = torch.optim.AdamW(module.parameters(), **more)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(module(x), y).backward()
        if clips:
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()

    return Contestant(step)


def make_gradient_function(model: Model) -> tuple[Callable[..., Any], fn.Tree, fn.Tree]:
    """The gradient function of a training step as a user writes it, and first trees that no module shares."""
    net, params, buffers = fn.from_module(model.module)
    params, buffers = fn.tree.map(torch.clone, params), fn.tree.map(torch.clone, buffers)
    rng = 0 if any(isinstance(part, nn.Dropout) for part in model.module.modules()) else None

    def loss(params: fn.Tree, buffers: fn.Tree, x: Tensor, y: Tensor) -> tuple[Tensor, fn.Tree]:
        output, buffers = net.apply(params, buffers, x, train=True, rng=rng)
        return F.cross_entropy(output, y), buffers

    return fn.value_and_grad(loss, has_aux=True), params, buffers


def make_our_gradient(model: Model) -> Contestant:
    gradient, params, buffers = make_gradient_function(model)
    trees = {"params": params, "buffers": buffers}

    def prepare() -> None:
        for name in trees:
            trees[name] = fn.tree.map(Tensor.detach, trees[name])

    def step() -> None:
        (_, trees["buffers"]), _ = gradient(trees["params"], trees["buffers"], model.x, model.y)

    return Contestant(step, prepare)


def make_our_step(model: Model, donate: bool, clips: bool = False, **more: Any) -> Contestant:
    gradient, params, buffers = make_gradient_function(model)
    optimizer = fn.optim.AdamW(**more)
    trees = [params, buffers, optimizer.init(params)]
    del params, buffers

    def step() -> None:
        params, buffers, state = trees
        (_, buffers), grads = gradient(params, buffers, model.x, model.y)
        if clips:
            grads, _ = fn.optim.clip_grad_norm(grads, 1.0, donate=donate)
        params, state = optimizer.step(params, grads, state, donate=donate)
        trees[:] = params, buffers, state

    return Contestant(step)


def measure(contestants: dict[str, Contestant], rounds: int) -> dict[str, float]:
    """Least seconds of each contestant."""
    least = dict.fromkeys(contestants, float("inf"))
    for count in range(rounds + 3):
        for label, contestant in contestants.items():
            contestant.prepare()
            start = time.thread_time()
            contestant.step()
            seconds = time.thread_time() - start
            if count >= 3:
                least[label] = min(least[label], seconds)
    return least


def print_times(name: str, make: Callable[[], Model], rounds: int) -> None:
    seconds = measure({"module": make_torch_gradient(make()), "value_and_grad": make_our_gradient(make())}, rounds)
    base = seconds["module"]
    print(f"{name:12} forward and backward {base * 1e6:8.0f} us: value_and_grad {seconds['value_and_grad'] / base:.3f}")
    for clips in (False, True):
        seconds = measure(
            {
                "default": make_torch_step(make(), clips),
                "fused": make_torch_step(make(), clips, fused=True),
                "pure": make_our_step(make(), False, clips),
                "donated": make_our_step(make(), True, clips),
                "donated fused": make_our_step(make(), True, clips, fused=True),
            },
            rounds,
        )
        text = f"{name:12} step{' with clipping' if clips else ''}"
        for base_label in ("default", "fused"):
            base = seconds[base_label]
            ours = [f"{label} {seconds[label] / base:.3f}" for label in ("pure", "donated", "donated fused")]
            text += f"; module, {base_label} {base * 1e6:.0f} us: {', '.join(ours)}"
        print(text, flush=True)


# --- memory ---


def _report_peak(label: str, connection: Any) -> None:
    torch.set_num_threads(1)
    makers = {
        "module, default": lambda: make_torch_step(LARGE),
        "module, fused": lambda: make_torch_step(LARGE, fused=True),
        "pure": lambda: make_our_step(LARGE, donate=False),
        "donated": lambda: make_our_step(LARGE, donate=True),
        "donated fused": lambda: make_our_step(LARGE, donate=True, fused=True),
    }
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    contestant = makers[label]()
    if label.startswith(("pure", "donated")):
        LARGE.module.to("meta")
    for _ in range(3):
        contestant.step()
    connection.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def print_memory() -> None:
    """Print the peak of memory of a process of its own for each kind of step."""
    context = get_context("spawn")
    for label in ("module, default", "module, fused", "pure", "donated", "donated fused"):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_report_peak, args=(label, sender))
        process.start()
        print(f"peak of memory above the start, {label:16} {receiver.recv() / 1024:7.0f} MiB", flush=True)
        process.join()


# --- compiled ---


def print_compiled() -> None:
    """Print how many graphs the compiler makes of a step whose learning rate moves, and its time beside eager."""
    model = MODELS["tiny mlp"]()
    gradient, params, buffers = make_gradient_function(model)
    optimizer = fn.optim.AdamW()
    schedule = fn.optim.CosineAnnealingLR(1e-3, 100)

    def step(params: fn.Tree, state: fn.Tree, lr: Tensor) -> tuple[fn.Tree, fn.Tree]:
        _, grads = gradient(params, buffers, model.x, model.y)
        grads, _ = fn.optim.clip_grad_norm(grads, 1.0)
        return optimizer.step(params, grads, state, lr=lr)

    counter = torch._dynamo.testing.CompileCounterWithBackend("inductor")
    compiled = torch.compile(step, backend=counter, fullgraph=True)

    def make_contestant(function: Callable[..., tuple[fn.Tree, fn.Tree]]) -> Contestant:
        trees, count = [params, optimizer.init(params)], itertools.count()

        def step() -> None:
            trees[:] = function(*trees, torch.tensor(schedule(next(count))))

        return Contestant(step)

    seconds = measure({"eager": make_contestant(step), "compiled": make_contestant(compiled)}, rounds=200)
    print(
        f"tiny mlp     step with clipping, eager {seconds['eager'] * 1e6:.0f} us: "
        f"compiled {seconds['compiled'] / seconds['eager']:.3f}, {counter.frame_count} graph for all steps"
    )


def main(arguments: list[str]) -> None:
    """Print a few lines for each model."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    names = [argument for argument in arguments if not argument.startswith("-")]
    if "--memory" in arguments:
        print_memory()
    elif "--compile" in arguments:
        print_compiled()
    else:
        for name, make in MODELS.items():
            if not names or any(part in name for part in names):
                print_times(name, make, rounds=400 if "tiny" in name else 150)


if __name__ == "__main__":
    main(sys.argv[1:])
