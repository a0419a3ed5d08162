"""The learning rates that a scheduler of torch gives, step by step, kept in a table.

The formulas in torch's documentation round differently from what its schedulers do, which multiply the last learning
rate again and again. So the real scheduler runs here, over an optimizer without params, as far as somebody asks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

Hyperparameters: TypeAlias = dict[str, Any]
"""Values by the names of torch.optim: ``{"lr": 0.1, "momentum": 0.9}``."""

Scheduler: TypeAlias = Any
"""A live scheduler of torch."""


class HasHyperparameters(Protocol):
    """What a schedule reads of an optimizer of ``funcnet.optim``."""

    @property
    def groups(self) -> Mapping[Any, Mapping[str, Any]]: ...

    def values(self) -> dict[str, Any]: ...


class ParamlessOptimizer(torch.optim.Optimizer):
    """An optimizer that has groups of hyperparameters for schedulers to write to, and no params."""

    _opt_called = True  # torch's note that step() was called, without which its schedulers warn

    def __init__(self, groups: Sequence[Hyperparameters]) -> None:
        # Optimizer.__init__ is not called: it refuses groups without params, and loads the compiler for a second.
        self.defaults = dict(groups[0])
        self.param_groups = [{"params": [], **group} for group in groups]

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        """Do nothing."""


def read_groups(optimizer: HasHyperparameters | float) -> list[Hyperparameters]:
    """The hyperparameters of each group as numbers: of the params that are in no group first, then of each group.

    Args:
        optimizer: a record of ``funcnet.optim``, or a learning rate.

    Raises:
        TypeError: if it is neither, or a learning rate is a tensor that somebody differentiates by.
    """
    if isinstance(optimizer, (int, float, Tensor)):
        return [{"lr": _as_number(optimizer)}]
    if not callable(getattr(optimizer, "values", None)) or not hasattr(optimizer, "groups"):
        is_live = isinstance(optimizer, torch.optim.Optimizer)
        shown = f"the {type(optimizer).__name__} of torch: from_torch makes a record" if is_live else repr(optimizer)
        raise TypeError(f"a schedule starts from an optimizer of funcnet.optim or a learning rate, not {shown}.")
    values = optimizer.values()
    return [
        {name: _as_number(value) if name == "lr" else value for name, value in {**values, **group}.items()}
        for group in ({}, *optimizer.groups.values())
    ]


def _as_number(lr: float | Tensor) -> float:
    if not isinstance(lr, Tensor):
        return lr
    if lr.requires_grad:
        raise TypeError(
            "a schedule starts from a learning rate that is a number, and this tensor requires grad. Schedule a factor "
            "of it: lr * LinearLR(1.0, ...)(step)."
        )
    return float(lr)


class Replay:
    """What a scheduler of torch does to the groups of an optimizer, for every step up to the last that was asked for.

    Args:
        build_scheduler: makes the scheduler for an optimizer of torch.
        groups: hyperparameters of each group before the first step.
    """

    def __init__(
        self, build_scheduler: Callable[[torch.optim.Optimizer], Scheduler], groups: Sequence[Hyperparameters]
    ) -> None:
        self._optimizer = ParamlessOptimizer(groups)
        self._names = [name for name in ("lr", "momentum", "betas") if name in groups[0]]
        self.scheduler = build_scheduler(self._optimizer)
        self._lock = threading.Lock()
        self._table = [self._read_groups()]

    def read_step(self, step: int) -> tuple[Hyperparameters, ...]:
        """For each group the learning rate, momentum and betas that it has, after ``step`` steps of the scheduler."""
        if step >= len(self._table):
            with self._lock:
                while step >= len(self._table):
                    self.scheduler.step()
                    self._table.append(self._read_groups())
        return self._table[step]

    def _read_groups(self) -> tuple[Hyperparameters, ...]:
        return tuple({name: group[name] for name in self._names} for group in self._optimizer.param_groups)
