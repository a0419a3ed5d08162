"""Connectionist temporal classification for every transform. Axes: T time, N batch, C class, S target."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from funcnet._context import beyond_backward, under_transform
from funcnet.kernels._losses import reduce_loss
from funcnet.kernels._second_derivatives import allow_second_derivatives_within

Lengths: TypeAlias = "Tensor | tuple[int, ...]"
"""One length for each example."""

_LOG_ZERO = -1e30  # stands for the log of probability zero; minus infinity would have no gradient


def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Lengths,
    target_lengths: Lengths,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """Torch.nn.functional.ctc_loss, step by step for what the kernel has no rule for.

    >>> ctc_loss(torch.zeros(2, 1, 3).log_softmax(-1), torch.tensor([[1]]), (2,), (1,))
    tensor(1.0986)
    """
    if not beyond_backward(log_probs):
        if under_transform():  # given tuples, the kernel makes tensors itself, which the transform does not know
            input_lengths, target_lengths = torch.as_tensor(input_lengths), torch.as_tensor(target_lengths)
        lengths: tuple[Any, Any] = (input_lengths, target_lengths)  # F also takes tuples
        return allow_second_derivatives_within(
            F.ctc_loss(log_probs, targets, *lengths, blank, reduction, zero_infinity)
        )
    return compose_ctc_loss(log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity)


def compose_ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Any,
    target_lengths: Any,
    blank: int,
    reduction: str,
    zero_infinity: bool,
) -> Tensor:
    """The same in operations that have all derivatives."""
    is_unbatched = log_probs.dim() == 2
    if is_unbatched:
        log_probs, targets = log_probs[:, None], targets.reshape(1, -1)
    input_sizes, target_sizes = (
        torch.as_tensor(lengths, device=log_probs.device).reshape(-1) for lengths in (input_lengths, target_lengths)
    )
    loss = _ctc_by_steps(log_probs, targets, input_sizes, target_sizes, blank, zero_infinity)
    if reduction == "mean":
        loss = loss / target_sizes.clamp(min=1)
    return reduce_loss(loss.squeeze(0) if is_unbatched else loss, reduction)


def _ctc_by_steps(
    log_probs: Tensor, targets: Tensor, input_sizes: Tensor, target_sizes: Tensor, blank: int, zero_infinity: bool
) -> Tensor:
    """Losses (N,) in operations that every transform supports; ``input_sizes`` and ``target_sizes`` are (N,)."""
    time, _, classes = log_probs.shape
    if targets.dim() == 1:
        targets = _pad_targets(targets, target_sizes)
    size = targets.shape[1]
    is_padding = torch.arange(size, device=targets.device) >= target_sizes[:, None]
    has_valid_classes = (((targets >= 0) & (targets < classes)) | is_padding).all(1)
    is_valid = has_valid_classes & (input_sizes >= 0) & (input_sizes <= time)
    is_valid = is_valid & (target_sizes >= 0) & (target_sizes <= size)
    targets = targets.clamp(0, classes - 1)  # the padding may hold any number
    # The states are blank, first class, blank, second class, ..., blank.
    states = torch.stack([torch.full_like(targets, blank), targets], 2).flatten(1)
    states = F.pad(states, (0, 1), value=blank)
    # A class can follow a different class without a blank between them.
    can_skip_blank = (states[:, 2:] != states[:, :-2]) & (states[:, 2:] != blank)
    emitted = log_probs.clamp(min=_LOG_ZERO).gather(2, states.expand(time, *states.shape))

    is_start = torch.arange(states.shape[1], device=states.device) < 2
    log_alpha = torch.where(is_start, emitted[0], _LOG_ZERO)  # of all alignments that are in a state at this step
    for step in range(1, time):
        from_previous = F.pad(log_alpha[:, :-1], (1, 0), value=_LOG_ZERO)
        from_class = F.pad(torch.where(can_skip_blank, log_alpha[:, :-2], _LOG_ZERO), (2, 0), value=_LOG_ZERO)
        sources = torch.stack([log_alpha, from_previous, from_class[:, : 2 * size + 1]])
        log_alpha = torch.where(step < input_sizes[:, None], sources.logsumexp(0) + emitted[step], log_alpha)
    last = (2 * target_sizes.clamp(0, size))[:, None]
    ends = torch.cat([log_alpha.gather(1, last), log_alpha.gather(1, (last - 1).clamp(min=0))], 1)
    ends = torch.where(torch.cat([last < 0, last == 0], 1), _LOG_ZERO, ends)
    loss = -ends.logsumexp(1)

    # The kernel adds exp(log_probs) to its gradient, so this adds a term with that gradient and the value zero. After a
    # log_softmax the gradient of the term is zero too.
    is_input = torch.arange(time, device=log_probs.device)[:, None] < input_sizes
    mass = torch.where(is_input[:, :, None], log_probs.exp(), 0).sum((0, 2))
    mass = mass - mass.detach()
    loss_without_input = torch.where(target_sizes == 0, 0.0, math.inf)
    loss = torch.where(input_sizes == 0, loss_without_input, loss + mass)
    is_impossible = loss > -_LOG_ZERO / 2
    infinite = 0.0 if zero_infinity else math.inf * (1 + torch.where(is_impossible, mass, 0.0))
    return torch.where(is_valid, torch.where(is_impossible, infinite, loss), math.nan)


def _pad_targets(targets: Tensor, target_sizes: Tensor) -> Tensor:
    """Concatenated targets as one row for each. A row is as long as all targets, as the longest size is not known."""
    starts = target_sizes.cumsum(0) - target_sizes
    positions = starts[:, None] + torch.arange(len(targets), device=targets.device)
    return targets[positions.clamp(max=len(targets) - 1)] if len(targets) else targets.new_zeros(len(target_sizes), 0)
