"""Dropout with its randomness passed in; the arithmetic is torch.nn.functional's, so an int seed gives the same bits.

Axes: N batch, C channel, * the rest.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor

from funcnet._errors import RandomnessError
from funcnet.random._draws import Rng, at_hand, contiguous_stride, filled, generator_of


def dropout(input: Tensor, p: float = 0.5, training: bool = True, *, rng: Rng | None) -> Tensor:
    """Zero each element with probability ``p`` and scale the rest by ``1 / (1 - p)``.

    Args:
        input: any shape.
        p: probability that an element is zeroed, in [0, 1].
        training: when false, ``input`` is returned as it is and ``rng`` is not looked at.
        rng: a Key, or ``p.rng``.

    Source: at::native::_dropout_impl.

    >>> from funcnet.random import key
    >>> sorted(set(dropout(torch.ones(100), 0.5, rng=key(0)).tolist()))
    [0.0, 2.0]
    """
    return _drop(input, p, training, rng)


def feature_dropout(input: Tensor, p: float = 0.5, training: bool = True, *, rng: Rng | None) -> Tensor:
    """Zero whole channels, ``input[n, c]``, with probability ``p``; what Dropout1d, 2d and 3d do.

    Args:
        input: shape (N, C, *).
        p, training, rng: as in :func:`dropout`.

    Source: at::native::_feature_dropout.
    """
    return _drop(input, p, training, rng, channels=True)


def alpha_dropout(input: Tensor, p: float = 0.5, training: bool = True, *, rng: Rng | None) -> Tensor:
    """Set elements to SELU's lower limit with probability ``p``, then scale and shift all to keep mean and variance.

    Args:
        input: any shape; mean 0 and variance 1 are what stays as it is.
        p, training, rng: as in :func:`dropout`; ``p`` is the probability that an element is replaced.

    Source: at::native::_alpha_dropout.

    >>> from funcnet.random import key
    >>> len(set(alpha_dropout(torch.zeros(100), 0.5, rng=key(0)).tolist()))
    2
    """
    return _drop(input, p, training, rng, alpha=True)


def feature_alpha_dropout(input: Tensor, p: float = 0.5, training: bool = True, *, rng: Rng | None) -> Tensor:
    """:func:`alpha_dropout` of whole channels, ``input[n, c]``.

    Args:
        input: shape (N, C, *).
        p, training, rng: as in :func:`alpha_dropout`.

    Source: at::native::_feature_alpha_dropout.
    """
    return _drop(input, p, training, rng, channels=True, alpha=True)


def _drop(
    input: Tensor, p: float, training: bool, rng: Rng | None, channels: bool = False, alpha: bool = False
) -> Tensor:
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    if not training or p == 0 or input.numel() == 0:
        return input
    if rng is None:
        raise RandomnessError("dropout in training draws, and rng is None. Pass a Key or p.rng.")
    if p == 1:
        return input * input.new_zeros(())
    quick = at_hand(rng, input)
    keep = _mask(input, p, rng, channels, quick)
    if not alpha:
        return input * (keep.mul_(_scale(p, input.dtype, input.device)) if quick else keep.div_(1 - p))
    # torch's numbers in torch's order: any other gives other bits
    scale = 1 / math.sqrt((_ALPHA * _ALPHA * p + 1) * (1 - p))
    numbers: Any = (1, _ALPHA * scale, _ALPHA * scale * p, scale)
    if quick and input.dtype in _EXACT:
        numbers = [_constant(number, input.dtype, input.device) for number in numbers]
    one, slope, offset, scale = numbers
    shift = (keep - one).mul_(slope).add_(offset)
    return (input * keep.mul_(scale)).add_(shift)


_EXACT = (torch.float32, torch.float64)  # which torch calculates in; half precision is rounded at other places


@cache
def _constant(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A number as a tensor: half the price to calculate with."""
    with torch.inference_mode(False):
        return torch.full((), value, dtype=dtype, device=device)


@cache
def _scale(p: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """``1 / (1 - p)`` as torch rounds it."""
    with torch.inference_mode(False):
        return torch.ones((), dtype=dtype, device=device).div_(1 - p)


_ALPHA = 1.7580993408473766
"""Minus the lower limit of SELU."""


def _mask(input: Tensor, p: float, rng: Rng, channels: bool, quick: bool) -> Tensor:
    """Ones with probability ``1 - p``, for each element or each channel; quick where no trace must show the draw."""
    if channels and input.dim() < 2:
        raise RuntimeError(f"feature dropout takes inputs of at least 2 dimensions, got {input.dim()}.")
    size = (*input.shape[:2], *(1,) * (input.dim() - 2)) if channels else input.shape
    if quick:
        keep = input.new_empty(size) if channels else torch.empty_like(input)
        return keep.bernoulli_(1 - p, generator=generator_of(rng, input.device))
    # elements with torch's own strides: dense, also where the input is expanded
    stride = contiguous_stride(size) if channels else torch.empty_like(input).stride()
    return filled(rng, size, stride, "bernoulli", (1 - p,), input.dtype, input.device)
