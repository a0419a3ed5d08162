"""Normalisation over neighbouring channels. These layers have no params or buffers. Axes: N batch, C channel."""

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
        size: number of neighbouring channels in the mean, including the channel itself.
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

    A net has the numbers of the module, so it repeats two quirks of torch's implementation: channel 0 is a neighbour of
    every channel, and the gradient is not exactly the derivative (its neighbours are shifted by one channel).
    Transforms use that gradient too, and jvp uses its transpose; a gradient of the gradient is refused.
    LocalResponseNorm does not have these quirks.

    Args:
        size, alpha, beta, k: as for :class:`LocalResponseNorm`.

    Shape:  input (N, C, H, W) -> y of the same shape.
    Raises: ShapeError for another rank.
    Source: the function that torch.nn.CrossMapLRN2d calls; under transforms, matrix products with the same result.

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
            return _CrossMapNorm.apply(input, p.size, p.alpha, p.beta, p.k)  # type: ignore[no-untyped-call]
        if under_transform():
            return _CrossMapNormWithJvp.apply(input, p.size, p.alpha, p.beta, p.k)  # type: ignore[no-untyped-call]
        return cross_map_lrn(input, p.size, p.alpha, p.beta, p.k)


class _CrossMapNorm(torch.autograd.Function):
    """The normalisation in traceable operations. Its gradient is torch's formula, not the derivative of ``forward``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(input: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
        return input * _channel_scale(input, size, alpha, k).pow(-beta)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        input, *ctx.numbers = inputs
        ctx.save_for_backward(input)
        ctx.save_for_forward(input)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        (input,) = ctx.saved_tensors
        size, alpha, beta, k = ctx.numbers
        scale = _channel_scale(input, size, alpha, k)
        ratio = grad * input * scale.pow(-beta - 1)
        mixed = _mix_channels(_gradient_neighbour_matrix(input, size), ratio)
        return grad * scale.pow(-beta) - (2 * alpha * beta / size) * input * mixed, None, None, None, None


class _CrossMapNormWithJvp(_CrossMapNorm):
    """The normalisation with a rule for jvp. torch.compile refuses functions that have such a rule."""

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:
        (input,) = ctx.saved_tensors
        size, alpha, beta, k = ctx.numbers
        scale = _channel_scale(input, size, alpha, k)
        mixed = _mix_channels(_gradient_neighbour_matrix(input, size).T, input * tangent)
        return tangent * scale.pow(-beta) - (2 * alpha * beta / size) * input * scale.pow(-beta - 1) * mixed


def _channel_scale(input: Tensor, size: int, alpha: float, k: float) -> Tensor:
    return k + (alpha / size) * _mix_channels(_neighbour_matrix(input, size), input * input)


def _mix_channels(weights: Tensor, x: Tensor) -> Tensor:
    return torch.einsum("cj,njhw->nchw", weights, x)


def _neighbour_matrix(input: Tensor, size: int) -> Tensor:
    """A matrix with 1 where channel j is part of the scale of channel c, else 0.

    The kernel keeps a running sum over channels and never removes channel 0 from it.
    """
    ahead = int((size - 1) / 2 + 1)
    c, j = _channel_indices(input)
    return ((j < c + ahead) & ((j > c - ahead) | (j == 0))).to(input.dtype)


def _gradient_neighbour_matrix(input: Tensor, size: int) -> Tensor:
    """The matrix that torch's formula of the gradient uses in place of :func:`_neighbour_matrix`."""
    behind = int(size - (size - 1) / 2)
    c, j = _channel_indices(input)
    return ((j >= c - behind) & (j < c - behind + size)).to(input.dtype)


def _channel_indices(input: Tensor) -> tuple[Tensor, Tensor]:
    channels = torch.arange(input.shape[1], device=input.device)
    return channels[:, None], channels
