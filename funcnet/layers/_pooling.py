"""Pooling, the counterpart of torch/nn/modules/pooling.py. Axes: N batch, C channel, L D H W space.

None has params, buffers or draws. Inputs have a batch axis or none: (N, C, *) or (C, *).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from funcnet.layers._layer import Layer

Size = Any  # an int, a tuple of ints, or (adaptive pooling) None for "as the input"


class _MaxPool(Layer):
    kernel_size: Size
    stride: Size = None
    padding: Size = 0
    dilation: Size = 1
    return_indices: bool = False
    ceil_mode: bool = False


def _max_pool(pool: Callable[..., Any], p: Any, input: Tensor) -> Any:
    return pool(
        input, p.kernel_size, p.stride, p.padding, p.dilation, ceil_mode=p.ceil_mode, return_indices=p.return_indices
    )


class MaxPool1d(_MaxPool):
    """Largest value in each window.

    Args:
        kernel_size: size of the window, in elements.
        stride: step of the window; default ``kernel_size``.
        padding: elements of minus infinity on both sides.
        dilation: step between the elements of a window.
        return_indices: return ``(y, indices)``, the position of each largest value.
        ceil_mode: let the last window hang over the edge.

    Shape:  input (N, C, L) or (C, L) -> y (N, C, L').
    Source: torch.nn.functional.max_pool1d.

    >>> import torch
    >>> MaxPool1d(2)({}, torch.tensor([[1.0, 3.0, 2.0, 0.0]]))
    tensor([[3., 2.]])
    """

    @staticmethod
    def forward(p: Any, input: Tensor) -> Any:
        return _max_pool(F.max_pool1d, p, input)


class MaxPool2d(_MaxPool):
    """Largest value in each window; see :class:`MaxPool1d`. Shape: input (N, C, H, W). Source: F.max_pool2d.

    >>> import torch
    >>> MaxPool2d(2)({}, torch.ones(1, 4, 4)).shape
    torch.Size([1, 2, 2])
    """

    @staticmethod
    def forward(p: Any, input: Tensor) -> Any:
        return _max_pool(F.max_pool2d, p, input)


class MaxPool3d(_MaxPool):
    """Largest value in each window; see :class:`MaxPool1d`. Shape: input (N, C, D, H, W). Source: F.max_pool3d.

    >>> import torch
    >>> MaxPool3d(2)({}, torch.ones(1, 4, 4, 4)).shape
    torch.Size([1, 2, 2, 2])
    """

    @staticmethod
    def forward(p: Any, input: Tensor) -> Any:
        return _max_pool(F.max_pool3d, p, input)


class AvgPool1d(Layer):
    """Mean of each window.

    Args:
        kernel_size, stride, padding, ceil_mode: as for :class:`MaxPool1d`, padding with zeros.
        count_include_pad: whether those zeros count as elements.

    Shape:  input (N, C, L) or (C, L) -> y (N, C, L').
    Source: torch.nn.functional.avg_pool1d.

    >>> import torch
    >>> AvgPool1d(2)({}, torch.tensor([[1.0, 3.0, 2.0, 0.0]]))
    tensor([[2., 1.]])
    """

    kernel_size: Size
    stride: Size = None
    padding: Size = 0
    ceil_mode: bool = False
    count_include_pad: bool = True

    @staticmethod
    def forward(p: Any, input: Tensor) -> Tensor:
        return F.avg_pool1d(input, p.kernel_size, p.stride, p.padding, p.ceil_mode, p.count_include_pad)


class _AvgPool(Layer):
    kernel_size: Size
    stride: Size = None
    padding: Size = 0
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor_override: int | None = None


def _avg_pool(pool: Callable[..., Tensor], p: Any, input: Tensor) -> Tensor:
    return pool(input, p.kernel_size, p.stride, p.padding, p.ceil_mode, p.count_include_pad, p.divisor_override)


class AvgPool2d(_AvgPool):
    """Mean of each window; see :class:`AvgPool1d`. Shape: input (N, C, H, W). Source: F.avg_pool2d.

    Args:
        divisor_override: divide the sum of a window by this, not by its number of elements.

    >>> import torch
    >>> AvgPool2d(2)({}, torch.ones(1, 4, 4)).shape
    torch.Size([1, 2, 2])
    """

    @staticmethod
    def forward(p: Any, input: Tensor) -> Tensor:
        return _avg_pool(F.avg_pool2d, p, input)


class AvgPool3d(_AvgPool):
    """Mean of each window; see :class:`AvgPool2d`. Shape: input (N, C, D, H, W). Source: F.avg_pool3d.

    >>> import torch
    >>> AvgPool3d(2)({}, torch.ones(1, 4, 4, 4)).shape
    torch.Size([1, 2, 2, 2])
    """

    @staticmethod
    def forward(p: Any, input: Tensor) -> Tensor:
        return _avg_pool(F.avg_pool3d, p, input)


class _AdaptiveAvgPool(Layer):
    output_size: Size


class AdaptiveAvgPool1d(_AdaptiveAvgPool):
    """Mean over as many windows as the output has elements.

    Args:
        output_size: size of each axis of the output, in elements.

    Shape:  input (N, C, L) or (C, L) -> y (N, C, output_size).
    Source: torch.nn.functional.adaptive_avg_pool1d.

    >>> import torch
    >>> AdaptiveAvgPool1d(1)({}, torch.tensor([[1.0, 3.0]]))
    tensor([[2.]])
    """

    @staticmethod
    def forward(p: Any, input: Tensor) -> Tensor:
        return F.adaptive_avg_pool1d(input, p.output_size)


class AdaptiveAvgPool2d(_AdaptiveAvgPool):
    """See :class:`AdaptiveAvgPool1d`; None for an axis keeps its size. Source: F.adaptive_avg_pool2d.

    >>> import torch
    >>> AdaptiveAvgPool2d((1, None))({}, torch.ones(2, 5, 7)).shape
    torch.Size([2, 1, 7])
    """

    @staticmethod
    def forward(p: Any, input: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(input, p.output_size)


class AdaptiveAvgPool3d(_AdaptiveAvgPool):
    """See :class:`AdaptiveAvgPool1d`; None for an axis keeps its size. Source: F.adaptive_avg_pool3d.

    >>> import torch
    >>> AdaptiveAvgPool3d(1)({}, torch.ones(2, 5, 7, 3)).shape
    torch.Size([2, 1, 1, 1])
    """

    @staticmethod
    def forward(p: Any, input: Tensor) -> Tensor:
        return F.adaptive_avg_pool3d(input, p.output_size)
