"""The randomised leaky ReLU with its randomness passed in."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from funcnet._context import is_plainly_eager
from funcnet._errors import RandomnessError
from funcnet.random._distributions import draw_tensor
from funcnet.random._generators import Rng, Stream


def rrelu(
    input: Tensor,
    lower: float = 1.0 / 8,
    upper: float = 1.0 / 3,
    training: bool = False,
    *,
    rng: Rng | None,
) -> Tensor:
    """``input`` where positive, else ``input`` times a slope that is drawn for each element.

    Args:
        input: any shape.
        lower, upper: slopes are drawn uniformly from [lower, upper).
        training: when false, every slope is the mean of the two and ``rng`` is not looked at.
        rng: a Key, or ``p.rng``.

    Source: at::native::rrelu.

    >>> from funcnet.random import key
    >>> y = rrelu(-torch.ones(100), 0.1, 0.2, True, rng=key(0))
    >>> bool(((y <= -0.1) & (y >= -0.2)).all())
    True
    """
    if lower > upper:
        raise ValueError(f"rrelu: lower is at most upper, got lower={lower} and upper={upper}.")
    if not training:
        if is_plainly_eager():
            return F.rrelu(input, lower, upper)  # which lays out its result in its own way
        return F.leaky_relu(input, (lower + upper) / 2)
    if rng is None:
        raise RandomnessError("rrelu in training draws, and rng is None. Pass a Key or p.rng.")
    if isinstance(rng, Stream):  # the kernel draws for the negative elements only, one by one
        return torch.rrelu(input, lower, upper, True, generator=rng.generator(input.device))
    stride = torch.empty_like(input).stride()
    slope = draw_tensor(rng, input.shape, stride, "uniform", (lower, upper), input.dtype, input.device)
    return input * torch.where(input <= 0, slope, 1.0)
