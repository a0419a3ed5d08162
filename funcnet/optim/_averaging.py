"""Averages of params over the steps of a run, for evaluation: exponential moving and equally weighted ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from funcnet._context import can_read_numbers, is_plainly_eager, under_forward_mode
from funcnet._errors import TreeError, bullet_list
from funcnet._tensors import is_inexact
from funcnet._torch import foreach_lerp, foreach_lerp_, register_constant
from funcnet._typing import Tree, TreeLike
from funcnet.optim._donated_memory import are_writable
from funcnet.optim._pairing import require_tree
from funcnet.tree import flatten, map, map_with_path
from funcnet.tree.internals import require_same_paths

AverageFunction: TypeAlias = "Callable[[Tensor, Tensor, Tensor], Tensor | float]"
"""``(averaged, current, n_averaged) -> averaged``, as torch's ``avg_fn`` is."""


@dataclass(frozen=True)
class Averaging:
    """What every average is: a rule that makes a new state of a state and params.

    It does what :class:`torch.optim.swa_utils.AveragedModel` does, with the same bits, and its state is a value:
    ``{"n_averaged": how often it was updated, "params": the average}``. The first update copies the params.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        register_constant(cls)

    def init(self, params: TreeLike, *, dtype: torch.dtype | None = None) -> Tree:
        """The state before the first update, with a copy of the params.

        Args:
            params: nested dicts of tensors: params, or params and buffers under two keys, to average both.
            dtype: in which floating params are averaged, if not their own; float32 for params in bfloat16.
        """

        def copy_leaf(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            return leaf.detach().to(dtype if leaf.is_floating_point() else None, copy=True)

        require_tree(params)
        return {"n_averaged": torch.tensor(0), "params": map(copy_leaf, params)}

    def update(self, average: TreeLike, params: TreeLike, *, donate: bool = False) -> Tree:
        """The state with one more tree of params in the average; ``params`` are never written to.

        Args:
            average: what :meth:`init` or the last update returned.
            params: nested dicts with the paths and shapes of ``average["params"]``.
            donate: whether the memory of ``average`` may be written over and returned.

        Raises:
            TreeError: if paths or shapes differ, or ``average`` is none; names all of them.
        """
        if not {"n_averaged", "params"} <= average.keys():
            raise TreeError(
                f"an average is what init or update returned, a dict with 'n_averaged' and 'params', and this has "
                f"{', '.join([repr(key) for key in average][:4])}. update takes it first, and then params."
            )
        averaged, current = average["params"], params
        averaged_leaves, current_leaves = flatten(averaged), flatten(current)
        if averaged_leaves.keys() != current_leaves.keys():
            require_same_paths("an average", averaged, current)
        averaged_leaves = {path: leaf for path, leaf in averaged_leaves.items() if isinstance(leaf, Tensor)}
        current_leaves = {path: leaf for path, leaf in current_leaves.items() if isinstance(leaf, Tensor)}
        problems = [
            f"{path!r} has shape {tuple(current_leaves[path].shape)}, its average {tuple(leaf.shape)}"
            for path, leaf in averaged_leaves.items()
            if path in current_leaves and current_leaves[path].shape != leaf.shape
        ]
        if problems:
            raise TreeError(f"the params do not fit their average:{bullet_list(problems)}")
        count = torch.as_tensor(average["n_averaged"])
        paths = [path for path in averaged_leaves if path in current_leaves]
        targets = [averaged_leaves[path] for path in paths]
        sources = [_on_device_of(averaged_leaves[path], current_leaves[path]) for path in paths]
        writable = are_writable(targets) if donate else [False] * len(targets)
        new = dict(zip(paths, self._average_first_or_next(targets, sources, count, writable), strict=True))
        return {
            **average,
            "n_averaged": count + 1,
            "params": map_with_path(lambda path, leaf: new.get(path, leaf), averaged),
        }

    def _average_first_or_next(
        self, averaged: list[Tensor], current: list[Tensor], count: Tensor, writable: list[bool]
    ) -> list[Tensor]:
        """The averages after an update; the first update copies the params."""
        if can_read_numbers() and not count.is_meta:
            if count.item() == 0:
                return [
                    target.copy_(source) if may_write else source.to(target.dtype, copy=True)
                    for target, source, may_write in zip(averaged, current, writable, strict=True)
                ]
            return self._average_leaves(averaged, current, count, writable)
        averages = self._average_leaves(averaged, current, count, [False] * len(averaged))
        return [
            torch.where(count == 0, source.to(average.dtype), average)
            for source, average in zip(current, averages, strict=True)
        ]

    def _average_leaves(
        self, averaged: list[Tensor], current: list[Tensor], count: Tensor, writable: list[bool]
    ) -> list[Tensor]:
        """The averages after an update that is not the first."""
        raise NotImplementedError


@dataclass(frozen=True)
class WeightAverage(Averaging):
    """An average of params by a function of one's own; :class:`EMA` and :class:`SWA` are the usual ones.

    Args:
        avg_fn: ``(averaged, current, n_averaged) -> averaged`` for one tensor; any ``avg_fn`` of torch is one.

    >>> largest = WeightAverage(lambda averaged, current, n_averaged: torch.maximum(averaged, current))
    >>> average = largest.init({"w": torch.tensor([1.0, 5.0])})
    >>> for w in ([1.0, 5.0], [2.0, 3.0]):
    ...     average = largest.update(average, {"w": torch.tensor(w)})
    >>> average
    {'n_averaged': tensor(2), 'params': {'w': tensor([2., 5.])}}
    """

    avg_fn: AverageFunction

    def _average_leaves(
        self, averaged: list[Tensor], current: list[Tensor], count: Tensor, writable: list[bool]
    ) -> list[Tensor]:
        def mix_leaf(target: Tensor, source: Tensor) -> Tensor:
            return torch.as_tensor(self.avg_fn(target, source, count.to(target.device)))

        return _mix_all(averaged, current, mix_leaf, writable)


@dataclass(frozen=True)
class EMA(Averaging):
    """The exponential moving average of params.

    Args:
        decay: weight of the old average, in [0, 1].
        lerp: which of torch's two roundings: ``get_ema_multi_avg_fn``, ``averaged + (1 - decay) * (current -
            averaged)``, or with ``lerp=False`` ``get_ema_avg_fn``, ``decay * averaged + (1 - decay) * current``.

    >>> ema = EMA(0.5)
    >>> average = ema.init({"w": torch.tensor(1.0)})
    >>> for w in (1.0, 2.0, 3.0):
    ...     average = ema.update(average, {"w": torch.tensor(w)})
    >>> average
    {'n_averaged': tensor(3), 'params': {'w': tensor(2.2500)}}
    """

    decay: float = 0.999
    lerp: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.decay, (int, float)):
            raise TypeError(f"EMA: decay is a number, not {type(self.decay).__name__}; ema.init(params) makes a state.")
        if not 0.0 <= self.decay <= 1.0:
            raise ValueError(f"EMA: decay is a weight in [0, 1], got {self.decay}.")

    def _average_leaves(
        self, averaged: list[Tensor], current: list[Tensor], count: Tensor, writable: list[bool]
    ) -> list[Tensor]:
        weight = 1 - self.decay

        def mix_leaf(target: Tensor, source: Tensor) -> Tensor:
            return self.decay * target + weight * source

        if self.lerp:
            return _lerp_all(averaged, current, weight, mix_leaf, writable)
        return _mix_all(averaged, current, mix_leaf, writable)


@dataclass(frozen=True)
class SWA(Averaging):
    """The equally weighted average of params.

    Args:
        lerp: which of torch's two roundings: ``get_swa_multi_avg_fn``, or with ``lerp=False`` ``get_swa_avg_fn``,
            ``averaged + (current - averaged) / (n_averaged + 1)``. ``None`` is the one that AveragedModel takes by
            itself: the first on a GPU, the second on a CPU.

    >>> swa = SWA()
    >>> average = swa.init({"w": torch.tensor(1.0)})
    >>> for w in (1.0, 2.0, 6.0):
    ...     average = swa.update(average, {"w": torch.tensor(w)})
    >>> average
    {'n_averaged': tensor(3), 'params': {'w': tensor(3.)}}
    """

    lerp: bool | None = None

    def _average_leaves(
        self, averaged: list[Tensor], current: list[Tensor], count: Tensor, writable: list[bool]
    ) -> list[Tensor]:
        def mix_leaf(target: Tensor, source: Tensor) -> Tensor:
            return target + (source - target) / (count.to(target.device) + 1)

        lerps = self.lerp
        if lerps is None:
            lerps = len(averaged) > 0 and averaged[0].device.type in ("cuda", "xpu", "mtia")
        if lerps:
            weight = 1 / (count + 1)
            return _lerp_all(averaged, current, weight.item() if is_plainly_eager() else weight, mix_leaf, writable)
        return _mix_all(averaged, current, mix_leaf, writable)


def _on_device_of(target: Tensor, source: Tensor) -> Tensor:
    return source if source.device == target.device else source.to(target.device)


PairFunction: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def _mix_all(
    averaged: list[Tensor], current: list[Tensor], mix_leaf: PairFunction, writable: list[bool]
) -> list[Tensor]:
    return [
        target.copy_(mix_leaf(target, source)) if may_write else mix_leaf(target, source).to(target.dtype)
        for target, source, may_write in zip(averaged, current, writable, strict=True)
    ]


def _lerp_all(
    averaged: list[Tensor],
    current: list[Tensor],
    weight: float | Tensor,
    mix_leaf: PairFunction,
    writable: list[bool],
) -> list[Tensor]:
    """Interpolations of all pairs; integers, which have none, are combined instead and rounded toward zero."""
    if not all(is_inexact(target) for target in averaged):
        return [
            _lerp_all([target], [source], weight, mix_leaf, [may_write])[0]
            if is_inexact(target)
            else _mix_all([target], [source], mix_leaf, [may_write])[0]
            for target, source, may_write in zip(averaged, current, writable, strict=True)
        ]
    sources = [
        source if source.dtype is target.dtype else source.to(target.dtype)
        for target, source in zip(averaged, current, strict=True)
    ]
    if isinstance(weight, Tensor) or not is_plainly_eager() or under_forward_mode() or not averaged:
        return [_lerp_leaf(target, source, weight) for target, source in zip(averaged, sources, strict=True)]
    if all(writable):
        foreach_lerp_(averaged, sources, weight)
        return averaged
    new = foreach_lerp(averaged, sources, weight)
    return [
        target.copy_(value) if may_write else value
        for target, value, may_write in zip(averaged, new, writable, strict=True)
    ]


def _lerp_leaf(target: Tensor, source: Tensor, weight: float | Tensor) -> Tensor:
    if isinstance(weight, Tensor):
        return torch.lerp(target, source, weight.to(target.device, target.dtype))
    return torch.lerp(target, source, weight)
