"""Softmaxes, counterparts of torch/nn/modules/activation.py. None has params, buffers or draws.

The output has the shape of ``input``. Without ``dim`` torch warns and chooses the axis by the rank: 0 for ranks 0, 1
and 3, and 1 for all others.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from funcnet.core import View
from funcnet.layers._layer import Layer

_STACKLEVEL = 5  # the stack level of torch's warning, as in its modules


class _Softmax(Layer):
    """The base of softmaxes along an axis that is a field."""

    dim: int | None = None

    def expects(self) -> str:
        return "input" if self.dim is None else f"input with an axis {self.dim}"


class Softmax(_Softmax):
    """Positive numbers that sum to one along ``dim``. Source: torch.nn.functional.softmax.

    Args:
        dim: the axis that sums to one.

    >>> import torch
    >>> Softmax(dim=0)({}, torch.zeros(4))
    tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        return F.softmax(input, p.dim, _stacklevel=_STACKLEVEL)


class Softmax2d(Layer):
    """:class:`Softmax` over the channels. Shape: input (N, C, H, W) or (C, H, W). Source: torch.nn.functional.softmax.

    >>> import torch
    >>> Softmax2d()({}, torch.zeros(2, 1, 1)).flatten()
    tensor([0.5000, 0.5000])
    """

    def expects(self) -> str:
        return "input (N, C, H, W) or (C, H, W)"

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:  # p is not used, but an error message takes the path from it
        if input.dim() not in (3, 4):
            raise ValueError(f"expected 3D or 4D input, got {input.dim()}D.")
        return F.softmax(input, -3)


class Softmin(_Softmax):
    """:class:`Softmax` of ``-x``: the smallest numbers get the largest shares. Source: torch.nn.functional.softmin.

    >>> import torch
    >>> Softmin(dim=0)({}, torch.tensor([0.0, 1.0]))
    tensor([0.7311, 0.2689])
    """

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        return F.softmin(input, p.dim, _stacklevel=_STACKLEVEL)


class LogSoftmax(_Softmax):
    """The logarithm of :class:`Softmax`, computed stably. Source: torch.nn.functional.log_softmax.

    >>> import torch
    >>> LogSoftmax(dim=0)({}, torch.zeros(1))
    tensor([0.])
    """

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        return F.log_softmax(input, p.dim, _stacklevel=_STACKLEVEL)
