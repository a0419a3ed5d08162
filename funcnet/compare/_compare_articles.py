"""The main job: four models trained on the digits, stateful and stateless, side by side."""

from __future__ import annotations

import inspect
import platform
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import partial
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

import funcnet as fn
from funcnet._typing import Tree
from funcnet.compare._digits import Digits, load_digits
from funcnet.compare._errors import CompareError
from funcnet.compare._measure import one_thread, seconds
from funcnet.compare._models import PAIRS, Pair
from funcnet.compare._per_sample import compare_per_sample
from funcnet.compare._results import Articles, PerSample, Programs, Sides, Trained
from funcnet.compare._training import InStep, Stateful, Stateless, peak_of_step
from funcnet.compare._training_steps import MOMENTUM, RATE, function_step, logits, module_step

Progress: TypeAlias = Callable[[str, float], Any]
"""Told what is being done, and the share that is done already, in [0, 1]."""

BATCH = 64


def quiet(doing: str, share: float) -> None:
    """Progress that nobody looks at."""


def versions() -> dict[str, str]:
    """What the numbers were measured with."""
    return {"funcnet": fn.__version__, "torch": torch.__version__, "python": platform.python_version()}


def compare_articles(
    models: Iterable[str] = (), *, steps: int = 300, seed: int = 0, budget: float = 2.0, progress: Progress = quiet
) -> Articles:
    """Train models as nn.Module + torch.optim and as pure functions, on the same batches from the same seed.

    The two forms take a step in turn; after each one, outputs, gradients, buffers and weights are compared.

    Args:
        models: names out of ``PAIRS``; none means all.
        steps: batches of 64 images to train on.
        seed: of the first weights, the order of the images, and the draws of each step (``seed + step``).
        budget: seconds per model for each thing timed apart from the training.
        progress: called as the work goes on.

    Raises:
        CompareError: for an unknown model, fewer than one step, or missing scikit-learn.
    """
    pairs = _chosen(list(models))
    if steps < 1:
        raise CompareError(f"steps is {steps}, and a training takes at least 1.")
    digits = load_digits()
    with torch.random.fork_rng(devices=()), one_thread():
        trained = []
        for index, pair in enumerate(pairs):

            def report(doing: str, share: float, index: int = index, pair: Pair = pair) -> None:
                progress(f"{pair.title}: {doing}", (index + share) / len(pairs))

            trained.append(compare_training(pair, digits, steps, seed, budget, report))
        progress("done", 1.0)
    return Articles(
        versions=versions(),
        seed=seed,
        steps=steps,
        batch=BATCH,
        rate=RATE,
        momentum=MOMENTUM,
        images={"train": len(digits.train_labels), "test": len(digits.test_labels)},
        training_step=Programs(inspect.getsource(module_step), inspect.getsource(function_step)),
        models=tuple(trained),
    )


def _chosen(names: list[str]) -> list[Pair]:
    for name in names:
        if name not in PAIRS:
            near = get_close_matches(name, PAIRS, 1)
            meant = f" Did you mean {near[0]!r}?" if near else ""
            raise CompareError(f"there is no model {name!r}.{meant} The models are {', '.join(PAIRS)}.")
    return [pair for name, pair in PAIRS.items() if not names or name in names]


def compare_training(
    pair: Pair, digits: Digits, steps: int, seed: int, budget: float = 2.0, progress: Progress = quiet
) -> Trained:
    """One model, trained in both forms. Moves torch's global generator."""
    stateful, stateless = Stateful(pair, seed), Stateless(pair, seed)
    both = InStep(stateful, stateless)
    for step, (x, labels) in enumerate(digits.batches(BATCH, steps, seed)):
        if step % 10 == 0:
            progress(f"training, step {step} of {steps}", 0.6 * step / steps)
        both.step(x, labels, seed + step)
    accuracy = both.accuracy(digits.test_x, digits.test_labels)

    progress("timing a forward", 0.6)
    # Copies, as a slice keeps all images alive, which would count among the bytes of a step.
    x, labels = digits.train_x[:BATCH].clone(), digits.train_labels[:BATCH].clone()
    module, net = stateful.evaluation(), stateless.evaluation()
    with torch.no_grad():
        forward = seconds(lambda: module(x), lambda: net(x), budget=budget)
    progress("counting bytes", 0.75)
    peaks = (peak_of_step(partial(form, pair, seed), x, labels, seed) for form in (Stateful, Stateless))
    peak = Sides(*peaks)
    progress("gradients of single images", 0.8)
    return Trained(
        name=pair.name,
        title=pair.title,
        parameters=sum(weight.numel() for weight in stateful.module.parameters()),
        programs=Programs(inspect.getsource(pair.module), inspect.getsource(pair.net.forward)),
        largest_difference=both.largest,
        forward_seconds=forward,
        step_seconds=both.step_seconds(),
        peak_bytes=peak,
        per_sample=_per_sample(stateful, stateless, (x, labels), budget),
        accuracy=accuracy,
    )


def _per_sample(stateful: Stateful, stateless: Stateless, batch: tuple[Tensor, Tensor], budget: float) -> PerSample:
    net, module = stateless.net, stateful.module.eval()
    params, buffers, _ = stateless.state

    def module_loss(sample: tuple[Tensor, Tensor]) -> Tensor:
        x, label = sample
        return F.cross_entropy(logits(module(x[None])), label[None])

    def loss(params: Tree, sample: tuple[Tensor, Tensor]) -> Tensor:
        x, label = sample
        output, _ = net.apply(params, buffers, x[None])
        return F.cross_entropy(logits(output), label[None])

    return compare_per_sample(module, module_loss, loss, params, batch, budget)
