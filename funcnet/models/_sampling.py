"""The next token from its logits: the largest, or one drawn from what temperature, top-k and top-p leave.

Axes: V vocabulary, * leading.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from funcnet import random
from funcnet.random import Rng, Stream
from funcnet.random.internals import RngArgument, as_rng


def filter_logits(
    logits: Tensor, *, temperature: float | None = None, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """Logits that are divided by a temperature, and ``-inf`` for tokens that are not to be drawn.

    Its bits are those of transformers' TemperatureLogitsWarper, TopKLogitsWarper and TopPLogitsWarper in this order.

    Args:
        logits: (*, V).
        temperature: above 0; below 1 likely tokens become likelier.
        top_k: how many of the likeliest tokens remain; more if their logits are equal.
        top_p: in (0, 1]: the fewest of the likeliest tokens remain whose probabilities sum to this or more.

    Returns:
        Logits (*, V); their softmax is the distribution to draw from.

    Raises:
        ValueError: for a number that is out of range.

    >>> filter_logits(torch.tensor([1.0, 3.0, 2.0]), temperature=0.5, top_k=2)
    tensor([-inf, 6., 4.])
    """
    check_sampling(temperature, top_k, top_p)
    if temperature is not None:
        logits = logits / temperature
    if top_k is not None:
        least = logits.topk(min(top_k, logits.shape[-1]), -1).values[..., -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
    if top_p is not None and top_p < 1:
        ascending, order = logits.sort(-1)
        is_unlikely = ascending.softmax(-1).cumsum(-1) <= 1 - top_p
        is_likeliest = torch.arange(logits.shape[-1], device=logits.device) == logits.shape[-1] - 1
        is_unlikely = is_unlikely & ~is_likeliest
        logits = logits.masked_fill(is_unlikely.gather(-1, order.argsort(-1)), -math.inf)
    return logits


def check_sampling(temperature: float | None, top_k: int | None, top_p: float | None) -> None:
    """Refuse numbers that are out of range.

    Raises:
        ValueError: lists them.
    """
    problems = []
    if temperature is not None and not temperature > 0:
        problems.append(f"temperature is above 0, got {temperature}; without rng the likeliest token is taken")
    if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
        problems.append(f"top_k is an int of 1 or more, got {top_k!r}")
    if top_p is not None and not 0 < top_p <= 1:
        problems.append(f"top_p is in (0, 1], got {top_p}")
    if problems:
        raise ValueError("; ".join(problems))


class Sampler:
    """Chooses the token of each step.

    Args:
        rng: a Key, from which the draw of each step depends on its number; an int seed, for the draws of
            ``torch.manual_seed`` and torch.multinomial; or None for the likeliest token.
        temperature, top_k, top_p: see :func:`filter_logits`.

    Raises:
        ValueError: if something is out of range, or asks for draws without an ``rng``.
    """

    def __init__(self, rng: RngArgument, temperature: float | None, top_k: int | None, top_p: float | None) -> None:
        check_sampling(temperature, top_k, top_p)
        options = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        self._options = {name: value for name, value in options.items() if value is not None}
        self._rng = as_rng(rng)
        if self._rng is None and self._options:
            raise ValueError(
                f"{', '.join(self._options)} says how to draw, and there is no rng: pass rng=funcnet.random.key(0), or "
                f"leave it out, and the likeliest token is taken."
            )

    def choose(self, logits: Tensor, step: int) -> Tensor:
        """The tokens of a step, (N,), from its logits (N, V)."""
        if self._rng is None:
            return logits.argmax(-1)
        scores = filter_logits(logits.float(), **self._options)  # type: ignore[arg-type]
        rng: Rng = self._rng if isinstance(self._rng, Stream) else random.fold_in(self._rng, step)
        return random.drawn(torch.multinomial, scores.softmax(-1), 1, rng=rng).squeeze(-1)
