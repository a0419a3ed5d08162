"""Connectionist temporal classification, of torch/nn/modules/loss.py. Axes: T time, N batch, C class, S target."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from funcnet._context import beyond_backward, under_transform
from funcnet.core import View
from funcnet.layers._loss import Loss, reduce_loss

_NEVER = -1e30  # log of the probability of what cannot be; minus infinity has no gradient


class CTCLoss(Loss):
    """Minus the log probability of a sequence, over all ways to stretch it to the length of the input.

    Between two classes, and only there if they are equal, the input may name the blank any number of times.

    Args:
        blank: the class that stands for no class.
        reduction: "none", "mean" (each over the length of its target, then over N) or "sum".
        zero_infinity: let targets too long for their input count nothing; else they are infinite.

    Params, Buffers, Draws: none.
    Shape:  log_probs (T, N, C) with targets (N, S), or (sum of target_lengths,), and lengths (N,); or log_probs (T, C)
        with targets (S,) and lengths () or (1,). Lengths are all tensors or all tuples. -> y (), or (N,) not reduced.
    Raises: ShapeError for lengths that do not fit; ValueError for a negative ``blank``. Classes are not looked at: for
        one out of range torch's kernel reads memory that is not its own.
    Source: torch.nn.functional.ctc_loss. Its kernel knows no vmap, jvp, second derivative, compile or export; under
        them the recursion over T is run step by step, which takes longer, and to compile too, and gives NaN for lengths
        or classes that do not fit. As with the kernel, the gradient has ``exp(log_probs)`` added: nothing, behind a
        log_softmax.

    >>> log_probs = torch.full((3, 1, 2), 0.5).log()
    >>> CTCLoss()({}, log_probs, torch.tensor([[1]]), (3,), (1,))
    tensor(0.2877)
    """

    blank: int = 0
    reduction: str = "mean"
    zero_infinity: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.blank < 0:
            raise ValueError(f"CTCLoss: blank is a class, at least 0, got {self.blank}.")

    def expects(self) -> str:
        return "log_probs (T, N, C), targets (N, S) or (sum of lengths,), lengths (N,); or (T, C), (S,) and ()"

    @staticmethod
    def forward(p: View, log_probs: Tensor, targets: Tensor, input_lengths: Tensor, target_lengths: Tensor) -> Tensor:
        if not beyond_backward():
            if under_transform():  # the kernel for lengths in tuples makes tensors, and takes them for outsiders then
                input_lengths, target_lengths = torch.as_tensor(input_lengths), torch.as_tensor(target_lengths)
            return F.ctc_loss(log_probs, targets, input_lengths, target_lengths, p.blank, p.reduction, p.zero_infinity)
        single = log_probs.dim() == 2
        if single:
            log_probs, targets = log_probs[:, None], targets.reshape(1, -1)
        spent, wanted = (
            torch.as_tensor(lengths, device=log_probs.device).reshape(-1) for lengths in (input_lengths, target_lengths)
        )
        loss = _by_steps(p, log_probs, targets, spent, wanted)
        if p.reduction == "mean":
            loss = loss / wanted.clamp(min=1)
        return reduce_loss(loss.squeeze(0) if single else loss, p.reduction)


def _by_steps(p: View, log_probs: Tensor, targets: Tensor, spent: Tensor, wanted: Tensor) -> Tensor:
    """Losses (N,) by operations that every transform knows; ``spent`` and ``wanted`` are the lengths (N,)."""
    time, _, classes = log_probs.shape
    if targets.dim() == 1:
        targets = _padded(targets, wanted)
    size = targets.shape[1]
    known = ((targets >= 0) & (targets < classes)) | (torch.arange(size, device=targets.device) >= wanted[:, None])
    fits = known.all(1) & (spent >= 0) & (spent <= time) & (wanted >= 0) & (wanted <= size)
    targets = targets.clamp(0, classes - 1)  # what lies beyond a length may be anything
    # states: blank, first class, blank, second class, ..., blank
    states = torch.stack([torch.full_like(targets, p.blank), targets], 2).flatten(1)
    states = F.pad(states, (0, 1), value=p.blank)
    # a class may follow another one without a blank in between
    follows = (states[:, 2:] != states[:, :-2]) & (states[:, 2:] != p.blank)
    seen = log_probs.clamp(min=_NEVER).gather(2, states.expand(time, *states.shape))

    start = torch.arange(states.shape[1], device=states.device) < 2
    reached = torch.where(start, seen[0], _NEVER)
    for step in range(1, time):
        from_before = F.pad(reached[:, :-1], (1, 0), value=_NEVER)
        from_class = F.pad(torch.where(follows, reached[:, :-2], _NEVER), (2, 0), value=_NEVER)[:, : 2 * size + 1]
        ahead = torch.stack([reached, from_before, from_class]).logsumexp(0) + seen[step]
        reached = torch.where(step < spent[:, None], ahead, reached)
    last = (2 * wanted.clamp(0, size))[:, None]
    ends = torch.cat([reached.gather(1, last), reached.gather(1, (last - 1).clamp(min=0))], 1)
    ends = torch.where(torch.cat([last < 0, last == 0], 1), _NEVER, ends)
    loss = -ends.logsumexp(1)

    # The kernel's gradient has exp(log_probs) in it: zero behind log_softmax, and its value is zero here.
    heard = torch.arange(time, device=log_probs.device)[:, None] < spent
    mass = torch.where(heard[:, :, None], log_probs.exp(), 0).sum((0, 2))
    mass = mass - mass.detach()
    nothing = torch.where(wanted == 0, 0.0, math.inf)
    loss = torch.where(spent == 0, nothing, loss + mass)
    never = loss > -_NEVER / 2
    loss = torch.where(never, 0.0 if p.zero_infinity else math.inf * (1 + torch.where(never, mass, 0.0)), loss)
    return torch.where(fits, loss, math.nan)


def _padded(targets: Tensor, wanted: Tensor) -> Tensor:
    """Targets put end to end, as rows as long as all of them: how long the longest is, is a value."""
    starts = wanted.cumsum(0) - wanted
    places = starts[:, None] + torch.arange(len(targets), device=targets.device)
    return targets[places.clamp(max=len(targets) - 1)] if len(targets) else targets.new_zeros(len(wanted), 0)
