"""Resizing, the counterpart of torch/nn/modules/upsampling.py. Axes: N batch, C channel, L D H W space.

None has params, buffers or draws.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from funcnet._context import under_vmap
from funcnet.core import View
from funcnet.layers._layer import Layer
from funcnet.layers._sizes import Size

_SHAPES = {3: "(N, C, L)", 4: "(N, C, H, W)", 5: "(N, C, D, H, W)"}
_RANKS = {
    **dict.fromkeys(("nearest", "nearest-exact", "area"), (3, 4, 5)),
    "linear": (3,),
    "bilinear": (4,),
    "bicubic": (4,),
    "trilinear": (5,),
}
"""The ranks of input that each mode resizes."""


class Upsample(Layer):
    """Resize space to a size, or by a factor.

    Args:
        size: size of the output, in elements: an int, or one for each axis of space.
        scale_factor: how many times larger the output is: a number, or one for each axis. Give either this or size.
        mode: "nearest", "nearest-exact", "linear" (3D input), "bilinear" or "bicubic" (4D), "trilinear" (5D), "area".
        align_corners: whether corner elements keep their values; linear, bicubic and trilinear modes only.
        recompute_scale_factor: whether to compute the factor again from the rounded size of the output.

    Shape:  input (N, C, L), (N, C, H, W) or (N, C, D, H, W) -> y of the same rank.
    Source: torch.nn.functional.interpolate.

    >>> Upsample(scale_factor=2)({}, torch.tensor([[[1.0, 2.0]]]))
    tensor([[[1., 1., 2., 2.]]])
    """

    size: Size | None = None
    scale_factor: float | tuple[float, ...] | None = None
    mode: str = "nearest"
    align_corners: bool | None = None
    recompute_scale_factor: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_size_or_factor(self)
        if self.mode not in _RANKS:
            raise ValueError(f"Upsample: mode is one of {', '.join(map(repr, _RANKS))}, got {self.mode!r}.")
        if self.align_corners is not None and len(_RANKS[self.mode]) == 3:
            raise ValueError(f"Upsample: align_corners means nothing for mode {self.mode!r}; leave it out.")
        if self.recompute_scale_factor and self.size is not None:
            raise ValueError("Upsample: recompute_scale_factor means nothing with a size; leave it out.")

    def expects(self) -> str:
        return _describe_input(self, *_RANKS[self.mode])

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        if p.mode == "nearest-exact" and under_vmap() and input.dim() in _SHAPES:
            return _resize_nearest_exact(p, input)
        return F.interpolate(
            input,
            p.size,
            p.scale_factor,
            p.mode,
            p.align_corners,
            recompute_scale_factor=p.recompute_scale_factor,
        )


class UpsamplingNearest2d(Layer):
    """Resize images by repeating pixels. Shape: input (N, C, H, W). Source: torch.nn.functional.interpolate.

    Args:
        size, scale_factor: as for :class:`Upsample`.

    >>> UpsamplingNearest2d(scale_factor=2)({}, torch.ones(1, 1, 2, 3)).shape
    torch.Size([1, 1, 4, 6])
    """

    size: Size | None = None
    scale_factor: float | tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_size_or_factor(self)

    def expects(self) -> str:
        return _describe_input(self, 4)

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        return F.interpolate(input, p.size, p.scale_factor, "nearest")


class UpsamplingBilinear2d(Layer):
    """Resize images by bilinear interpolation, corners kept. Shape: input (N, C, H, W). Source: F.interpolate.

    Args:
        size, scale_factor: as for :class:`Upsample`.

    >>> UpsamplingBilinear2d(size=(1, 3))({}, torch.tensor([[[[1.0, 2.0]]]]))
    tensor([[[[1.0000, 1.5000, 2.0000]]]])
    """

    size: Size | None = None
    scale_factor: float | tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_size_or_factor(self)

    def expects(self) -> str:
        return _describe_input(self, 4)

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        return F.interpolate(input, p.size, p.scale_factor, "bilinear", True)


def _check_size_or_factor(layer: Upsample | UpsamplingNearest2d | UpsamplingBilinear2d) -> None:
    if (layer.size is None) == (layer.scale_factor is None):
        raise ValueError(
            f"{type(layer).__name__}: give size or scale_factor, one of the two; "
            f"got size={layer.size!r} and scale_factor={layer.scale_factor!r}."
        )


def _describe_input(layer: Upsample | UpsamplingNearest2d | UpsamplingBilinear2d, *ranks: int) -> str:
    for value in (layer.size, layer.scale_factor):
        if isinstance(value, tuple):
            ranks = tuple(rank for rank in ranks if rank == len(value) + 2)
    return f"input {' or '.join(_SHAPES[rank] for rank in ranks)}"


def _resize_nearest_exact(p: View, input: Tensor) -> Tensor:
    # The kernel has no batching rule. So it resizes the positions of each axis, which then select the elements.
    for axis in range(2, input.dim()):
        positions = torch.arange(input.shape[axis], dtype=torch.float64, device=input.device)[None, None]
        size, factor = (value[axis - 2] if isinstance(value, tuple) else value for value in (p.size, p.scale_factor))
        selected = F.interpolate(positions, size, factor, p.mode, recompute_scale_factor=p.recompute_scale_factor)
        input = input.index_select(axis, selected[0, 0].long())
    return input
