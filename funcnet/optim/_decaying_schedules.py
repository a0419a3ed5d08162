"""Learning rates that fall or rise along one curve: the simple schedulers of torch.optim.lr_scheduler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from funcnet.optim._replay import HasHyperparameters, Scheduler
from funcnet.optim._schedule import Schedule


@dataclass(frozen=True)
class LambdaLR(Schedule):
    """The initial learning rate times a function of the step.

    Args:
        optimizer: a record of ``funcnet.optim``, or a learning rate.
        lr_lambda: a function of the step, or a list with one for each group.

    >>> LambdaLR(0.5, lambda step: 1 / (1 + step))(3)
    0.125
    """

    optimizer: HasHyperparameters | float
    lr_lambda: Callable[[int], float] | Sequence[Callable[[int], float]]


@dataclass(frozen=True)
class MultiplicativeLR(Schedule):
    """The learning rate of the step before times a function of the step.

    Args:
        optimizer: a record of ``funcnet.optim``, or a learning rate.
        lr_lambda: a function of the step, or a list with one for each group; it is not called for step 0.

    >>> MultiplicativeLR(0.5, lambda step: 0.5)(3)
    0.0625
    """

    optimizer: HasHyperparameters | float
    lr_lambda: Callable[[int], float] | Sequence[Callable[[int], float]]


@dataclass(frozen=True)
class StepLR(Schedule):
    """The learning rate times ``gamma`` after every ``step_size`` steps.

    Args:
        optimizer: a record of ``funcnet.optim``, or a learning rate.
        step_size: number of steps between two changes.
        gamma: factor of each change.

    >>> schedule = StepLR(0.5, step_size=2, gamma=0.5)
    >>> [schedule(step) for step in range(5)]
    [0.5, 0.5, 0.25, 0.25, 0.125]
    """

    _divisors: ClassVar[tuple[str, ...]] = ("step_size",)

    optimizer: HasHyperparameters | float
    step_size: int
    gamma: float = 0.1


@dataclass(frozen=True)
class MultiStepLR(Schedule):
    """The learning rate times ``gamma`` at each of some steps.

    Args:
        optimizer: a record of ``funcnet.optim``, or a learning rate.
        milestones: the steps; one that comes twice counts twice.
        gamma: factor of each change.

    >>> schedule = MultiStepLR(0.5, milestones=[1, 3], gamma=0.5)
    >>> [schedule(step) for step in range(4)]
    [0.5, 0.25, 0.25, 0.125]
    """

    optimizer: HasHyperparameters | float
    milestones: Sequence[int]
    gamma: float = 0.1


@dataclass(frozen=True)
class ConstantLR(Schedule):
    """The learning rate times ``factor`` for the first steps, and the learning rate itself afterwards.

    Args:
        optimizer: a record of ``funcnet.optim``, or a learning rate.
        factor: between 0 and 1.
        total_iters: the first step with the full learning rate.

    >>> schedule = ConstantLR(0.5, factor=0.5, total_iters=2)
    >>> [schedule(step) for step in range(4)]
    [0.25, 0.25, 0.5, 0.5]
    """

    optimizer: HasHyperparameters | float
    factor: float = 1.0 / 3
    total_iters: int = 5


@dataclass(frozen=True)
class LinearLR(Schedule):
    """The learning rate times a factor that goes linearly between two numbers, for a warm-up.

    Args:
        optimizer: a record of ``funcnet.optim``, or a learning rate.
        start_factor: the factor at step 0, in (0, 1].
        end_factor: the factor from step ``total_iters`` on, in [0, 1].
        total_iters: number of steps between the two.

    >>> schedule = LinearLR(0.5, start_factor=0.25, total_iters=3)
    >>> [schedule(step) for step in range(4)]
    [0.125, 0.25, 0.375, 0.5]
    """

    optimizer: HasHyperparameters | float
    start_factor: float = 1.0 / 3
    end_factor: float = 1.0
    total_iters: int = 5


@dataclass(frozen=True)
class ExponentialLR(Schedule):
    """The learning rate times ``gamma`` at every step.

    Args:
        optimizer: a record of ``funcnet.optim``, or a learning rate.
        gamma: factor of each step.

    >>> ExponentialLR(0.5, gamma=0.5)(3)
    0.0625
    """

    optimizer: HasHyperparameters | float
    gamma: float


@dataclass(frozen=True)
class PolynomialLR(Schedule):
    """The learning rate times ``(1 - step / total_iters) ** power``, and 0 afterwards.

    Args:
        optimizer: a record of ``funcnet.optim``, or a learning rate.
        total_iters: the first step with learning rate 0.
        power: of the polynomial.

    >>> PolynomialLR(0.5, total_iters=4)(2)
    0.25
    """

    optimizer: HasHyperparameters | float
    total_iters: int = 5
    power: float = 1.0


@dataclass(frozen=True)
class CosineAnnealingLR(Schedule):
    """The learning rate along half a cosine down to ``eta_min`` at step ``T_max``, and up again after it.

    Args:
        optimizer: a record of ``funcnet.optim``, or a learning rate.
        T_max: number of steps down.
        eta_min: the lowest learning rate.

    >>> schedule = CosineAnnealingLR(0.5, T_max=100)
    >>> schedule(0), round(schedule(50), 6), round(schedule(100), 6)
    (0.5, 0.25, 0.0)
    """

    _divisors: ClassVar[tuple[str, ...]] = ("T_max",)

    optimizer: HasHyperparameters | float
    T_max: int
    eta_min: float = 0.0


@dataclass(frozen=True)
class SWALR(Schedule):
    """The learning rate annealed to a constant one, for stochastic weight averaging.

    Args:
        optimizer: a record of ``funcnet.optim``, or a learning rate.
        swa_lr: the learning rate at the end, or a list with one for each group.
        anneal_epochs: number of steps until then.
        anneal_strategy: the curve of the way, "cos" or "linear".

    >>> schedule = SWALR(0.5, swa_lr=0.25, anneal_epochs=2, anneal_strategy="linear")
    >>> [schedule(step) for step in range(4)]
    [0.5, 0.375, 0.25, 0.25]
    """

    optimizer: HasHyperparameters | float
    swa_lr: float | Sequence[float]
    anneal_epochs: int = 10
    anneal_strategy: Literal["cos", "linear"] = "cos"

    def _build_scheduler(self, optimizer: torch.optim.Optimizer) -> Scheduler:
        swa_lr: Any = self.swa_lr
        return torch.optim.swa_utils.SWALR(optimizer, swa_lr, self.anneal_epochs, self.anneal_strategy)
