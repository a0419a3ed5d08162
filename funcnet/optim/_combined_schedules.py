"""Schedules made of schedules: one after the other, or all at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from funcnet.optim._replay import HasHyperparameters, Scheduler
from funcnet.optim._schedule import Schedule


@dataclass(frozen=True)
class SequentialLR(Schedule):
    """One schedule after the other, each from its own step 0 on.

    Args:
        optimizer: a record of ``funcnet.optim``, or a learning rate; that of all ``schedulers``.
        schedulers: the schedules.
        milestones: the steps at which the next one takes over, one less than there are schedules.

    Raises:
        ValueError: if the schedules start from different optimizers.

    >>> from funcnet.optim import CosineAnnealingLR, LinearLR
    >>> warmup, decay = LinearLR(0.5, start_factor=0.2, total_iters=4), CosineAnnealingLR(0.5, T_max=100)
    >>> schedule = SequentialLR(0.5, [warmup, decay], milestones=[4])
    >>> round(schedule(0), 6), schedule(4), round(schedule(54), 6)
    (0.1, 0.5, 0.25)
    """

    optimizer: HasHyperparameters | float
    schedulers: Sequence[Schedule]
    milestones: Sequence[int]

    def __post_init__(self) -> None:
        _check_schedules(self, self.schedulers)
        combined = [index for index, part in enumerate(self.schedulers) if index and hasattr(part, "schedulers")]
        if combined:
            raise ValueError(
                f"SequentialLR starts schedule {combined[0]} at a milestone, and it is made of others, which torch "
                "cannot start there. Put its parts into one SequentialLR, with their milestones."
            )
        super().__post_init__()

    def _build_scheduler(self, optimizer: torch.optim.Optimizer) -> Scheduler:
        schedulers = [schedule._build_scheduler(optimizer) for schedule in self.schedulers]
        return torch.optim.lr_scheduler.SequentialLR(optimizer, schedulers, list(self.milestones))

    def _moves_momentum(self) -> bool:
        return any(schedule._moves_momentum() for schedule in self.schedulers)


@dataclass(frozen=True)
class ChainedScheduler(Schedule):
    """Several schedules at once: at every step each changes the learning rate that the one before it left.

    Args:
        schedulers: the schedules.
        optimizer: a record of ``funcnet.optim``, or a learning rate; by default that of the schedules.

    Raises:
        ValueError: if the schedules start from different optimizers.

    >>> from funcnet.optim import ConstantLR, ExponentialLR
    >>> schedule = ChainedScheduler([ConstantLR(1.0, factor=0.5, total_iters=2), ExponentialLR(1.0, gamma=0.5)])
    >>> [schedule(step) for step in range(4)]
    [0.5, 0.25, 0.25, 0.125]
    """

    schedulers: Sequence[Schedule]
    optimizer: HasHyperparameters | float | None = None

    def __post_init__(self) -> None:
        _check_schedules(self, self.schedulers)
        super().__post_init__()

    def _initial_source(self) -> HasHyperparameters | float:
        if self.optimizer is not None:
            return self.optimizer
        return self.schedulers[0]._initial_source() if self.schedulers else 0.0

    def _build_scheduler(self, optimizer: torch.optim.Optimizer) -> Scheduler:
        schedulers = [schedule._build_scheduler(optimizer) for schedule in self.schedulers]
        return torch.optim.lr_scheduler.ChainedScheduler(schedulers, optimizer)

    def _moves_momentum(self) -> bool:
        return any(schedule._moves_momentum() for schedule in self.schedulers)


def _check_schedules(schedule: Schedule, schedulers: Sequence[Schedule]) -> None:
    """Refuse values that are not schedules, and schedules that start from different optimizers or learning rates."""
    name = type(schedule).__name__
    for index, scheduler in enumerate(schedulers):
        if not isinstance(scheduler, Schedule):
            raise TypeError(
                f"{name} is made of schedules of funcnet.optim, and number {index} is {scheduler!r}. "
                "A function of the step becomes one by LambdaLR(1.0, function)."
            )
    source = schedule._initial_source() if schedulers else None
    problems = [
        f"schedule {index} starts from {scheduler._initial_source()!r}"
        for index, scheduler in enumerate(schedulers)
        if scheduler._initial_source() != source
    ]
    if problems:
        raise ValueError(f"{name} starts from {source!r}, and all its schedules do: {'; '.join(problems)}.")
