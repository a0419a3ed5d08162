"""Normalisation within one example, the counterpart of torch/nn/modules/normalization.py."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.types import Device

from funcnet._context import is_differentiated_twice, under_forward_mode
from funcnet.core import Param, View
from funcnet.kernels import layer_norm as composed_layer_norm
from funcnet.layers._layer import Layer


def check_normalized_shape(layer: LayerNorm | RMSNorm) -> None:
    """Refuse an empty shape, which the twin accepts and the kernel refuses."""
    if layer.normalized_shape == ():
        raise ValueError(f"{type(layer).__name__}: normalized_shape names at least one axis, got ().")


class LayerNorm(Layer):
    """Normalise over the last axes, then scale and shift.

    Args:
        normalized_shape: sizes S of the axes to normalise over; an int for one axis.
        eps: added to the variance.
        elementwise_affine: when false, ``params`` has no entries.
        bias: when false, ``params`` has no ``bias`` entry.
        device, dtype: the defaults of :meth:`init`.

    Params: weight S, bias S.  Buffers: none.  Draws: none.
    Shape:  input (*, S) -> y of the same shape.
    Source: torch.nn.functional.layer_norm.

    >>> norm = LayerNorm(3)
    >>> norm(norm.init(0)[0], torch.tensor([1.0, 2.0, 3.0]))
    tensor([-1.2247,  0.0000,  1.2247])
    """

    normalized_shape: int | tuple[int, ...]
    eps: float = 1e-5
    elementwise_affine: bool = True
    bias: bool = True
    device: Device = None
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_normalized_shape(self)

    if TYPE_CHECKING:

        @property
        def weight(self) -> Param | None: ...

    def parts(self) -> dict[str, Any]:
        affine = self.elementwise_affine
        return {
            "weight": Param(self.normalized_shape, 1.0) if affine else None,
            "bias": Param(self.normalized_shape, 0.0) if affine and self.bias else None,
        }

    def expects(self) -> str:
        return f"input (*, {', '.join(map(str, self.normalized_shape))})"  # type: ignore[arg-type]

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        weight = p.weight  # read once: it may be computed anew at each reading
        compute = composed_layer_norm if is_differentiated_twice(input, weight) else F.layer_norm
        return compute(input, p.normalized_shape, weight, p.bias, p.eps)


class GroupNorm(Layer):
    """Normalise over groups of channels, then scale and shift by channel.

    Args:
        num_groups: number of groups; divides ``num_channels``.
        num_channels: size C of axis 1.
        eps: added to the variance.
        affine: when false, ``params`` has no entries.
        device, dtype: the defaults of :meth:`init`.
        bias: when false, ``params`` has no ``bias`` entry.

    Params: weight (C,), bias (C,).  Buffers: none.  Draws: none.
    Shape:  input (N, C, *) -> y of the same shape.
    Source: torch.nn.functional.group_norm.

    >>> norm = GroupNorm(2, 4)
    >>> norm(norm.init(0)[0], torch.ones(1, 4, 3)).shape
    torch.Size([1, 4, 3])
    """

    num_groups: int
    num_channels: int
    eps: float = 1e-5
    affine: bool = True
    device: Device = None
    dtype: torch.dtype | None = None
    bias: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_groups < 1:
            raise ValueError(f"GroupNorm: num_groups is at least 1, got {self.num_groups}.")

    if TYPE_CHECKING:

        @property
        def weight(self) -> Param | None: ...

    def parts(self) -> dict[str, Any]:
        return {
            "weight": Param(self.num_channels, 1.0) if self.affine else None,
            "bias": Param(self.num_channels, 0.0) if self.affine and self.bias else None,
        }

    def expects(self) -> str:
        return f"input (N, {self.num_channels}, *)"

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        if under_forward_mode():
            input = input.contiguous()  # torch's rule for jvp does not support other layouts
        return F.group_norm(input, p.num_groups, p.weight, p.bias, p.eps)


class RMSNorm(Layer):
    """Divide by the root of the mean square over the last axes, then scale.

    Args:
        normalized_shape: sizes S of the axes to normalise over; an int for one axis.
        eps: added to the mean square; None for the machine epsilon of the dtype.
        elementwise_affine: when false, ``params`` has no entries.
        device, dtype: the defaults of :meth:`init`.

    Params: weight S.  Buffers: none.  Draws: none.
    Shape:  x (*, S) -> y of the same shape.
    Source: torch.nn.functional.rms_norm.

    >>> norm = RMSNorm(2)
    >>> norm(norm.init(0)[0], torch.tensor([3.0, -4.0]))
    tensor([ 0.8485, -1.1314])
    """

    normalized_shape: int | tuple[int, ...]
    eps: float | None = None
    elementwise_affine: bool = True
    device: Device = None
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_normalized_shape(self)

    if TYPE_CHECKING:

        @property
        def weight(self) -> Param | None: ...

    def parts(self) -> dict[str, Any]:
        return {"weight": Param(self.normalized_shape, 1.0) if self.elementwise_affine else None}

    def expects(self) -> str:
        return f"x (*, {', '.join(map(str, self.normalized_shape))})"  # type: ignore[arg-type]

    @staticmethod
    def forward(p: View, x: Tensor) -> Tensor:
        return F.rms_norm(x, p.normalized_shape, p.weight, p.eps)
