"""Smooth elementwise functions, counterparts of torch/nn/modules/activation.py. Piecewise linear ones are in
``_threshold``, softmaxes in ``_softmax``.

None has params, buffers or draws, and the output has the shape of ``input``. The field ``inplace`` exists for the twin
and its ``repr``; a pure call never writes to its input, and its result is the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from funcnet._context import is_plainly_eager
from funcnet.core import View
from funcnet.kernels import glu
from funcnet.layers._layer import Layer


class Sigmoid(Layer, ignores_view=True):
    """``1 / (1 + exp(-x))``. Source: torch.sigmoid.

    >>> Sigmoid()({}, torch.tensor([0.0]))
    tensor([0.5000])
    """

    @staticmethod
    def forward(_: View, input: Tensor) -> Tensor:
        return torch.sigmoid(input)


class LogSigmoid(Layer, ignores_view=True):
    """The logarithm of :class:`Sigmoid`, computed stably. Source: torch.nn.functional.logsigmoid.

    >>> LogSigmoid()({}, torch.tensor([0.0, -100.0]))
    tensor([  -0.6931, -100.0000])
    """

    @staticmethod
    def forward(_: View, input: Tensor) -> Tensor:
        return F.logsigmoid(input)


class Tanh(Layer, ignores_view=True):
    """``tanh(x)``. Source: torch.tanh.

    >>> Tanh()({}, torch.tensor([0.0]))
    tensor([0.])
    """

    @staticmethod
    def forward(_: View, input: Tensor) -> Tensor:
        return torch.tanh(input)


class Tanhshrink(Layer, ignores_view=True):
    """``x - tanh(x)``. Source: torch.nn.functional.tanhshrink.

    >>> Tanhshrink()({}, torch.tensor([1.0]))
    tensor([0.2384])
    """

    @staticmethod
    def forward(_: View, input: Tensor) -> Tensor:
        return F.tanhshrink(input)


class Softsign(Layer, ignores_view=True):
    """``x / (1 + |x|)``. Source: torch.nn.functional.softsign.

    >>> Softsign()({}, torch.tensor([1.0, -3.0]))
    tensor([ 0.5000, -0.7500])
    """

    @staticmethod
    def forward(_: View, input: Tensor) -> Tensor:
        return F.softsign(input)


class Softplus(Layer):
    """``log(1 + exp(beta * x)) / beta``, a smooth ReLU. Source: torch.nn.functional.softplus.

    Args:
        beta: sharpness of the bend.
        threshold: where ``beta * x`` is above the threshold, the result is ``x``.

    >>> Softplus()({}, torch.tensor([0.0, 30.0]))
    tensor([ 0.6931, 30.0000])
    """

    beta: float = 1.0
    threshold: float = 20.0

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        return F.softplus(input, p.beta, p.threshold)


class GELU(Layer):
    """``x * Phi(x)``, the Gaussian error linear unit. Source: torch.nn.functional.gelu.

    Args:
        approximate: "none", or "tanh" for a cheaper formula.

    >>> GELU()({}, torch.tensor([0.0, 1.0]))
    tensor([0.0000, 0.8413])
    """

    approximate: str = "none"

    def __post_init__(self) -> None:
        if self.approximate not in ("none", "tanh"):
            raise ValueError(f"GELU: approximate is 'none' or 'tanh', got {self.approximate!r}.")
        super().__post_init__()

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        return F.gelu(input, approximate=p.approximate)


class SiLU(Layer, ignores_view=True):
    """``x * sigmoid(x)``, also called swish. Source: torch.nn.functional.silu.

    >>> SiLU()({}, torch.tensor([0.0]))
    tensor([0.])
    """

    inplace: bool = False

    @staticmethod
    def forward(_: View, input: Tensor) -> Tensor:
        return F.silu(input)


class Mish(Layer, ignores_view=True):
    """``x * tanh(softplus(x))``. Source: torch.nn.functional.mish.

    >>> Mish()({}, torch.tensor([0.0, 1.0]))
    tensor([0.0000, 0.8651])
    """

    inplace: bool = False

    @staticmethod
    def forward(_: View, input: Tensor) -> Tensor:
        return F.mish(input)


class ELU(Layer):
    """``x`` where positive, else ``alpha * (exp(x) - 1)``. Source: torch.nn.functional.elu.

    Args:
        alpha: for very negative ``x`` the result tends to ``-alpha``.
        inplace: no effect on the output, but torch's in-place form rounds its gradient differently, and so does this.

    >>> ELU()({}, torch.tensor([-1.0, 2.0]))
    tensor([-0.6321,  2.0000])
    """

    alpha: float = 1.0
    inplace: bool = False

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        if p.inplace and input.requires_grad:
            return F.elu(_copy_layout(input), p.alpha, True)
        return F.elu(input, p.alpha)


class CELU(Layer):
    """``x`` where positive, else ``alpha * (exp(x / alpha) - 1)``. Source: torch.nn.functional.celu.

    Args:
        alpha: for very negative ``x`` the result tends to ``-alpha``; not 0.
        inplace: as for :class:`ELU`.

    >>> CELU(2.0)({}, torch.tensor([-1.0, 2.0]))
    tensor([-0.7869,  2.0000])
    """

    alpha: float = 1.0
    inplace: bool = False

    def __post_init__(self) -> None:
        if self.alpha == 0:
            raise ValueError("CELU: alpha is not 0, which it divides by.")
        super().__post_init__()

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        if p.inplace and input.requires_grad:
            return F.celu(_copy_layout(input), p.alpha, True)
        return F.celu(input, p.alpha)


class SELU(Layer):
    """:class:`ELU` scaled so that deep nets keep mean 0 and variance 1. Source: torch.nn.functional.selu.

    Args:
        inplace: as for :class:`ELU`.

    >>> SELU()({}, torch.tensor([-1.0, 2.0]))
    tensor([-1.1113,  2.1014])
    """

    inplace: bool = False

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        if p.inplace and input.requires_grad:
            return F.selu(_copy_layout(input), True)
        return F.selu(input)


class GLU(Layer):
    """One half of the input times the sigmoid of the other. Source: torch.nn.functional.glu.

    Args:
        dim: the axis that is halved; its size is even.

    >>> GLU()({}, torch.tensor([2.0, 0.0]))
    tensor([1.])
    """

    dim: int = -1

    def expects(self) -> str:
        return f"input with an even size in axis {self.dim}"

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        return glu(input, p.dim)


def _copy_layout(input: Tensor) -> Tensor:
    """A copy to write to, with the same strides, even those of a slice: how kernels round depends on strides."""
    copy = input.clone()
    if copy.stride() == input.stride() or not is_plainly_eager():
        return copy
    return torch.empty_strided(input.shape, input.stride(), dtype=input.dtype, device=input.device).copy_(input)
