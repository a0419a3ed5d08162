"""Largest values of windows. These layers have no params or buffers. Axes: N batch, C channel, L D H W space."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from funcnet.core import View
from funcnet.layers._layer import Layer
from funcnet.layers._sizes import Size, check_sizes, describe_spatial_input


class _MaxPool(Layer):
    """The base of MaxPool1d to MaxPool3d; each says how many axes of space it has."""

    axes: ClassVar[int]

    kernel_size: Size
    stride: Size | None = None
    padding: Size = 0
    dilation: Size = 1
    return_indices: bool = False
    ceil_mode: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, self.axes, "kernel_size", "stride", "dilation")
        check_sizes(self, self.axes, "padding", least=0)

    def expects(self) -> str:
        return describe_spatial_input("C", self.axes)


class MaxPool1d(_MaxPool):
    """Largest value in each window.

    Args:
        kernel_size: size of the window, in elements.
        stride: step of the window; default ``kernel_size``.
        padding: how many elements of minus infinity to add on both sides.
        dilation: step between the elements of a window.
        return_indices: return ``(y, indices)``, with the position of each largest value.
        ceil_mode: let the last window hang over the edge.

    Shape:  input (N, C, L) or (C, L) -> y (N, C, L').
    Raises: ValueError for sizes that are not positive; ShapeError for another rank.
    Source: torch.nn.functional.max_pool1d.

    >>> import torch
    >>> MaxPool1d(2)({}, torch.tensor([[1.0, 3.0, 2.0, 0.0]]))
    tensor([[3., 2.]])
    """

    axes = 1

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return F.max_pool1d(
            input,
            p.kernel_size,
            p.stride,
            p.padding,
            p.dilation,
            ceil_mode=p.ceil_mode,
            return_indices=p.return_indices,
        )


class MaxPool2d(_MaxPool):
    """Largest value in each window; see :class:`MaxPool1d`. Shape: input (N, C, H, W). Source: F.max_pool2d.

    >>> import torch
    >>> MaxPool2d(2)({}, torch.ones(1, 4, 4)).shape
    torch.Size([1, 2, 2])
    """

    axes = 2

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return F.max_pool2d(
            input,
            p.kernel_size,
            p.stride,
            p.padding,
            p.dilation,
            ceil_mode=p.ceil_mode,
            return_indices=p.return_indices,
        )


class MaxPool3d(_MaxPool):
    """Largest value in each window; see :class:`MaxPool1d`. Shape: input (N, C, D, H, W). Source: F.max_pool3d.

    >>> import torch
    >>> MaxPool3d(2)({}, torch.ones(1, 4, 4, 4)).shape
    torch.Size([1, 2, 2, 2])
    """

    axes = 3

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return F.max_pool3d(
            input,
            p.kernel_size,
            p.stride,
            p.padding,
            p.dilation,
            ceil_mode=p.ceil_mode,
            return_indices=p.return_indices,
        )
