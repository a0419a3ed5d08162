"""Convolutions, the counterparts of torch/nn/modules/conv.py. Axes: N batch, I in, O out, L D H W space, k kernel."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.types import Device

from funcnet import init
from funcnet.core import Param, View
from funcnet.layers._layer import Layer
from funcnet.layers._linear import fan_in_uniform
from funcnet.layers._sizes import Size, check_sizes, describe_spatial_input, size_per_axis


class _Conv(Layer):
    """The base of Conv1d to Conv3d; each says how many axes of space it has."""

    axes: ClassVar[int]

    in_channels: int
    out_channels: int
    kernel_size: Size
    stride: Size = 1
    padding: Size | str = 0
    dilation: Size = 1
    groups: int = 1
    bias: bool = True
    padding_mode: str = "zeros"
    device: Device = None
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, self.axes, "kernel_size", exactly=True)
        check_sizes(self, self.axes, "stride", "dilation")
        if self.padding_mode == "zeros":  # in the other modes a negative padding crops
            check_sizes(self, self.axes, "padding", least=0)

    if TYPE_CHECKING:

        @property
        def weight(self) -> Param: ...

    def parts(self) -> dict[str, Any]:
        shape = (self.out_channels, self.in_channels // self.groups, *size_per_axis(self.kernel_size))
        return {
            "weight": Param(shape, init.kaiming_uniform(a=math.sqrt(5))),
            "bias": Param(self.out_channels, fan_in_uniform(math.prod(shape[1:]))) if self.bias else None,
            "pad": _pad_amounts(self),
        }

    def list_unread_attributes(self) -> frozenset[str]:
        return frozenset({"_reversed_padding_repeated_twice"} if self.padding_mode == "zeros" else ())

    def expects(self) -> str:
        return describe_spatial_input(self.in_channels, self.axes)


def _pad_amounts(conv: _Conv) -> tuple[int, ...]:
    """The argument of F.pad for a padding mode other than zeros: (left, right) of each axis, last axis first."""
    kernel, dilation = size_per_axis(conv.kernel_size), size_per_axis(conv.dilation)
    amounts: list[int] = []
    for axis in reversed(range(conv.axes)):
        if conv.padding == "same":
            step = dilation[axis] if axis < len(dilation) else 0  # torch pads no axis for which no dilation was given
            total = step * (kernel[axis] - 1)
            amounts += [total // 2, total - total // 2]
        elif conv.padding == "valid":
            amounts += [0, 0]
        elif axis < len(padding := size_per_axis(conv.padding)):
            amounts += [padding[axis]] * 2
    return tuple(amounts)


def _pad_and_convolve(conv: Callable[..., Tensor], p: View, input: Tensor) -> Tensor:
    if p.padding_mode == "zeros":
        return conv(input, p.weight, p.bias, p.stride, p.padding, p.dilation, p.groups)
    input = F.pad(input, p.pad, mode=p.padding_mode)
    return conv(input, p.weight, p.bias, p.stride, 0, p.dilation, p.groups)


class Conv1d(_Conv):
    """Convolution over one axis of space.

    Args:
        in_channels, out_channels: sizes I and O.
        kernel_size, stride, padding, dilation: an int or a tuple of one; ``padding`` may be "same" or "valid".
        groups: number of groups the channels are split into.
        bias: when false, ``params`` has no ``bias`` entry.
        padding_mode: "zeros", "reflect", "replicate" or "circular".
        device, dtype: the defaults of :meth:`init`.

    Params: weight (O, I / groups, k), bias (O,).  Buffers: none.  Draws: none at apply.
    Shape:  input (N, I, L) or (I, L) -> y (N, O, L').
    Raises: ShapeError if the channels of ``input`` are not I.
    Source: torch.nn.functional.conv1d.

    >>> conv = Conv1d(2, 4, 3, padding="same")
    >>> conv(conv.init(0)[0], torch.ones(5, 2, 8)).shape
    torch.Size([5, 4, 8])
    """

    axes = 1

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        return _pad_and_convolve(F.conv1d, p, input)


class Conv2d(_Conv):
    """Convolution over two axes of space. Arguments as for :class:`Conv1d`, tuples of two.

    Params: weight (O, I / groups, k, k), bias (O,).  Buffers: none.  Draws: none at apply.
    Shape:  input (N, I, H, W) or (I, H, W) -> y (N, O, H', W').
    Source: torch.nn.functional.conv2d.

    >>> conv = Conv2d(1, 20, 3)
    >>> conv(conv.init(0)[0], torch.ones(5, 1, 8, 8)).shape
    torch.Size([5, 20, 6, 6])
    """

    axes = 2

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        return _pad_and_convolve(F.conv2d, p, input)


class Conv3d(_Conv):
    """Convolution over three axes of space. Arguments as for :class:`Conv1d`, tuples of three.

    Params: weight (O, I / groups, k, k, k), bias (O,).  Buffers: none.  Draws: none at apply.
    Shape:  input (N, I, D, H, W) or (I, D, H, W) -> y (N, O, D', H', W').
    Source: torch.nn.functional.conv3d.

    >>> conv = Conv3d(1, 2, 3, stride=2)
    >>> conv(conv.init(0)[0], torch.ones(1, 7, 7, 7)).shape
    torch.Size([2, 3, 3, 3])
    """

    axes = 3

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        return _pad_and_convolve(F.conv3d, p, input)
