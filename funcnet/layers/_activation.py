"""Elementwise functions and softmaxes, the counterparts of torch/nn/modules/activation.py.

None has params, buffers or draws, and the output has the shape of ``input``. ``inplace`` is kept for the twin and its
``repr``; a pure call never writes to its input, and the result is the same.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from funcnet.layers._layer import Layer


class ReLU(Layer):
    """``max(0, x)``. Source: torch.nn.functional.relu.

    >>> ReLU()({}, torch.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """

    inplace: bool = False

    @staticmethod
    def forward(_: Any, input: Tensor) -> Tensor:
        return F.relu(input)


class Sigmoid(Layer):
    """``1 / (1 + exp(-x))``. Source: torch.sigmoid.

    >>> Sigmoid()({}, torch.tensor([0.0]))
    tensor([0.5000])
    """

    @staticmethod
    def forward(_: Any, input: Tensor) -> Tensor:
        return torch.sigmoid(input)


class Tanh(Layer):
    """``tanh(x)``. Source: torch.tanh.

    >>> Tanh()({}, torch.tensor([0.0]))
    tensor([0.])
    """

    @staticmethod
    def forward(_: Any, input: Tensor) -> Tensor:
        return torch.tanh(input)


class GELU(Layer):
    """``x * Phi(x)``, the Gaussian error linear unit. Source: torch.nn.functional.gelu.

    Args:
        approximate: "none", or "tanh" for the cheaper formula.

    >>> GELU()({}, torch.tensor([0.0, 1.0]))
    tensor([0.0000, 0.8413])
    """

    approximate: str = "none"

    @staticmethod
    def forward(p: Any, input: Tensor) -> Tensor:
        return F.gelu(input, approximate=p.approximate)


class SiLU(Layer):
    """``x * sigmoid(x)``, also called swish. Source: torch.nn.functional.silu.

    >>> SiLU()({}, torch.tensor([0.0]))
    tensor([0.])
    """

    inplace: bool = False

    @staticmethod
    def forward(_: Any, input: Tensor) -> Tensor:
        return F.silu(input)


class LeakyReLU(Layer):
    """``x`` where positive, else ``negative_slope * x``. Source: torch.nn.functional.leaky_relu.

    >>> LeakyReLU(0.1)({}, torch.tensor([-1.0, 2.0]))
    tensor([-0.1000,  2.0000])
    """

    negative_slope: float = 1e-2
    inplace: bool = False

    @staticmethod
    def forward(p: Any, input: Tensor) -> Tensor:
        return F.leaky_relu(input, p.negative_slope)


class Softmax(Layer):
    """Positive numbers that sum to one along ``dim``. Source: torch.nn.functional.softmax.

    Args:
        dim: the axis that sums to one; without it torch chooses by the rank, and warns.

    >>> Softmax(dim=0)({}, torch.zeros(4))
    tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """

    dim: int | None = None

    @staticmethod
    def forward(p: Any, input: Tensor) -> Tensor:
        return F.softmax(input, p.dim, _stacklevel=5)


class LogSoftmax(Layer):
    """The logarithm of :class:`Softmax`, computed stably. Source: torch.nn.functional.log_softmax.

    >>> LogSoftmax(dim=0)({}, torch.zeros(1))
    tensor([0.])
    """

    dim: int | None = None

    @staticmethod
    def forward(p: Any, input: Tensor) -> Tensor:
        return F.log_softmax(input, p.dim, _stacklevel=5)
