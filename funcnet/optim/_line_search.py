"""A line search for the strong Wolfe conditions, with the steps and the bits of that in torch.optim.LBFGS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from funcnet.optim._scalars import Scalar

ARMIJO, CURVATURE = 1e-4, 0.9
"""How far the loss must fall, and how flat it must become, as parts of the first slope."""

SHORTEST = 1e-9
"""The length of the largest move below which a bracket is not divided any more."""


@dataclass(frozen=True)
class Trial:
    """A point on the line.

    Args:
        t: how far along the direction it lies.
        loss: the value there.
        grad: the gradient there, all params in a row.
        slope: the derivative of the loss along the direction.
    """

    t: Scalar
    loss: Scalar
    grad: Tensor
    slope: Tensor


def search_line(
    evaluate: Callable[[Scalar], Trial], start: Trial, t: Scalar, direction: Tensor, max_trials: int
) -> tuple[Trial, int]:
    """A trial that satisfies the strong Wolfe conditions, or the best trial; and the number of trials.

    Args:
        evaluate: makes the trial at a distance.
        start: the trial at distance 0.
        t: the first distance to try.
        direction: the move of all params for a distance of 1.
        max_trials: when to stop.
    """
    longest = direction.abs().max()
    bracket, count = _find_bracket(evaluate, start, t, max_trials)
    if len(bracket) == 1:
        return bracket[0], count
    low, high = _order(bracket)
    is_stuck = False
    while count <= max_trials:
        distance: Any = bracket[1].t - bracket[0].t
        if abs(distance) * longest < SHORTEST:
            break
        t, is_stuck = _keep_inside(_minimum_of_cubic(bracket[0], bracket[1]), bracket, is_stuck)
        trial = evaluate(t)
        count += 1
        if _falls_too_little(trial, start) or trial.loss >= bracket[low].loss:
            bracket[high] = trial
            low, high = _order(bracket)
            continue
        is_flat = abs(trial.slope) <= -CURVATURE * start.slope
        if not is_flat and trial.slope * (bracket[high].t - bracket[low].t) >= 0:
            bracket[high] = bracket[low]
        bracket[low] = trial
        if is_flat:
            return trial, count
    return bracket[low], count


def _find_bracket(
    evaluate: Callable[[Scalar], Trial], start: Trial, t: Scalar, max_trials: int
) -> tuple[list[Trial], int]:
    """Two trials between which the conditions are satisfied, or one that satisfies them; and how many were made."""
    previous, trial, count = start, evaluate(t), 1
    while count <= max_trials:
        if _falls_too_little(trial, start) or (count > 2 and trial.loss >= previous.loss):
            return [previous, trial], count
        if abs(trial.slope) <= -CURVATURE * start.slope:
            return [trial], count
        if trial.slope >= 0:
            return [previous, trial], count
        bounds = (trial.t + 0.01 * (trial.t - previous.t), trial.t * 10)
        previous, trial = trial, evaluate(_minimum_of_cubic(previous, trial, bounds))
        count += 1
    return [start, trial], count


def _falls_too_little(trial: Trial, start: Trial) -> bool:
    return bool(trial.loss > (start.loss + ARMIJO * trial.t * start.slope))


def _order(bracket: list[Trial]) -> tuple[int, int]:
    """The indices of the trials with the lower and the higher loss."""
    return (0, 1) if bracket[0].loss <= bracket[1].loss else (1, 0)


def _keep_inside(t: Scalar, bracket: list[Trial], is_stuck: bool) -> tuple[Scalar, bool]:
    """The distance, moved into the bracket if it comes near its ends twice; and whether it has come near them now."""
    left: Any = min(trial.t for trial in bracket)
    right: Any = max(trial.t for trial in bracket)
    margin = 0.1 * (right - left)
    if not min(right - t, t - left) < margin:
        return t, False
    if is_stuck or t >= right or t <= left:
        return (right - margin if abs(t - right) < abs(t - left) else left + margin), False
    return t, True


def _minimum_of_cubic(first: Trial, second: Trial, bounds: tuple[Scalar, Scalar] | None = None) -> Scalar:
    """Where the cubic through two trials, with their slopes, has its minimum; within bounds, or between the two."""
    nearer, farther = (first, second) if first.t <= second.t else (second, first)
    left, right = bounds or (nearer.t, farther.t)
    mean = first.slope + second.slope - 3 * (first.loss - second.loss) / (first.t - second.t)
    radicand = mean**2 - first.slope * second.slope
    if not radicand >= 0:
        return (left + right) / 2.0
    root = radicand.sqrt()
    t = farther.t - (farther.t - nearer.t) * ((farther.slope + root - mean) / (farther.slope - nearer.slope + 2 * root))
    return min(max(t, left), right)
