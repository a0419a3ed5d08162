"""Learning rates that go up and down, some of them with the momentum going the other way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from funcnet.optim._replay import HasHyperparameters, Replay, read_groups
from funcnet.optim._schedule import Schedule


@dataclass(frozen=True)
class CosineAnnealingWarmRestarts(Schedule):
    """The learning rate along half a cosine down to ``eta_min``, again and again.

    Its step may be a fraction, ``epoch + batch / batches``, as that of torch's scheduler.

    Args:
        optimizer: a record of ``funcnet.optim``, or a learning rate.
        T_0: number of steps until the first restart.
        T_mult: factor of that number after each restart.
        eta_min: the lowest learning rate.

    >>> schedule = CosineAnnealingWarmRestarts(0.5, T_0=2)
    >>> schedule(0), schedule(1), schedule(2), schedule(2.5)
    (0.5, 0.25, 0.5, 0.42677669529663687)
    """

    optimizer: HasHyperparameters | float
    T_0: int
    T_mult: int = 1
    eta_min: float = 0.0

    def __call__(self, step: float | Tensor) -> float:
        if not isinstance(step, float) or step.is_integer():
            return super().__call__(int(step) if isinstance(step, float) else step)
        replay = Replay(self._build_scheduler, read_groups(self.optimizer))
        replay.scheduler.step(step)
        lrs: list[float] = replay.scheduler.get_last_lr()
        if len(lrs) > 1:
            raise TypeError(
                "a step that is a fraction is for a schedule of one learning rate, and this one has groups."
            )
        return lrs[0]


@dataclass(frozen=True)
class CyclicLR(Schedule):
    """The learning rate up and down between two numbers, with the momentum the other way.

    As in torch, ``cycle_momentum`` needs an optimizer with ``momentum`` or ``betas``; what the schedule moves is
    ``schedule.hyperparameters(step)``, and ``schedule(step)`` gives the learning rate where it moves nothing else.

    Args:
        optimizer: a record of ``funcnet.optim``, or a learning rate.
        base_lr: the lower learning rate, or a list with one for each group.
        max_lr: the upper learning rate, likewise.
        step_size_up, step_size_down: number of steps up and down; the second is that of the first by default.
        mode: "triangular"; "triangular2" halves the height after each cycle, "exp_range" multiplies it by ``gamma`` at
            each step.
        gamma: factor of "exp_range".
        scale_fn: a function of the cycle or the step that gives the height, instead of a mode.
        scale_mode: what ``scale_fn`` is a function of, "cycle" or "iterations".
        cycle_momentum: whether momentum, or the first of ``betas``, moves too.
        base_momentum, max_momentum: the lower and the upper momentum, or lists.

    >>> from funcnet.optim import SGD
    >>> schedule = CyclicLR(SGD(0.5, momentum=0.9), base_lr=0.5, max_lr=1.0, step_size_up=2)
    >>> schedule.hyperparameters(2)
    {'lr': 1.0, 'momentum': 0.8}
    """

    _divisors: ClassVar[tuple[str, ...]] = ("step_size_up",)

    optimizer: HasHyperparameters | float
    base_lr: float | Sequence[float]
    max_lr: float | Sequence[float]
    step_size_up: int = 2000
    step_size_down: int | None = None
    mode: Literal["triangular", "triangular2", "exp_range"] = "triangular"
    gamma: float = 1.0
    scale_fn: Callable[[float], float] | None = None
    scale_mode: Literal["cycle", "iterations"] = "cycle"
    cycle_momentum: bool = True
    base_momentum: float | Sequence[float] = 0.8
    max_momentum: float | Sequence[float] = 0.9

    def _moves_momentum(self) -> bool:
        return self.cycle_momentum


@dataclass(frozen=True)
class OneCycleLR(Schedule):
    """The learning rate up to ``max_lr`` and down to almost nothing, once, with the momentum the other way.

    As in torch, ``cycle_momentum`` needs an optimizer with ``momentum`` or ``betas``; what the schedule moves is
    ``schedule.hyperparameters(step)``, and ``schedule(step)`` gives the learning rate where it moves nothing else. It
    has no value beyond step ``total_steps``.

    Args:
        optimizer: a record of ``funcnet.optim``, or a learning rate.
        max_lr: the highest learning rate, or a list with one for each group.
        total_steps: number of steps of the cycle, or ``epochs * steps_per_epoch``.
        epochs, steps_per_epoch: instead of ``total_steps``.
        pct_start: the part of the cycle that goes up, in [0, 1].
        anneal_strategy: the curve, "cos" or "linear".
        cycle_momentum: whether momentum, or the first of ``betas``, moves too.
        base_momentum, max_momentum: the lower and the upper momentum, or lists.
        div_factor: ``max_lr`` divided by the learning rate at step 0.
        final_div_factor: the learning rate at step 0 divided by the one at the end.
        three_phase: whether it goes down as it came up, before a third phase.

    >>> from funcnet.optim import SGD
    >>> schedule = OneCycleLR(SGD(0.1, momentum=0.9), max_lr=0.5, total_steps=10, div_factor=4)
    >>> schedule.hyperparameters(0), schedule.hyperparameters(2)
    ({'lr': 0.125, 'momentum': 0.95}, {'lr': 0.5, 'momentum': 0.85})
    """

    _divisors: ClassVar[tuple[str, ...]] = ("div_factor", "final_div_factor")

    optimizer: HasHyperparameters | float
    max_lr: float | Sequence[float]
    total_steps: int | None = None
    epochs: int | None = None
    steps_per_epoch: int | None = None
    pct_start: float = 0.3
    anneal_strategy: Literal["cos", "linear"] = "cos"
    cycle_momentum: bool = True
    base_momentum: float | Sequence[float] = 0.85
    max_momentum: float | Sequence[float] = 0.95
    div_factor: float = 25.0
    final_div_factor: float = 10000.0
    three_phase: bool = False

    def _moves_momentum(self) -> bool:
        return self.cycle_momentum
