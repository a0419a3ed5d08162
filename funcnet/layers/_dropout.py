"""Dropout, the counterpart of torch/nn/modules/dropout.py. Axes: N batch, C channel, L D H W space.

None has params or buffers. In eval mode the output is the input; in training a call needs ``rng``. The field
``inplace`` exists for the twin and its ``repr``; a pure call never writes to its input, and its result is the same.
"""

from __future__ import annotations

from torch import Tensor

from funcnet._context import warn_caller
from funcnet.core import View, draw_source
from funcnet.layers._layer import Layer
from funcnet.random import alpha_dropout, dropout, feature_alpha_dropout, feature_dropout


class _Dropout(Layer):
    """The base of all kinds of dropout."""

    p: float = 0.5
    inplace: bool = False

    def draws(self, training: bool) -> bool:
        return training and self.p > 0


class Dropout(_Dropout):
    """Zero each element with probability ``p`` and scale the others by ``1 / (1 - p)``.

    Args:
        p: probability that an element is zeroed, in [0, 1].
        inplace: no effect on the result.

    Shape:  any.  Draws: in training.
    Source: funcnet.random.dropout, bit-equal to torch.nn.functional.dropout for an int seed.

    >>> import torch
    >>> y, _ = Dropout(0.5).apply({}, {}, torch.ones(100), train=True, rng=0)
    >>> sorted(set(y.tolist()))
    [0.0, 2.0]
    """

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        if not p.training or p.p == 0:
            return input
        return dropout(input, p.p, rng=draw_source(p))


class Dropout1d(_Dropout):
    """Zero each channel with probability ``p``. Shape: input (N, C, L) or (C, L). Draws: in training.

    >>> import torch
    >>> Dropout1d().apply({}, {}, torch.ones(2, 3, 4), train=True, rng=0)[0].shape
    torch.Size([2, 3, 4])
    """

    def expects(self) -> str:
        return "a floating input (N, C, L) or (C, L)"

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        if input.dim() not in (2, 3):
            raise ValueError(f"expected 2D or 3D input, got {input.dim()}D.")
        return _drop_channels(p, input, 3)


class Dropout2d(_Dropout):
    """Zero each channel with probability ``p``. Shape: input (N, C, H, W). Draws: in training.

    As in torch, a 3-d input is read as (N, C, L), with a warning.

    >>> import torch
    >>> Dropout2d().apply({}, {}, torch.ones(2, 3, 4, 4), train=True, rng=0)[0].shape
    torch.Size([2, 3, 4, 4])
    """

    def expects(self) -> str:
        return "a floating input (N, C, H, W)"

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        if input.dim() != 4:
            warn_caller(
                f"Dropout2d read {input.dim()}D input as (N, C, *), as torch does; Dropout1d is made for 3D input.",
                stacklevel=2,
            )
        return _drop_channels(p, input, input.dim())


class Dropout3d(_Dropout):
    """Zero each channel with probability ``p``. Shape: input (N, C, D, H, W) or (C, D, H, W). Draws: in training.

    As in torch, an input of another rank is read as (C, *), with a warning.

    >>> import torch
    >>> Dropout3d().apply({}, {}, torch.ones(2, 3, 4, 4, 4), train=True, rng=0)[0].shape
    torch.Size([2, 3, 4, 4, 4])
    """

    def expects(self) -> str:
        return "a floating input (N, C, D, H, W) or (C, D, H, W)"

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        if input.dim() not in (4, 5):
            warn_caller(
                f"Dropout3d read a {input.dim()}D input as (C, *), as torch does; it is made for 4D and 5D input.",
                stacklevel=2,
            )
        return _drop_channels(p, input, 5)


class AlphaDropout(_Dropout):
    """Replace each element with probability ``p`` by SELU's lower limit, and rescale to keep mean and variance.

    Args:
        p: probability that an element is replaced, in [0, 1].
        inplace: no effect on the result.

    Shape:  any.  Draws: in training.
    Source: funcnet.random.alpha_dropout, bit-equal to torch.nn.functional.alpha_dropout for an int seed.

    >>> import torch
    >>> y, _ = AlphaDropout(0.5).apply({}, {}, torch.zeros(100), train=True, rng=0)
    >>> sorted({round(value, 4) for value in y.tolist()})
    [-0.7792, 0.7792]
    """

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        if not p.training or p.p == 0:
            return input
        return alpha_dropout(input, p.p, rng=draw_source(p))


class FeatureAlphaDropout(_Dropout):
    """:class:`AlphaDropout` of complete channels. Shape: input (N, C, *). Draws: in training.

    As in torch, the first two axes are batch and channels, whatever the rank.

    >>> import torch
    >>> FeatureAlphaDropout().apply({}, {}, torch.ones(2, 3, 4, 4), train=True, rng=0)[0].shape
    torch.Size([2, 3, 4, 4])
    """

    def expects(self) -> str:
        return "input (N, C, *)"

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        if not p.training or p.p == 0:
            return input
        return feature_alpha_dropout(input, p.p, rng=draw_source(p))


def _drop_channels(p: View, input: Tensor, batched_rank: int) -> Tensor:
    if not p.training or p.p == 0:
        return input
    if input.dim() == batched_rank:
        return feature_dropout(input, p.p, rng=draw_source(p))
    return feature_dropout(input.unsqueeze(0), p.p, rng=draw_source(p)).squeeze(0)
