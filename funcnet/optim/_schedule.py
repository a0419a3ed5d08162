"""The base of all schedules: a frozen record that is a function of the step."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from funcnet._format import join_words
from funcnet._torch import assume_constant_result, register_constant
from funcnet.optim._missing_attributes import ExplainsMissing
from funcnet.optim._replay import HasHyperparameters, Hyperparameters, Replay, Scheduler, read_groups
from funcnet.optim._scheduler_state_dicts import check_scheduler_state, find_last_epoch


@dataclasses.dataclass(frozen=True)
class Schedule(ExplainsMissing):
    """Hyperparameters as a function of the step, with the floats of the scheduler of the same name in torch.

    A schedule has no state: how far a run has come is one number, the step, and that is all there is to save. Its
    first argument is the optimizer that it is for, whose learning rate, momentum and groups it starts from, or a
    learning rate; all others are those of the scheduler in ``torch.optim.lr_scheduler``, which also checks them. Where
    that one takes a list with an entry for each group, the first entry is for the params that are in no group.

    Any function of the step that returns a number is a schedule too: ``optimizer.step(..., lr=function(step))``.

    >>> import funcnet as fn
    >>> schedule = fn.optim.StepLR(0.1, step_size=2)
    >>> isinstance(schedule, Schedule), [round(schedule(step), 4) for step in range(4)]
    (True, [0.1, 0.1, 0.01, 0.01])
    """

    _divisors: ClassVar[tuple[str, ...]] = ()
    """Names of the fields that the scheduler of torch divides by, for which it does not refuse 0."""

    _instead: ClassVar[Mapping[str, str]] = {
        "step": "it has no state to move on; schedule(step) is the learning rate of a step",
        "get_last_lr": "schedule(step) is the learning rate of a step",
        "last_epoch": "the step is a number of the run, which schedule(step) is given",
        "state_dict": "the step is all there is to save; schedule.to_torch(...).state_dict() is that of torch",
        "load_state_dict": "schedule.read_state_dict(state_dict) returns the step that a scheduler of torch stands at",
    }

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        register_constant(cls)  # so that compiled code may call it with a step that is a Python int

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):
                object.__setattr__(self, field.name, tuple(value))
        zeros = [name for name in self._divisors if getattr(self, name) == 0]
        if zeros:
            raise ValueError(f"{type(self).__name__} divides by {join_words(zeros)}: expected a number above 0, got 0.")
        self._replay  # noqa: B018  # torch's scheduler is built, which refuses arguments that are wrong

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    @property
    def _replay(self) -> Replay:
        replay: Replay | None = self.__dict__.get("_cached_replay")
        if replay is None:
            replay = Replay(self._build_scheduler, read_groups(self._initial_source()))
            self.__dict__["_cached_replay"] = replay
        return replay

    def _initial_source(self) -> HasHyperparameters | float:
        """The optimizer or the learning rate that the schedule starts from."""
        source: HasHyperparameters | float = getattr(self, "optimizer")
        return source

    def _build_scheduler(self, optimizer: torch.optim.Optimizer) -> Scheduler:
        """The scheduler of torch for an optimizer of torch."""
        cls = getattr(torch.optim.lr_scheduler, type(self).__name__)
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return cls(**{**values, "optimizer": optimizer})

    def __call__(self, step: int | Tensor) -> float:
        """The learning rate after ``step`` steps, which is 0 at the start; for ``optimizer.step(..., lr=...)``.

        Raises:
            TypeError: if the schedule moves more than one learning rate, which :meth:`hyperparameters` returns.
            ValueError: if the step is negative, or beyond the end that some schedules have.
        """
        values = self.hyperparameters(step)
        if len(values) > 1:
            raise TypeError(
                f"{type(self).__name__} moves {join_words(map(repr, values))}, not one learning rate: call "
                "optimizer.step(params, grads, state, **schedule.hyperparameters(step))."
            )
        lr: float = values["lr"]
        return lr

    def hyperparameters(self, step: int | Tensor) -> Hyperparameters:
        """All that the schedule moves, by name, for ``optimizer.step(..., **schedule.hyperparameters(step))``.

        Args:
            step: how many steps of the scheduler came before: 0 at the start.

        Returns:
            The learning rate as ``lr``; ``momentum`` or ``betas``, if the schedule moves them; and ``groups``, if the
            optimizer has groups with values of their own.

        >>> from funcnet.optim import ExponentialLR
        >>> ExponentialLR(0.5, gamma=0.5).hyperparameters(1)
        {'lr': 0.25}
        """
        return _collect_moved(self._initial_source(), read_step(self, _as_step(step)), self._moves_momentum())

    def table(self, steps: int, *, device: torch.device | str | None = None) -> Tensor:
        """The learning rates of the first ``steps`` steps, shape (steps,), float64; of several groups, (steps, groups).

        Compiled code and vmap, where the step is a tensor, read ``table.gather(0, step)``.

        >>> from funcnet.optim import ExponentialLR
        >>> ExponentialLR(0.5, gamma=0.5).table(3)
        tensor([0.5000, 0.2500, 0.1250], dtype=torch.float64)
        """
        rows = [[group["lr"] for group in read_step(self, step)] for step in range(steps)]
        table = torch.tensor(rows, dtype=torch.float64, device=device).reshape(steps, -1)
        return table[:, 0] if table.shape[1] == 1 else table

    def to_torch(self, optimizer: torch.optim.Optimizer, step: int = 0) -> Scheduler:
        """The scheduler of torch that goes on from this step, and drives an optimizer of torch.

        It writes to the optimizer's groups, as a scheduler does; they count in the order of their group in the record,
        after the params that are in no group.

        Args:
            optimizer: an optimizer of torch with the learning rates that this schedule starts from.
            step: how many steps came before.

        >>> from funcnet.optim import StepLR
        >>> optimizer = torch.optim.SGD([torch.ones(1)], lr=0.5)
        >>> scheduler = StepLR(0.5, step_size=2).to_torch(optimizer, step=3)
        >>> scheduler.get_last_lr(), scheduler.last_epoch
        ([0.05], 3)
        """
        groups = [
            {name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups
        ]
        scheduler = self._build_scheduler(optimizer)  # which also makes the optimizer count its steps for schedulers
        if step:
            replay = Replay(self._build_scheduler, groups)
            moved = replay.read_step(step)
            scheduler = replay.scheduler
            _hand_over(scheduler, optimizer)
            for group, values in zip(optimizer.param_groups, moved, strict=True):
                group.update(values)
        return scheduler

    def read_state_dict(self, state_dict: Mapping[str, Any]) -> int:
        """The step that the state_dict of a scheduler of torch stands at; the way back from :meth:`to_torch`.

        Args:
            state_dict: of a scheduler of the same class, made with the arguments of this schedule. Those that are
                functions it does not hold, and they are not checked.

        Raises:
            TreeError: if it is of another schedule; names all that differs.

        >>> from funcnet.optim import StepLR
        >>> optimizer = torch.optim.SGD([torch.ones(1)], lr=0.5)
        >>> scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2)
        >>> optimizer.step()
        >>> scheduler.step()
        >>> StepLR(0.5, step_size=2).read_state_dict(scheduler.state_dict())
        1
        """
        name = type(self).__name__
        step = find_last_epoch(name, state_dict)
        replay = Replay(self._build_scheduler, read_groups(self._initial_source()))
        replay.read_step(step)
        check_scheduler_state(name, state_dict, replay.scheduler.state_dict())
        return step

    def _moves_momentum(self) -> bool:
        return False


def _hand_over(scheduler: Scheduler, optimizer: torch.optim.Optimizer) -> None:
    """Make a scheduler, and its parts, write to a different optimizer."""
    scheduler.optimizer = optimizer
    for part in getattr(scheduler, "_schedulers", ()):
        _hand_over(part, optimizer)


@assume_constant_result
def read_step(schedule: Schedule, step: int) -> tuple[Hyperparameters, ...]:
    """The groups of a schedule at a step; compiled code takes them for constants."""
    return schedule._replay.read_step(step)


def _as_step(step: int | Tensor) -> int:
    if torch.compiler.is_compiling() and isinstance(step, Tensor):
        raise TypeError(
            "a schedule takes a step that is a number. Compiled code that has it as a tensor reads a table that was "
            "made outside: table = schedule.table(steps), then table.gather(0, step)."
        )
    number = operator.index(step)
    if number < 0:
        raise ValueError(f"a schedule counts steps from 0, got {number}.")
    return number


def _collect_moved(
    source: HasHyperparameters | float, groups: Sequence[Hyperparameters], moves_momentum: bool
) -> Hyperparameters:
    """Arguments of ``Optimizer.step``: values of params in no group, and of groups that differ or have their own."""
    names = [name for name in groups[0] if name == "lr" or moves_momentum]
    result: Hyperparameters = {name: groups[0][name] for name in names}
    if len(groups) == 1:
        return result
    assert not isinstance(source, (int, float, Tensor))
    of_groups = {}
    for (selector, group_values), group in zip(source.groups.items(), groups[1:], strict=True):
        values = {name: group[name] for name in names if name in group_values or group[name] != result[name]}
        if values:
            of_groups[selector] = values
    return {**result, "groups": of_groups} if of_groups else result
