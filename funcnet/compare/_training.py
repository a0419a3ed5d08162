"""Trains both forms of a model in lockstep, and compares them after every step."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from funcnet._torch import pytree
from funcnet._typing import Flat, Tree
from funcnet.compare._measure import LiveBytes, largest_difference, read_clock
from funcnet.compare._models import Pair
from funcnet.compare._results import Sides
from funcnet.compare._training_steps import MOMENTUM, OPTIMIZER, RATE, function_step, logits, module_step
from funcnet.tree import flatten


class Trainee(Protocol):
    """A model in training, in either form."""

    def step(self, x: Tensor, labels: Tensor, seed: int) -> tuple[object, float]:
        """Make one step; returns its output and the seconds it took."""

    def eval_forward(self) -> Callable[[Tensor], object]:
        """The forward of the model in eval mode, with its current weights."""

    def state_tensors(self) -> dict[str, Flat]:
        """The gradients of the last step, the buffers and the weights, by these names."""


class ModuleTrainee:
    """An nn.Module with its optimizer. Each step changes both, and torch's global generator, in place."""

    def __init__(self, pair: Pair, seed: int) -> None:
        torch.manual_seed(seed)
        self.module = pair.module()
        self.optimizer = torch.optim.SGD(self.module.parameters(), lr=RATE, momentum=MOMENTUM)

    def step(self, x: Tensor, labels: Tensor, seed: int) -> tuple[object, float]:
        self.module.train()
        torch.manual_seed(seed)
        start = read_clock()
        output = module_step(self.module, self.optimizer, x, labels)
        return output, read_clock() - start

    def eval_forward(self) -> Callable[[Tensor], object]:
        return self.module.eval()

    def state_tensors(self) -> dict[str, Flat]:
        weights = dict(self.module.named_parameters())
        return {
            "gradients": {name: weight.grad for name, weight in weights.items() if weight.grad is not None},
            "buffers": dict(self.module.named_buffers()),
            "weights": {name: weight.detach() for name, weight in weights.items()},
        }


class NetTrainee:
    """A net, which never changes, and the state that each step takes and returns."""

    def __init__(self, pair: Pair, seed: int) -> None:
        self.net = pair.net
        params, buffers = self.net.init(seed)
        self.state = (params, buffers, OPTIMIZER.init(params))
        self.gradients: Tree = {}

    def step(self, x: Tensor, labels: Tensor, seed: int) -> tuple[object, float]:
        self.gradients = {}  # frees the gradients of the step before
        start = read_clock()
        self.state, self.gradients, output = function_step(self.net, self.state, x, labels, seed)
        return output, read_clock() - start

    def eval_forward(self) -> Callable[[Tensor], object]:
        params, buffers, _ = self.state
        if not buffers:
            return lambda x: self.net(params, x)
        return lambda x: self.net.apply(params, buffers, x)[0]

    def state_tensors(self) -> dict[str, Flat]:
        params, buffers, _ = self.state
        return {"gradients": flatten(self.gradients), "buffers": flatten(buffers), "weights": flatten(params)}


class LockstepTraining:
    """Two trainings on the same batches, with the largest difference between them so far for each quantity."""

    def __init__(self, stateful: Trainee, stateless: Trainee) -> None:
        self.trainees = (stateful, stateless)
        self.largest_difference: dict[str, float | None] = dict.fromkeys(("outputs", "gradients", "buffers", "weights"))
        self._times: tuple[list[float], list[float]] = ([], [])
        self._compare_states()

    def step(self, x: Tensor, labels: Tensor, seed: int) -> None:
        """Make one step with each trainee; they take turns in going first."""
        outputs: dict[int, object] = {}
        for side in (0, 1) if len(self._times[0]) % 2 else (1, 0):
            outputs[side], seconds = self.trainees[side].step(x, labels, seed)
            self._times[side].append(seconds)
        self._record_difference("outputs", outputs[0], outputs[1])
        self._compare_states()

    def accuracy(self, x: Tensor, labels: Tensor) -> Sides:
        """The share of correct answers in eval mode. The outputs are compared as well."""
        with torch.no_grad():
            outputs = [trainee.eval_forward()(x) for trainee in self.trainees]
        self._record_difference("outputs", *outputs)
        return Sides(*(int((logits(output).argmax(1) == labels).sum()) / len(labels) for output in outputs))

    def median_step_seconds(self) -> Sides:
        """The median seconds of a step."""
        return Sides(statistics.median(self._times[0]), statistics.median(self._times[1]))

    def _compare_states(self) -> None:
        left, right = (trainee.state_tensors() for trainee in self.trainees)
        for quantity in left:
            self._record_difference(quantity, left[quantity], right[quantity])

    def _record_difference(self, quantity: str, left: object, right: object) -> None:
        if pytree.tree_leaves((left, right)):
            largest = self.largest_difference[quantity] or 0.0
            self.largest_difference[quantity] = max(largest, largest_difference(left, right))


def measure_step_memory(make_trainee: Callable[[], Trainee], x: Tensor, labels: Tensor, seed: int) -> int:
    """The most bytes of tensors alive at one time in a step: weights, optimizer state, gradients, batch, activations.

    The third step is measured, because the optimizer has its state by then.
    """
    with LiveBytes() as memory:
        memory.count_tensors((x, labels))
        trainee = make_trainee()
        for _ in range(3):
            memory.reset_peak()
            trainee.step(x, labels, seed)
    return memory.peak
