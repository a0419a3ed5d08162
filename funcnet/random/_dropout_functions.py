"""Dropout with its randomness passed in; the arithmetic is torch.nn.functional's, so an int seed gives the same bits.

Axes: N batch, C channel, * all others.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from functools import cache
from typing import TypeAlias

import torch
from torch import Tensor, nn

from funcnet._errors import RandomnessError
from funcnet.random._distributions import contiguous_stride, draw_tensor
from funcnet.random._generators import Rng, can_fill_in_place, private_generator
from funcnet.random._rows_of_draws import draw_for_placed


def dropout(input: Tensor, p: float = 0.5, training: bool = True, *, rng: Rng | None) -> Tensor:
    """Zero each element with probability ``p`` and scale the others by ``1 / (1 - p)``.

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
    return _apply_dropout(input, p, training, rng)


def feature_dropout(input: Tensor, p: float = 0.5, training: bool = True, *, rng: Rng | None) -> Tensor:
    """Zero whole channels, ``input[n, c]``, with probability ``p``; what Dropout1d, 2d and 3d do.

    Args:
        input: shape (N, C, *).
        p, training, rng: as in :func:`dropout`.

    Source: at::native::_feature_dropout.

    >>> from funcnet.random import key
    >>> y = feature_dropout(torch.ones(2, 3, 4), rng=key(0))
    >>> bool((y == y[:, :, :1]).all())
    True
    """
    return _apply_dropout(input, p, training, rng, channels=True)


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
    return _apply_dropout(input, p, training, rng, alpha=True)


def feature_alpha_dropout(input: Tensor, p: float = 0.5, training: bool = True, *, rng: Rng | None) -> Tensor:
    """:func:`alpha_dropout` of whole channels, ``input[n, c]``.

    Args:
        input: shape (N, C, *).
        p, training, rng: as in :func:`alpha_dropout`.

    Source: at::native::_feature_alpha_dropout.

    >>> from funcnet.random import key
    >>> y = feature_alpha_dropout(torch.ones(2, 3, 4), rng=key(0))
    >>> bool((y == y[:, :, :1]).all())
    True
    """
    return _apply_dropout(input, p, training, rng, channels=True, alpha=True)


def _apply_dropout(
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
    in_place = can_fill_in_place(rng, input)
    keep = _draw_mask(input.real if input.is_complex() else input, p, rng, channels, in_place)
    if not alpha:
        return input * (keep.mul_(_cached_scale(p, keep.dtype, input.device)) if in_place else keep.div_(1 - p))
    # These are torch's numbers in torch's order: any other order gives other bits.
    scale = 1 / math.sqrt((_ALPHA * _ALPHA * p + 1) * (1 - p))
    numbers: tuple[float | Tensor, ...] = (1, _ALPHA * scale, _ALPHA * scale * p, scale)
    if in_place and input.dtype in _EXACT_DTYPES:
        numbers = tuple(_cached_constant(number, input.dtype, input.device) for number in numbers)
    unit, slope, offset, factor = numbers
    shift = (keep - unit).mul_(slope).add_(offset)
    return (input * keep.mul_(factor)).add_(shift)


_EXACT_DTYPES = (torch.float32, torch.float64)
"""The dtypes that torch calculates in; half precision is rounded at other places."""


@cache
def _cached_constant(value: float | Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A number as a tensor: calculating with it costs half of what a Python number does."""
    with torch.inference_mode(False):
        return torch.full((), value, dtype=dtype, device=device)  # type: ignore[arg-type]


@cache
def _cached_scale(p: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """``1 / (1 - p)`` as torch rounds it."""
    with torch.inference_mode(False):
        return torch.ones((), dtype=dtype, device=device).div_(1 - p)


_ALPHA = 1.7580993408473766
"""Minus the lower limit of SELU."""


def _draw_mask(input: Tensor, p: float, rng: Rng, channels: bool, in_place: bool) -> Tensor:
    """Ones with probability ``1 - p``, for each element or channel; filled in place where no trace must show a draw."""
    if channels and input.dim() < 2:
        raise RuntimeError(f"feature dropout takes inputs of at least 2 dimensions, got {input.dim()}.")
    size = (*input.shape[:2], *(1,) * (input.dim() - 2)) if channels else input.shape
    if in_place:
        keep = input.new_empty(size) if channels else torch.empty_like(input)
        return keep.bernoulli_(1 - p, generator=private_generator(rng, input.device))
    if "torch.distributed.tensor" in sys.modules and not torch.compiler.is_compiling():
        placed = draw_for_placed(
            input,
            size,
            lambda: draw_tensor(rng, size, contiguous_stride(size), "bernoulli", (1 - p,), input.dtype, input.device),
        )
        if placed is not None:
            return placed
    # The elements have torch's own strides, which are dense also where the input is expanded.
    stride = contiguous_stride(size) if channels else torch.empty_like(input).stride()
    return draw_tensor(rng, size, stride, "bernoulli", (1 - p,), input.dtype, input.device)


# --- with the arguments of torch.nn.functional, ``inplace`` included ---

NextRng: TypeAlias = Callable[[], Rng]
"""A function that is called once for each draw and says what it draws from."""


def with_torch_arguments(rule: Callable[..., Tensor], default_training: bool = True) -> Callable[..., Tensor]:
    """A dropout function as torch.nn.functional calls it, ``f(next_rng, input, p, training, inplace)``.

    Args:
        rule: one of the functions above.
        default_training: torch's default of ``training``.
    """

    def apply(
        next_rng: NextRng, input: Tensor, p: float = 0.5, training: bool = default_training, inplace: bool = False
    ) -> Tensor:
        result = rule(input, p, training, rng=next_rng() if training and p else None)
        return input.copy_(result) if inplace and result is not input else result

    return apply


def feature_dropout_with_torch_arguments(*batched_ranks: int) -> Callable[..., Tensor]:
    """The same for :func:`feature_dropout`, where inputs of other ranks than these have no axis of examples."""

    def apply(next_rng: NextRng, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        batched = input if input.dim() in batched_ranks else input.unsqueeze(0)
        result = feature_dropout(batched, p, training, rng=next_rng() if training and p else None).view_as(input)
        return input.copy_(result) if inplace else result

    return apply


DROPOUT_OF_MODULES: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Dropout: with_torch_arguments(dropout),
    nn.Dropout1d: feature_dropout_with_torch_arguments(3),
    nn.Dropout2d: feature_dropout_with_torch_arguments(2, 3, 4, 5),
    nn.Dropout3d: feature_dropout_with_torch_arguments(5),
}
"""What the dropout modules of torch.nn compute, as ``f(next_rng, input, p, training, inplace)``."""
