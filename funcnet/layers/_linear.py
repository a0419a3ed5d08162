"""Affine layers, the counterparts of torch/nn/modules/linear.py. Axes: I in, O out, * leading."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.types import Device

from funcnet import init
from funcnet._context import under_vmap
from funcnet.core import Param, View
from funcnet.layers._layer import Layer


class Linear(Layer):
    """Affine map over the last axis, ``y = x @ weight.T + bias``.

    Names, layout and first values are those of :class:`torch.nn.Linear`.

    Args:
        in_features: size I of the last axis of ``input``.
        out_features: size O of the last axis of ``y``.
        bias: when false, ``params`` has no ``bias`` entry.
        device, dtype: the defaults of :meth:`init`.

    Params: weight (O, I), bias (O,).  Buffers: none.  Draws: none at apply.
    Shape:  input (*, I) -> y (*, O), dtype and device of ``input``.
    Raises: ShapeError if the last axis of ``input`` is not I.
    Source: torch.nn.functional.linear.

    >>> fc = Linear(3, 2)
    >>> params, buffers = fc.init(0)
    >>> tuple(fc(params, torch.ones(4, 3)).shape), buffers
    ((4, 2), {})
    """

    in_features: int
    out_features: int
    bias: bool = True
    device: Device = None
    dtype: torch.dtype | None = None

    if TYPE_CHECKING:

        @property
        def weight(self) -> Param: ...

    def parts(self) -> dict[str, Any]:
        return {
            "weight": Param((self.out_features, self.in_features), init.kaiming_uniform(a=math.sqrt(5))),
            "bias": Param(self.out_features, fan_in_uniform(self.in_features)) if self.bias else None,
        }

    def expects(self) -> str:
        return f"input (*, {self.in_features})"

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        return F.linear(input, p.weight, p.bias)


class Bilinear(Layer):
    """Bilinear map of two inputs, ``y_o = input1 @ weight_o @ input2 + bias_o``.

    Args:
        in1_features, in2_features: sizes I1 and I2 of the last axes of ``input1`` and ``input2``.
        out_features: size O of the last axis of ``y``.
        bias, device, dtype: as for :class:`Linear`.

    Params: weight (O, I1, I2), bias (O,).  Buffers: none.  Draws: none at apply.
    Shape:  input1 (*, I1), input2 (*, I2) -> y (*, O).
    Source: torch.nn.functional.bilinear.

    >>> net = Bilinear(3, 4, 2)
    >>> net(net.init(0)[0], torch.ones(5, 3), torch.ones(5, 4)).shape
    torch.Size([5, 2])
    """

    in1_features: int
    in2_features: int
    out_features: int
    bias: bool = True
    device: Device = None
    dtype: torch.dtype | None = None

    if TYPE_CHECKING:

        @property
        def weight(self) -> Param: ...

    def parts(self) -> dict[str, Any]:
        scheme = fan_in_uniform(self.in1_features)
        return {
            "weight": Param((self.out_features, self.in1_features, self.in2_features), scheme),
            "bias": Param(self.out_features, scheme) if self.bias else None,
        }

    def expects(self) -> str:
        return f"input1 (*, {self.in1_features}) and input2 (*, {self.in2_features})"

    @staticmethod
    def forward(p: View, input1: Tensor, input2: Tensor) -> Tensor:
        if not under_vmap():
            return F.bilinear(input1, input2, p.weight, p.bias)
        # The kernel has no batching rule, so torch would loop over the examples.
        y = torch.einsum("...i,oij,...j->...o", input1, p.weight, input2)
        return y if p.bias is None else y + p.bias


class Identity(Layer, ignores_view=True):
    """Return the input. As with :class:`torch.nn.Identity`, any arguments are accepted and ignored.

    >>> Identity(54, unused=0.1)({}, torch.ones(2))
    tensor([1., 1.])
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        del args, kwargs

    @staticmethod
    def forward(_: View, input: Tensor) -> Tensor:
        return input


def fan_in_uniform(fan_in: int) -> init.Scheme:
    """Uniform draws between minus and plus ``1 / sqrt(fan_in)``: torch's rule for biases."""
    bound = 1 / math.sqrt(fan_in) if fan_in > 0 else 0
    return init.uniform(-bound, bound)
