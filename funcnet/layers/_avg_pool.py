"""Means and p-norms of windows. These layers have no params or buffers. Axes: N batch, C channel, L D H W space."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from funcnet.core import View
from funcnet.layers._layer import Layer
from funcnet.layers._sizes import Size, check_sizes, describe_spatial_input


class AvgPool1d(Layer):
    """Mean of each window.

    Args:
        kernel_size: size of the window, in elements.
        stride: step of the window; default ``kernel_size``.
        padding: how many zeros to add on both sides.
        ceil_mode: let the last window hang over the edge.
        count_include_pad: whether those zeros count as elements.

    Shape:  input (N, C, L) or (C, L) -> y (N, C, L').
    Raises: ValueError for sizes that are not positive; ShapeError for another rank.
    Source: torch.nn.functional.avg_pool1d.

    >>> import torch
    >>> AvgPool1d(2)({}, torch.tensor([[1.0, 3.0, 2.0, 0.0]]))
    tensor([[2., 1.]])
    """

    kernel_size: Size
    stride: Size | None = None
    padding: Size = 0
    ceil_mode: bool = False
    count_include_pad: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, 1, "kernel_size", "stride")
        check_sizes(self, 1, "padding", least=0)

    def expects(self) -> str:
        return describe_spatial_input("C", 1)

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        return F.avg_pool1d(input, p.kernel_size, p.stride, p.padding, p.ceil_mode, p.count_include_pad)


class _AvgPool(Layer):
    """The base of AvgPool2d and AvgPool3d; each says how many axes of space it has."""

    axes: ClassVar[int]

    kernel_size: Size
    stride: Size | None = None
    padding: Size = 0
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor_override: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, self.axes, "kernel_size", "stride")
        check_sizes(self, self.axes, "padding", least=0)
        if self.divisor_override == 0:
            raise ValueError(f"{type(self).__name__}: divisor_override is a number to divide by, got 0.")

    def expects(self) -> str:
        return describe_spatial_input("C", self.axes)


class AvgPool2d(_AvgPool):
    """Mean of each window; see :class:`AvgPool1d`. Shape: input (N, C, H, W). Source: F.avg_pool2d.

    Args:
        divisor_override: the number to divide the sum of a window by, instead of its number of elements.

    >>> import torch
    >>> AvgPool2d(2)({}, torch.ones(1, 4, 4)).shape
    torch.Size([1, 2, 2])
    """

    axes = 2

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        return F.avg_pool2d(
            input, p.kernel_size, p.stride, p.padding, p.ceil_mode, p.count_include_pad, p.divisor_override
        )


class AvgPool3d(_AvgPool):
    """Mean of each window; see :class:`AvgPool2d`. Shape: input (N, C, D, H, W). Source: F.avg_pool3d.

    >>> import torch
    >>> AvgPool3d(2)({}, torch.ones(1, 4, 4, 4)).shape
    torch.Size([1, 2, 2, 2])
    """

    axes = 3

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        return F.avg_pool3d(
            input, p.kernel_size, p.stride, p.padding, p.ceil_mode, p.count_include_pad, p.divisor_override
        )


class _LPPool(Layer):
    """The base of LPPool1d to LPPool3d; each says how many axes of space it has."""

    axes: ClassVar[int]

    norm_type: float
    kernel_size: Size
    stride: Size | None = None
    ceil_mode: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, self.axes, "kernel_size", exactly=True)
        check_sizes(self, self.axes, "stride")
        if self.axes == 1 and isinstance(self.kernel_size, tuple) and math.isfinite(self.norm_type):
            raise ValueError(f"LPPool1d: kernel_size is an int, got {self.kernel_size!r}.")
        if float(self.norm_type) == 0:
            raise ValueError(f"{type(self).__name__}: norm_type is the p of a norm and not 0.")

    def parts(self) -> dict[str, Any]:
        return {"power": float(self.norm_type)}

    def expects(self) -> str:
        return describe_spatial_input("C", self.axes)


class LPPool1d(_LPPool):
    """The p-norm of each window, ``(sum(x ** p)) ** (1 / p)``. It takes no absolute values, so an odd p needs x >= 0.

    Args:
        norm_type: the p; infinity for the largest absolute value.
        kernel_size: size of the window, in elements.
        stride: step of the window; default ``kernel_size``.
        ceil_mode: let the last window hang over the edge.

    Shape:  input (N, C, L) or (C, L) -> y (N, C, L').
    Raises: ValueError for sizes that are not positive, or for p = 0; ShapeError for another rank.
    Source: torch.nn.functional.lp_pool1d.

    >>> import torch
    >>> LPPool1d(2, 2)({}, torch.tensor([[3.0, 4.0, 0.0, 1.0]]))
    tensor([[5., 1.]])
    """

    axes = 1

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        return F.lp_pool1d(input, p.power, p.kernel_size, p.stride, p.ceil_mode)


class LPPool2d(_LPPool):
    """The p-norm of each window; see :class:`LPPool1d`. Shape: input (N, C, H, W). Source: F.lp_pool2d.

    >>> import torch
    >>> LPPool2d(2, 2)({}, torch.ones(1, 4, 4)).shape
    torch.Size([1, 2, 2])
    """

    axes = 2

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        return F.lp_pool2d(input, p.power, p.kernel_size, p.stride, p.ceil_mode)


class LPPool3d(_LPPool):
    """The p-norm of each window; see :class:`LPPool1d`. Shape: input (N, C, D, H, W). Source: F.lp_pool3d.

    >>> import torch
    >>> LPPool3d(2, 2)({}, torch.ones(1, 4, 4, 4)).shape
    torch.Size([1, 2, 2, 2])
    """

    axes = 3

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        return F.lp_pool3d(input, p.power, p.kernel_size, p.stride, p.ceil_mode)
