"""Transposed convolutions. Axes: N batch, I in, O out, L D H W space, k kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence
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


class _ConvTranspose(Layer):
    """The base of ConvTranspose1d to ConvTranspose3d; each says how many axes of space it has."""

    axes: ClassVar[int]

    in_channels: int
    out_channels: int
    kernel_size: Size
    stride: Size = 1
    padding: Size = 0
    output_padding: Size = 0
    groups: int = 1
    bias: bool = True
    dilation: Size = 1
    padding_mode: str = "zeros"
    device: Device = None
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, self.axes, "kernel_size", exactly=True)
        check_sizes(self, self.axes, "stride", "dilation")
        check_sizes(self, self.axes, "padding", "output_padding", least=0)

    if TYPE_CHECKING:

        @property
        def weight(self) -> Param: ...

    def parts(self) -> dict[str, Any]:
        shape = (self.in_channels, self.out_channels // self.groups, *size_per_axis(self.kernel_size))
        return {
            "weight": Param(shape, init.kaiming_uniform(a=math.sqrt(5))),
            "bias": Param(self.out_channels, fan_in_uniform(math.prod(shape[1:]))) if self.bias else None,
        }

    def list_unread_attributes(self) -> frozenset[str]:
        return frozenset({"_reversed_padding_repeated_twice"})

    def expects(self) -> str:
        return describe_spatial_input(self.in_channels, self.axes)


def _output_padding(p: View, input: Tensor, output_size: Sequence[int] | None) -> Sequence[int]:
    """How many elements each axis of the smallest output needs on one side to have ``output_size``."""
    if output_size is None:
        return p.output_padding
    axes = len(p.kernel_size)
    front = 2 if input.dim() == axes + 2 else 1
    sizes = output_size[front:] if len(output_size) == front + axes else output_size
    if len(sizes) != axes:
        raise ValueError(f"{input.dim()}D input: output_size has {axes} or {front + axes} elements, got {len(sizes)}")
    # The channels are axis ``front - 1``. The kernel refuses an unbatched input of another rank.
    smallest = [
        (input.size(front + axis) - 1) * p.stride[axis]
        - 2 * p.padding[axis]
        + p.dilation[axis] * (p.kernel_size[axis] - 1)
        + 1
        for axis in range(axes)
    ]
    largest = [low + step - 1 for low, step in zip(smallest, p.stride, strict=True)]
    if not all(low <= size <= high for low, size, high in zip(smallest, sizes, largest, strict=True)):
        raise ValueError(f"output_size is from {smallest} to {largest} for this input, got {list(sizes)}")
    return [size - low for low, size in zip(smallest, sizes, strict=True)]


class ConvTranspose1d(_ConvTranspose):
    """The gradient of :class:`Conv1d` with respect to its input, as a layer. It makes the axis of space longer.

    Args:
        in_channels, out_channels: sizes I and O.
        kernel_size, stride, dilation: those of the convolution, in elements.
        padding: that of the convolution, which means how many elements are cut off the output on both sides.
        output_padding: how many elements are added to the output on one side; less than ``stride`` or ``dilation``.
        groups: number of groups the channels are split into.
        bias: when false, ``params`` has no ``bias`` entry.
        padding_mode: "zeros", the only mode that torch has here.
        device, dtype: the defaults of :meth:`init`.

    Params: weight (I, O / groups, k), bias (O,).  Buffers: none.  Draws: none at apply.
    Shape:  input (N, I, L) or (I, L) -> y (N, O, L'). A convolution maps several sizes to the same one, so
        ``output_size`` may say which it was: the sizes of its axes of space, or of all its axes.
    Raises: ShapeError if the channels of ``input`` are not I, or no output has the size ``output_size``.
    Source: torch.nn.functional.conv_transpose1d.

    >>> conv = ConvTranspose1d(2, 4, 3, stride=2)
    >>> params, _ = conv.init(0)
    >>> conv(params, torch.ones(5, 2, 8)).shape, conv(params, torch.ones(5, 2, 8), output_size=[18]).shape
    (torch.Size([5, 4, 17]), torch.Size([5, 4, 18]))
    """

    axes = 1

    @staticmethod
    def forward(p: View, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        output_padding = _output_padding(p, input, output_size)
        return F.conv_transpose1d(input, p.weight, p.bias, p.stride, p.padding, output_padding, p.groups, p.dilation)


class ConvTranspose2d(_ConvTranspose):
    """See :class:`ConvTranspose1d`; tuples of two. Source: F.conv_transpose2d.

    Params: weight (I, O / groups, k, k), bias (O,).  Buffers: none.  Draws: none at apply.
    Shape:  input (N, I, H, W) or (I, H, W) -> y (N, O, H', W').

    >>> conv = ConvTranspose2d(2, 4, 3, stride=2, padding=1, output_padding=1)
    >>> conv(conv.init(0)[0], torch.ones(1, 2, 8, 8)).shape
    torch.Size([1, 4, 16, 16])
    """

    axes = 2

    @staticmethod
    def forward(p: View, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        output_padding = _output_padding(p, input, output_size)
        return F.conv_transpose2d(input, p.weight, p.bias, p.stride, p.padding, output_padding, p.groups, p.dilation)


class ConvTranspose3d(_ConvTranspose):
    """See :class:`ConvTranspose1d`; tuples of three. Source: F.conv_transpose3d.

    Params: weight (I, O / groups, k, k, k), bias (O,).  Buffers: none.  Draws: none at apply.
    Shape:  input (N, I, D, H, W) or (I, D, H, W) -> y (N, O, D', H', W').

    >>> conv = ConvTranspose3d(2, 4, 3)
    >>> conv(conv.init(0)[0], torch.ones(1, 2, 4, 4, 4)).shape
    torch.Size([1, 4, 6, 6, 6])
    """

    axes = 3

    @staticmethod
    def forward(p: View, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        output_padding = _output_padding(p, input, output_size)
        return F.conv_transpose3d(input, p.weight, p.bias, p.stride, p.padding, output_padding, p.groups, p.dilation)
