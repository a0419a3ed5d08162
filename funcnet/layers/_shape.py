"""Layers that only rearrange elements, counterparts of flatten.py, fold.py, pixelshuffle.py and channelshuffle.py.

Axes: N batch, C channel, H W space, k kernel, * any. None has params, buffers or draws.
"""

from __future__ import annotations

import math
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from funcnet.core import View
from funcnet.layers._layer import Layer
from funcnet.layers._sizes import Size


class Flatten(Layer):
    """Join the axes from ``start_dim`` to ``end_dim`` into one. Source: torch.flatten.

    >>> import torch
    >>> Flatten()({}, torch.ones(2, 3, 4)).shape
    torch.Size([2, 12])
    """

    start_dim: int = 1
    end_dim: int = -1

    def expects(self) -> str:
        return f"input with axes {self.start_dim} to {self.end_dim}"

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        return input.flatten(p.start_dim, p.end_dim)


class Unflatten(Layer):
    """Split axis ``dim`` into axes of the sizes ``unflattened_size``. Source: torch.unflatten.

    >>> import torch
    >>> Unflatten(1, (3, 4))({}, torch.ones(2, 12)).shape
    torch.Size([2, 3, 4])
    """

    dim: int | str
    unflattened_size: tuple[Any, ...]  # ints, or pairs of a name and an int

    def expects(self) -> str:
        return f"input whose axis {self.dim} splits into {self.unflattened_size}"

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        return input.unflatten(p.dim, p.unflattened_size)


class PixelShuffle(Layer):
    """Turn every r * r channels into one channel with r * r times as many pixels.

    Args:
        upscale_factor: r, at least 1.

    Shape:  input (*, C * r * r, H, W) -> y (*, C, H * r, W * r).
    Source: torch.nn.functional.pixel_shuffle.

    >>> import torch
    >>> PixelShuffle(2)({}, torch.arange(4.0).view(4, 1, 1))
    tensor([[[0., 1.],
             [2., 3.]]])
    """

    upscale_factor: int

    def __post_init__(self) -> None:
        _check_at_least(self, "upscale_factor")
        super().__post_init__()

    def expects(self) -> str:
        return f"input (*, C, H, W) with C a multiple of {self.upscale_factor**2}"

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        return F.pixel_shuffle(input, p.upscale_factor)


class PixelUnshuffle(Layer):
    """The inverse of :class:`PixelShuffle`.

    Args:
        downscale_factor: r, at least 1.

    Shape:  input (*, C, H * r, W * r) -> y (*, C * r * r, H, W).
    Source: torch.nn.functional.pixel_unshuffle.

    >>> import torch
    >>> PixelUnshuffle(2)({}, torch.ones(1, 6, 4)).shape
    torch.Size([4, 3, 2])
    """

    downscale_factor: int

    def __post_init__(self) -> None:
        _check_at_least(self, "downscale_factor")
        super().__post_init__()

    def expects(self) -> str:
        return f"input (*, C, H, W) with H and W multiples of {self.downscale_factor}"

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        return F.pixel_unshuffle(input, p.downscale_factor)


class ChannelShuffle(Layer):
    """Reorder the channels: the first channel of each group, then the second of each group, and so on.

    Args:
        groups: number of groups the channels are split into, at least 1.

    Shape:  input (N, C, *) with C a multiple of ``groups`` -> y of the same shape.
    Source: torch.nn.functional.channel_shuffle.

    >>> import torch
    >>> ChannelShuffle(2)({}, torch.arange(4.0).view(1, 4, 1)).flatten()
    tensor([0., 2., 1., 3.])
    """

    groups: int

    def __post_init__(self) -> None:
        _check_at_least(self, "groups")
        super().__post_init__()

    def expects(self) -> str:
        return f"input (N, C, *) with C a multiple of {self.groups}"

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        return F.channel_shuffle(input, p.groups)


class Unfold(Layer):
    """The windows of an image as the columns of a matrix.

    Args:
        kernel_size: size of a window, in pixels.
        dilation: step between the pixels of a window.
        padding: how many zeros to add on both sides.
        stride: step of the window.

    Shape:  input (N, C, H, W) or (C, H, W) -> y (N, C * k * k, number of windows).
    Source: torch.nn.functional.unfold.

    >>> import torch
    >>> Unfold(2)({}, torch.ones(1, 3, 4, 5)).shape
    torch.Size([1, 12, 12])
    """

    kernel_size: Size
    dilation: Size = 1
    padding: Size = 0
    stride: Size = 1

    def __post_init__(self) -> None:
        _check_window(self)
        super().__post_init__()

    def expects(self) -> str:
        return "input (N, C, H, W) or (C, H, W), no smaller than a window"

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        return F.unfold(input, p.kernel_size, p.dilation, p.padding, p.stride)


class Fold(Layer):
    """The sum of windows, given as columns, at their places in an image: the transpose of :class:`Unfold`.

    Args:
        output_size: (H, W) of the image, or an int for both.
        kernel_size, dilation, padding, stride: as for :class:`Unfold`.

    Shape:  input (N, C * k * k, number of windows), or without N -> y (N, C, H, W).
    Raises: ShapeError if an image of this size does not have this number of windows.
    Source: torch.nn.functional.fold.

    >>> import torch
    >>> Fold((4, 5), 2)({}, torch.ones(1, 12, 12)).shape
    torch.Size([1, 3, 4, 5])
    """

    output_size: Size
    kernel_size: Size
    dilation: Size = 1
    padding: Size = 0
    stride: Size = 1

    def __post_init__(self) -> None:
        _check_at_least(self, "output_size")
        _check_window(self)
        super().__post_init__()

    def expects(self) -> str:
        kernel = _as_pair(self.kernel_size)
        options = (self.output_size, kernel, self.dilation, self.padding, self.stride)
        by_axis = zip(*map(_as_pair, options), strict=True)
        windows = math.prod(
            (size + 2 * pad - dilation * (k - 1) - 1) // stride + 1 for size, k, dilation, pad, stride in by_axis
        )
        columns = f"C, {windows}) with C a multiple of {math.prod(kernel)}"
        return f"input (N, {columns}, or without N"

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        return F.fold(input, p.output_size, p.kernel_size, p.dilation, p.padding, p.stride)


def _check_at_least(layer: Layer, *names: str, least: int = 1) -> None:
    """Refuse sizes and factors that are too small, which torch would only refuse in a call."""
    for name in names:
        value = getattr(layer, name)
        if any(not isinstance(size, int) or size < least for size in _as_pair(value)):
            raise ValueError(f"{type(layer).__name__}: {name} is at least {least}, got {value!r}.")


def _check_window(layer: Fold | Unfold) -> None:
    for name in ("kernel_size", "dilation", "padding", "stride"):
        value = getattr(layer, name)
        if len(_as_pair(value)) != 2:
            raise ValueError(f"{type(layer).__name__}: {name} is an int or two, got {value!r}.")
    _check_at_least(layer, "kernel_size", "dilation", "stride")
    _check_at_least(layer, "padding", least=0)


def _as_pair(value: Size) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)
