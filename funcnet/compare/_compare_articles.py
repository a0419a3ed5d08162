"""Trains four models on the digits, in both forms, and compares the two."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from difflib import get_close_matches
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from funcnet._typing import TreeLike
from funcnet.compare._digits import Digits, load_digits
from funcnet.compare._environment import installed_versions
from funcnet.compare._errors import CompareError
from funcnet.compare._found_effects import find_effects
from funcnet.compare._gradient_check import check_gradient
from funcnet.compare._measure import measure_seconds, single_threaded
from funcnet.compare._models import PAIRS, Pair
from funcnet.compare._per_sample import compare_per_sample
from funcnet.compare._progress import Progress, ignore_progress, subtask_progress
from funcnet.compare._results import Articles, PerSample, Programs, Sides, Trained
from funcnet.compare._training import LockstepTraining, ModuleTrainee, NetTrainee, measure_step_memory
from funcnet.compare._training_steps import MOMENTUM, RATE, function_step, logits, module_step
from funcnet.random.internals import preserve_torch_state

BATCH = 64


def compare_articles(
    models: Iterable[str] = (),
    *,
    steps: int = 300,
    seed: int = 0,
    budget: float = 2.0,
    progress: Progress = ignore_progress,
) -> Articles:
    """Train models as nn.Module + torch.optim and as pure functions, on the same batches from the same seed.

    The two forms take each step in turn; after every step, outputs, gradients, buffers and weights are compared.

    Args:
        models: names of models in ``PAIRS``; none means all.
        steps: the number of batches of 64 images to train on.
        seed: for the initial weights, the order of the images, and the draws of each step (``seed + step``).
        budget: seconds per model for each quantity that is timed apart from the training.
        progress: is called as the work goes on.

    Raises:
        CompareError: if a model is unknown, if there is less than one step, or if scikit-learn is missing.

    >>> result = compare_articles(["sequential"], steps=1, budget=0.001)
    >>> [(model.name, model.identical) for model in result.models]
    [('sequential', True)]
    """
    pairs = _select_pairs(list(models))
    if steps < 1:
        raise CompareError(f"steps is {steps}, and a training takes at least 1.")
    digits = load_digits()
    with preserve_torch_state(), single_threaded():
        results = [
            compare_training(
                pair, digits, steps, seed, budget, subtask_progress(progress, pair.title, index, len(pairs))
            )
            for index, pair in enumerate(pairs)
        ]
        progress("done", 1.0)
    return Articles(
        versions=installed_versions(),
        seed=seed,
        steps=steps,
        batch=BATCH,
        rate=RATE,
        momentum=MOMENTUM,
        images={"train": len(digits.train_labels), "test": len(digits.test_labels)},
        training_step=Programs(inspect.getsource(module_step), inspect.getsource(function_step)),
        models=tuple(results),
    )


def _select_pairs(names: list[str]) -> list[Pair]:
    for name in names:
        if name not in PAIRS:
            matches = get_close_matches(name, PAIRS, 1)
            suggestion = f" Did you mean {matches[0]!r}?" if matches else ""
            raise CompareError(f"there is no model {name!r}.{suggestion} The models are {', '.join(PAIRS)}.")
    return [pair for name, pair in PAIRS.items() if not names or name in names]


def compare_training(
    pair: Pair, digits: Digits, steps: int, seed: int, budget: float = 2.0, progress: Progress = ignore_progress
) -> Trained:
    """Train one model in both forms and compare them. Moves torch's global generator."""
    stateful, stateless = ModuleTrainee(pair, seed), NetTrainee(pair, seed)
    training = LockstepTraining(stateful, stateless)
    for step, (x, labels) in enumerate(digits.iter_batches(BATCH, steps, seed)):
        if step % 10 == 0:
            progress(f"training, step {step} of {steps}", 0.6 * step / steps)
        training.step(x, labels, seed + step)
    accuracy = training.accuracy(digits.test_x, digits.test_labels)

    progress("timing a forward", 0.6)
    # These are copies, because a slice keeps all images alive, which would count among the bytes of a step.
    x, labels = digits.train_x[:BATCH].clone(), digits.train_labels[:BATCH].clone()
    module_forward, net_forward = stateful.eval_forward(), stateless.eval_forward()
    with torch.no_grad():
        forward_seconds = measure_seconds(lambda: module_forward(x), lambda: net_forward(x), budget=budget)
    progress("counting bytes", 0.75)
    peaks = [
        measure_step_memory(partial(trainee, pair, seed), x, labels, seed) for trainee in (ModuleTrainee, NetTrainee)
    ]
    progress("gradients of single images", 0.8)
    return Trained(
        name=pair.name,
        title=pair.title,
        parameters=sum(weight.numel() for weight in stateful.module.parameters()),
        programs=Programs(inspect.getsource(pair.module), inspect.getsource(pair.net.forward)),
        largest_difference=training.largest_difference,
        forward_seconds=forward_seconds,
        step_seconds=training.median_step_seconds(),
        peak_bytes=Sides(*peaks),
        per_sample=_compare_per_image(stateful, stateless, (x, labels), budget),
        accuracy=accuracy,
        effects=find_effects(pair.module(), [x], {}),
        gradient=check_gradient(pair.module(), (x,), {}, seed),
    )


def _compare_per_image(
    stateful: ModuleTrainee, stateless: NetTrainee, batch: tuple[Tensor, Tensor], budget: float
) -> PerSample:
    net, module = stateless.net, stateful.module.eval()
    params, buffers, _ = stateless.state

    def module_loss(sample: tuple[Tensor, Tensor]) -> Tensor:
        x, label = sample
        return F.cross_entropy(logits(module(x[None])), label[None])

    def loss(params: TreeLike, sample: tuple[Tensor, Tensor]) -> Tensor:
        x, label = sample
        output, _ = net.apply(params, buffers, x[None])
        return F.cross_entropy(logits(output), label[None])

    return compare_per_sample(module, module_loss, loss, params, batch, budget)
