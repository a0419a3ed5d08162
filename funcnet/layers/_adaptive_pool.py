"""Pooling to an output of a given size. No params, no buffers. Axes: N batch, C channel, L D H W space."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from funcnet.core import View
from funcnet.layers._layer import Layer
from funcnet.layers._sizes import check_sizes, describe_spatial_input


class _AdaptivePool(Layer):
    """The base of these layers; each subclass says how many axes of space it has."""

    axes: ClassVar[int]

    output_size: int | tuple[int | None, ...] | None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, self.axes, "output_size", least=0, exactly=True)
        if self.output_size is None or self.output_size == (None,):
            raise ValueError(
                f"{type(self).__name__}: output_size is an int or a tuple of {self.axes}; None in a tuple of two or "
                f"more keeps the size of an axis, got {self.output_size!r}."
            )

    def expects(self) -> str:
        return describe_spatial_input("C", self.axes)


class _AdaptiveMaxPool(_AdaptivePool):
    return_indices: bool = False


class AdaptiveAvgPool1d(_AdaptivePool):
    """Mean over as many windows as the output has elements.

    Args:
        output_size: size of each axis of the output, in elements.

    Shape:  input (N, C, L) or (C, L) -> y (N, C, output_size).
    Raises: ValueError for a negative size; ShapeError for another rank.
    Source: torch.nn.functional.adaptive_avg_pool1d.

    >>> import torch
    >>> AdaptiveAvgPool1d(1)({}, torch.tensor([[1.0, 3.0]]))
    tensor([[2.]])
    """

    axes = 1

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        return F.adaptive_avg_pool1d(input, p.output_size)


class AdaptiveAvgPool2d(_AdaptivePool):
    """See :class:`AdaptiveAvgPool1d`; None for an axis keeps its size. Source: F.adaptive_avg_pool2d.

    >>> import torch
    >>> AdaptiveAvgPool2d((1, None))({}, torch.ones(2, 5, 7)).shape
    torch.Size([2, 1, 7])
    """

    axes = 2

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(input, p.output_size)


class AdaptiveAvgPool3d(_AdaptivePool):
    """See :class:`AdaptiveAvgPool1d`; None for an axis keeps its size. Source: F.adaptive_avg_pool3d.

    >>> import torch
    >>> AdaptiveAvgPool3d(1)({}, torch.ones(2, 5, 7, 3)).shape
    torch.Size([2, 1, 1, 1])
    """

    axes = 3

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        return F.adaptive_avg_pool3d(input, p.output_size)


class AdaptiveMaxPool1d(_AdaptiveMaxPool):
    """Largest value of as many windows as the output has elements.

    Args:
        output_size: size of each axis of the output, in elements.
        return_indices: return ``(y, indices)``, with the position of each largest value.

    Shape:  input (N, C, L) or (C, L) -> y (N, C, output_size).
    Raises: ValueError for a negative size; ShapeError for another rank.
    Source: torch.nn.functional.adaptive_max_pool1d.

    >>> import torch
    >>> AdaptiveMaxPool1d(2)({}, torch.tensor([[1.0, 3.0, 0.0, 2.0]]))
    tensor([[3., 2.]])
    """

    axes = 1

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return F.adaptive_max_pool1d(input, p.output_size, p.return_indices)


class AdaptiveMaxPool2d(_AdaptiveMaxPool):
    """See :class:`AdaptiveMaxPool1d`; None for an axis keeps its size. Source: F.adaptive_max_pool2d.

    >>> import torch
    >>> AdaptiveMaxPool2d((1, None))({}, torch.ones(2, 5, 7)).shape
    torch.Size([2, 1, 7])
    """

    axes = 2

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return F.adaptive_max_pool2d(input, p.output_size, p.return_indices)


class AdaptiveMaxPool3d(_AdaptiveMaxPool):
    """See :class:`AdaptiveMaxPool1d`; None for an axis keeps its size. Source: F.adaptive_max_pool3d.

    >>> import torch
    >>> AdaptiveMaxPool3d(1)({}, torch.ones(2, 5, 7, 3)).shape
    torch.Size([2, 1, 1, 1])
    """

    axes = 3

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return F.adaptive_max_pool3d(input, p.output_size, p.return_indices)
