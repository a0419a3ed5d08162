"""A learning rate that depends on how the run goes: its state is a value."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from funcnet.optim._replay import HasHyperparameters, Hyperparameters, ParamlessOptimizer, Scheduler, read_groups
from funcnet.optim._scheduler_state_dicts import check_scheduler_state, find_last_epoch

PlateauState = dict[str, Any]
"""Numbers by name: ``{"lr": [0.1], "best": 0.3, "num_bad_epochs": 2, "cooldown_counter": 0, "last_epoch": 7}``."""


@dataclass(frozen=True)
class ReduceLROnPlateau:
    """The learning rate times ``factor`` when a metric has not become better for some epochs.

    It has the arguments, the rule and the floats of :class:`torch.optim.lr_scheduler.ReduceLROnPlateau`. What that one
    keeps inside is a dict of numbers here, which is saved with the rest of a run.

    Args:
        optimizer: a record of ``funcnet.optim``, or a learning rate.
        mode: whether the metric is better when it is lower, "min", or higher, "max".
        factor: of each change, below 1.
        patience: number of epochs without a better metric that are let pass.
        threshold: how much better a metric must be to count.
        threshold_mode: whether that is a part of the best one, "rel", or a difference, "abs".
        cooldown: number of epochs after a change in which nothing counts.
        min_lr: the lowest learning rate, or a list with one for each group, that of params in no group first.
        eps: the smallest change that is made.

    >>> plateau = ReduceLROnPlateau(0.5, factor=0.5, patience=0)
    >>> state = plateau.init()
    >>> for loss in [1.0, 0.7, 0.7]:
    ...     state = plateau.step(state, loss)
    >>> plateau.hyperparameters(state)
    {'lr': 0.25}
    """

    optimizer: HasHyperparameters | float
    mode: Literal["min", "max"] = "min"
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    threshold_mode: Literal["rel", "abs"] = "rel"
    cooldown: int = 0
    min_lr: float | Sequence[float] = 0
    eps: float = 1e-8

    def __post_init__(self) -> None:
        if isinstance(self.min_lr, list):
            object.__setattr__(self, "min_lr", tuple(self.min_lr))
        problems = []
        if self.factor >= 1.0:
            problems.append(f"factor is below 1, got {self.factor}")
        if self.mode not in ("min", "max"):
            problems.append(f"mode is 'min' or 'max', got {self.mode!r}")
        if self.threshold_mode not in ("rel", "abs"):
            problems.append(f"threshold_mode is 'rel' or 'abs', got {self.threshold_mode!r}")
        count = len(read_groups(self.optimizer))
        if isinstance(self.min_lr, tuple) and len(self.min_lr) != count:
            problems.append(f"min_lr has one number for each of {count} groups, got {len(self.min_lr)}")
        if problems:
            raise ValueError(f"ReduceLROnPlateau: {'; '.join(problems)}.")

    def init(self) -> PlateauState:
        """The state before the first metric, with the learning rate of each group in ``lr``."""
        return {
            "lr": [group["lr"] for group in read_groups(self.optimizer)],
            "best": math.inf if self.mode == "min" else -math.inf,
            "num_bad_epochs": 0,
            "cooldown_counter": 0,
            "last_epoch": 0,
        }

    def step(self, state: Mapping[str, Any], metrics: float | Tensor) -> PlateauState:
        """The state after one more metric; ``state`` stays as it is.

        Args:
            state: what :meth:`init` or the last step returned.
            metrics: the metric of this epoch.
        """
        metric = float(metrics)
        lr, best, bad_epochs = list(state["lr"]), state["best"], state["num_bad_epochs"] + 1
        cooldown = state["cooldown_counter"]
        if self._is_better(metric, best):
            best, bad_epochs = metric, 0
        if cooldown > 0:
            cooldown, bad_epochs = cooldown - 1, 0
        if bad_epochs > self.patience:
            lr = self._reduce_lrs(lr)
            cooldown, bad_epochs = self.cooldown, 0
        return {
            "lr": lr,
            "best": best,
            "num_bad_epochs": bad_epochs,
            "cooldown_counter": cooldown,
            "last_epoch": state["last_epoch"] + 1,
        }

    def hyperparameters(self, state: Mapping[str, Any]) -> Hyperparameters:
        """The learning rates of a state, for ``optimizer.step(..., **plateau.hyperparameters(state))``."""
        first_rate, *group_rates = state["lr"]
        if not group_rates:
            return {"lr": first_rate}
        assert not isinstance(self.optimizer, (int, float, Tensor))
        groups = zip(self.optimizer.groups, group_rates, strict=True)
        return {"lr": first_rate, "groups": {selector: {"lr": lr} for selector, lr in groups}}

    def to_torch(self, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> Scheduler:
        """The scheduler of torch that goes on from this state, and drives an optimizer of torch.

        It writes to the optimizer's groups, as a scheduler does; they count in the order of their group in the record,
        after the params that are in no group.

        Args:
            optimizer: an optimizer of torch.
            state: what :meth:`init` or the last step returned.

        >>> optimizer = torch.optim.SGD([torch.ones(1)], lr=0.5)
        >>> plateau = ReduceLROnPlateau(0.5, factor=0.5, patience=0)
        >>> plateau.to_torch(optimizer, plateau.step(plateau.init(), 1.0)).best
        1.0
        """
        scheduler = self._build_scheduler(optimizer)
        counts = {name: value for name, value in state.items() if name != "lr"}
        scheduler.load_state_dict({**scheduler.state_dict(), **counts, "_last_lr": list(state["lr"])})
        for group, lr in zip(optimizer.param_groups, state["lr"], strict=True):
            group["lr"] = lr
        return scheduler

    def read_state_dict(self, state_dict: Mapping[str, Any]) -> PlateauState:
        """The state that the state_dict of a scheduler of torch stands for; the way back from :meth:`to_torch`.

        Args:
            state_dict: of a ReduceLROnPlateau of torch that was made with the arguments of this one.

        Raises:
            TreeError: if it is of another schedule; names all that differs.

        >>> plateau = ReduceLROnPlateau(0.5)
        >>> optimizer = torch.optim.SGD([torch.ones(1)], lr=0.5)
        >>> plateau.read_state_dict(plateau.to_torch(optimizer, plateau.init()).state_dict()) == plateau.init()
        True
        """
        name = type(self).__name__
        last_epoch = find_last_epoch(name, state_dict)
        first_state = self.init()
        of_the_run = {"_last_lr": "lr", **{key: key for key in first_state if key != "lr"}}
        scheduler = self._build_scheduler(ParamlessOptimizer(read_groups(self.optimizer)))
        arguments = {key: value for key, value in scheduler.state_dict().items() if key not in of_the_run}
        check_scheduler_state(name, state_dict, arguments)
        state = {own: state_dict.get(key, first_state[own]) for key, own in of_the_run.items()}
        return {**state, "lr": list(state["lr"]), "last_epoch": last_epoch}

    def _build_scheduler(self, optimizer: torch.optim.Optimizer) -> Scheduler:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        if isinstance(self.min_lr, tuple):
            values["min_lr"] = list(self.min_lr)
        return torch.optim.lr_scheduler.ReduceLROnPlateau(**{**values, "optimizer": optimizer})

    def _reduce_lrs(self, lrs: Sequence[float]) -> list[float]:
        lowest = self.min_lr if isinstance(self.min_lr, tuple) else (self.min_lr,) * len(lrs)
        assert isinstance(lowest, tuple)
        reduced = [max(lr * self.factor, limit) for lr, limit in zip(lrs, lowest, strict=True)]
        return [new if lr - new > self.eps else lr for lr, new in zip(lrs, reduced, strict=True)]

    def _is_better(self, metric: float, best: float) -> bool:
        if self.mode == "min":
            return metric < (best * (1.0 - self.threshold) if self.threshold_mode == "rel" else best - self.threshold)
        return metric > (best * (self.threshold + 1.0) if self.threshold_mode == "rel" else best + self.threshold)
