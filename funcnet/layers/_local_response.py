"""Normalisation over neighbouring channels. No layer here has params or buffers, or draws. Axes: N batch, C channel."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from funcnet._context import under_transform
from funcnet._torch import cross_map_lrn
from funcnet.core import View
from funcnet.layers._layer import Layer
from funcnet.layers._sizes import check_sizes


class LocalResponseNorm(Layer):
    """Divide by a power of the mean square over neighbouring channels: ``x / (k + alpha * mean) ** beta``.

    Args:
        size: number of channels that count as neighbours, the channel itself among them.
        alpha, beta, k: the numbers of the formula.

    Shape:  input (N, C, *) with at least one more axis -> y of the same shape.
    Raises: ShapeError for fewer axes.
    Source: torch.nn.functional.local_response_norm.

    >>> LocalResponseNorm(1, alpha=1.0, beta=0.5, k=0.0)({}, torch.tensor([[[2.0], [-3.0]]]))
    tensor([[[ 1.],
             [-1.]]])
    """

    size: int
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, 1, "size")

    def expects(self) -> str:
        return "input (N, C, *) with at least 3 axes"

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        return F.local_response_norm(input, p.size, p.alpha, p.beta, p.k)


class CrossMapLRN2d(Layer):
    """:class:`LocalResponseNorm` as Lua Torch had it, for (N, C, H, W).

    Two habits of torch's implementation are kept, since a net gives the module's numbers: channel 0 counts as a
    neighbour of all, and the gradient is not quite the derivative (its neighbours are one channel off). Transforms use
    that gradient too, jvp its transpose; a gradient of the gradient is refused. LocalResponseNorm has no such habits.

    Args:
        size, alpha, beta, k: as for :class:`LocalResponseNorm`.

    Shape:  input (N, C, H, W) -> y of the same shape.
    Raises: ShapeError for another rank.
    Source: the function beneath torch.nn.CrossMapLRN2d; under transforms the same in terms of matrix products.

    >>> CrossMapLRN2d(1, alpha=1.0, beta=0.5, k=0.0)({}, torch.tensor([[[[-2.0]]]]))
    tensor([[[[-1.]]]])
    """

    size: int
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, 1, "size")

    def limits(self, training: bool) -> dict[str, str]:
        return {
            "hessian": "torch's gradient of it is not the derivative of a function, so it has no Hessian; "
            "LocalResponseNorm has one"
        }

    def expects(self) -> str:
        return "input (N, C, H, W)"

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        if input.dim() != 4:
            raise ValueError(f"expected 4D input (got {input.dim()}D input)")
        if torch.compiler.is_compiling():
            return _Composed.apply(input, p.size, p.alpha, p.beta, p.k)
        if under_transform():
            return _ForwardToo.apply(input, p.size, p.alpha, p.beta, p.k)
        return cross_map_lrn(input, p.size, p.alpha, p.beta, p.k)


class _Composed(torch.autograd.Function):
    """The same in terms that can be traced. The gradient is torch's formula, not the derivative of ``forward``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(input: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
        return input * _scale(input, size, alpha, k).pow(-beta)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        input, *ctx.numbers = inputs
        ctx.save_for_backward(input)
        ctx.save_for_forward(input)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (input,) = ctx.saved_tensors
        size, alpha, beta, k = ctx.numbers
        scale = _scale(input, size, alpha, k)
        ratio = grad * input * scale.pow(-beta - 1)
        near = _over_channels(_near_in_gradient(input, size), ratio)
        return grad * scale.pow(-beta) - (2 * alpha * beta / size) * input * near, None, None, None, None


class _ForwardToo(_Composed):
    """The same with a rule for jvp, with which torch.compile takes no function."""

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:
        (input,) = ctx.saved_tensors
        size, alpha, beta, k = ctx.numbers
        scale = _scale(input, size, alpha, k)
        near = _over_channels(_near_in_gradient(input, size).T, input * tangent)
        return tangent * scale.pow(-beta) - (2 * alpha * beta / size) * input * scale.pow(-beta - 1) * near


def _scale(input: Tensor, size: int, alpha: float, k: float) -> Tensor:
    return k + (alpha / size) * _over_channels(_near(input, size), input * input)


def _over_channels(weights: Tensor, x: Tensor) -> Tensor:
    return torch.einsum("cj,njhw->nchw", weights, x)


def _near(input: Tensor, size: int) -> Tensor:
    """Which channels j add to the scale of channel c. The kernel keeps a running sum, which channel 0 never leaves."""
    ahead = int((size - 1) / 2 + 1)
    c, j = _channels(input)
    return ((j < c + ahead) & ((j > c - ahead) | (j == 0))).to(input.dtype)


def _near_in_gradient(input: Tensor, size: int) -> Tensor:
    behind = int(size - (size - 1) / 2)
    c, j = _channels(input)
    return ((j >= c - behind) & (j < c - behind + size)).to(input.dtype)


def _channels(input: Tensor) -> tuple[Tensor, Tensor]:
    channels = torch.arange(input.shape[1], device=input.device)
    return channels[:, None], channels
