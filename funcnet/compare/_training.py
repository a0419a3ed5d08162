"""Both trainings of a model, run in step with each other and compared after every step."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from funcnet._torch import pytree
from funcnet._typing import Flat
from funcnet.compare._measure import LiveBytes, clock, largest_difference
from funcnet.compare._models import Pair
from funcnet.compare._results import Sides
from funcnet.compare._training_steps import MOMENTUM, RATE, function_step, logits, module_step
from funcnet.tree import flatten, map


class Trainee(Protocol):
    """A model in training, in either form."""

    def step(self, x: Tensor, labels: Tensor, seed: int) -> tuple[Any, float]:
        """One step; its output, and the seconds it took."""

    def evaluation(self) -> Callable[[Tensor], Any]:
        """The model as it stands, in eval mode."""

    def tensors(self) -> dict[str, Flat]:
        """Gradients of the last step, buffers and weights."""


class Stateful:
    """An nn.Module, its optimizer and torch's global generator: each step changes all three in place."""

    def __init__(self, pair: Pair, seed: int) -> None:
        torch.manual_seed(seed)
        self.module = pair.module()
        self.optimizer = torch.optim.SGD(self.module.parameters(), lr=RATE, momentum=MOMENTUM)

    def step(self, x: Tensor, labels: Tensor, seed: int) -> tuple[Any, float]:
        self.module.train()
        torch.manual_seed(seed)
        start = clock()
        output = module_step(self.module, self.optimizer, x, labels)
        return output, clock() - start

    def evaluation(self) -> Callable[[Tensor], Any]:
        return self.module.eval()

    def tensors(self) -> dict[str, Flat]:
        weights = dict(self.module.named_parameters())
        return {
            "gradients": {name: weight.grad for name, weight in weights.items() if weight.grad is not None},
            "buffers": dict(self.module.named_buffers()),
            "weights": {name: weight.detach() for name, weight in weights.items()},
        }


class Stateless:
    """A net, which stays as it is, and the state that each step takes and returns."""

    def __init__(self, pair: Pair, seed: int) -> None:
        self.net = pair.net
        params, buffers = self.net.init(seed)
        self.state = (params, buffers, map(torch.zeros_like, params))
        self.gradients: dict[str, Any] = {}

    def step(self, x: Tensor, labels: Tensor, seed: int) -> tuple[Any, float]:
        self.gradients = {}
        start = clock()
        self.state, self.gradients, output = function_step(self.net, self.state, x, labels, seed)
        return output, clock() - start

    def evaluation(self) -> Callable[[Tensor], Any]:
        params, buffers, _ = self.state
        if not buffers:
            return lambda x: self.net(params, x)
        return lambda x: self.net.apply(params, buffers, x)[0]

    def tensors(self) -> dict[str, Flat]:
        params, buffers, _ = self.state
        return {"gradients": flatten(self.gradients), "buffers": flatten(buffers), "weights": flatten(params)}


class InStep:
    """Two trainings on the same batches, and how far apart they ever were."""

    def __init__(self, stateful: Trainee, stateless: Trainee) -> None:
        self.trainees = (stateful, stateless)
        self.largest: dict[str, float | None] = dict.fromkeys(("outputs", "gradients", "buffers", "weights"))
        self.times: tuple[list[float], list[float]] = ([], [])
        self._compare()

    def step(self, x: Tensor, labels: Tensor, seed: int) -> None:
        """One step of each, taking turns in going first."""
        outputs: dict[int, Any] = {}
        for side in (0, 1) if len(self.times[0]) % 2 else (1, 0):
            outputs[side], took = self.trainees[side].step(x, labels, seed)
            self.times[side].append(took)
        self._note("outputs", outputs[0], outputs[1])
        self._compare()

    def accuracy(self, x: Tensor, labels: Tensor) -> Sides:
        """Share of right answers in eval mode; the outputs count among those compared."""
        with torch.no_grad():
            outputs = [trainee.evaluation()(x) for trainee in self.trainees]
        self._note("outputs", *outputs)
        return Sides(*(int((logits(output).argmax(1) == labels).sum()) / len(labels) for output in outputs))

    def step_seconds(self) -> Sides:
        """Median seconds of a step."""
        return Sides(statistics.median(self.times[0]), statistics.median(self.times[1]))

    def _compare(self) -> None:
        left, right = (trainee.tensors() for trainee in self.trainees)
        for quantity in left:
            self._note(quantity, left[quantity], right[quantity])

    def _note(self, quantity: str, left: Any, right: Any) -> None:
        if pytree.tree_leaves((left, right)):
            self.largest[quantity] = max(self.largest[quantity] or 0.0, largest_difference(left, right))


def peak_of_step(make: Callable[[], Trainee], x: Tensor, labels: Tensor, seed: int) -> int:
    """The most bytes of tensors alive at one time in a step: weights, optimizer state, gradients, batch, activations.

    The third step is the one measured: by then the optimizer has its state.
    """
    with LiveBytes() as memory:
        memory.count((x, labels))
        trainee = make()
        for _ in range(3):
            memory.peak = memory.live
            trainee.step(x, labels, seed)
    return memory.peak
