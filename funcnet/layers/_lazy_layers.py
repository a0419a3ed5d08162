"""Layers that take their input size from an example input, the counterparts of the Lazy classes of torch/nn/modules.

``net.init(rng, example_inputs=...)`` turns each into the layer that it is named after. It has the arguments of that
layer without the size of the input.
"""

from __future__ import annotations

from dataclasses import field
from typing import Any

import torch
from torch.types import Device

from funcnet._torch import set_lazy_shapes
from funcnet.core import Lazy, Net
from funcnet.layers._layer import COUNTERPARTS, FACTORY_FIELDS, Layer
from funcnet.layers._sizes import Size


class _LazyLayer(Lazy, Layer, trusted=True):
    """The base of lazy layers. The twin finds the size of the input, by torch's own rules."""

    def expects(self) -> str:
        return f"an input for {type(self).__name__.removeprefix('Lazy')}"

    def concrete(self, *inputs: Any, **kwargs: Any) -> Net:
        module = self.twin_module()
        layer_class = COUNTERPARTS[set_lazy_shapes(module, *inputs)]
        factory_fields = {name: getattr(self, name) for name in FACTORY_FIELDS}
        return layer_class(**layer_class.fields_from_module(module), **factory_fields)


class LazyLinear(_LazyLayer):
    """A :class:`Linear` whose ``in_features`` is the last size of its input.

    >>> net, params, _ = LazyLinear(2).init(0, example_inputs=torch.ones(4, 3))
    >>> net, net(params, torch.ones(4, 3)).shape
    (Linear(in_features=3, out_features=2, bias=True), torch.Size([4, 2]))
    """

    out_features: int
    bias: bool = True
    device: Device = None
    dtype: torch.dtype | None = None


class _LazyConv(_LazyLayer):
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


class LazyConv1d(_LazyConv):
    """A :class:`Conv1d` whose ``in_channels`` is that of its input.

    >>> LazyConv1d(4, 3).init(0, example_inputs=torch.ones(1, 2, 8))[0]
    Conv1d(2, 4, kernel_size=(3,), stride=(1,))
    """


class LazyConv2d(_LazyConv):
    """A :class:`Conv2d` whose ``in_channels`` is that of its input.

    >>> LazyConv2d(4, 3).init(0, example_inputs=torch.ones(1, 2, 8, 8))[0]
    Conv2d(2, 4, kernel_size=(3, 3), stride=(1, 1))
    """


class LazyConv3d(_LazyConv):
    """A :class:`Conv3d` whose ``in_channels`` is that of its input.

    >>> LazyConv3d(4, 3).init(0, example_inputs=torch.ones(1, 2, 8, 8, 8))[0]
    Conv3d(2, 4, kernel_size=(3, 3, 3), stride=(1, 1, 1))
    """


class _LazyNorm(_LazyLayer):
    eps: float = 1e-5
    momentum: float | None = 0.1
    affine: bool = True
    track_running_stats: bool = True
    device: Device = None
    dtype: torch.dtype | None = None
    bias: bool = field(default=True, kw_only=True)


class LazyBatchNorm1d(_LazyNorm):
    """A :class:`BatchNorm1d` whose ``num_features`` is the size of axis 1 of its input.

    >>> LazyBatchNorm1d().init(0, example_inputs=torch.ones(4, 3))[0].num_features
    3
    """


class LazyBatchNorm2d(_LazyNorm):
    """A :class:`BatchNorm2d` whose ``num_features`` is the size of axis 1 of its input.

    >>> LazyBatchNorm2d().init(0, example_inputs=torch.ones(4, 3, 2, 2))[0].num_features
    3
    """


class LazyBatchNorm3d(_LazyNorm):
    """A :class:`BatchNorm3d` whose ``num_features`` is the size of axis 1 of its input.

    >>> LazyBatchNorm3d().init(0, example_inputs=torch.ones(4, 3, 2, 2, 2))[0].num_features
    3
    """


class _LazyConvTranspose(_LazyLayer):
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


class LazyConvTranspose1d(_LazyConvTranspose):
    """A :class:`ConvTranspose1d` whose ``in_channels`` is that of its input.

    >>> LazyConvTranspose1d(4, 3).init(0, example_inputs=torch.ones(1, 2, 8))[0]
    ConvTranspose1d(2, 4, kernel_size=(3,), stride=(1,))
    """


class LazyConvTranspose2d(_LazyConvTranspose):
    """A :class:`ConvTranspose2d` whose ``in_channels`` is that of its input.

    >>> LazyConvTranspose2d(4, 3).init(0, example_inputs=torch.ones(1, 2, 8, 8))[0]
    ConvTranspose2d(2, 4, kernel_size=(3, 3), stride=(1, 1))
    """


class LazyConvTranspose3d(_LazyConvTranspose):
    """A :class:`ConvTranspose3d` whose ``in_channels`` is that of its input.

    >>> LazyConvTranspose3d(4, 3).init(0, example_inputs=torch.ones(1, 2, 8, 8, 8))[0]
    ConvTranspose3d(2, 4, kernel_size=(3, 3, 3), stride=(1, 1, 1))
    """


class LazyInstanceNorm1d(_LazyNorm):
    """An :class:`InstanceNorm1d` whose ``num_features`` is the size of axis 1 of its input.

    >>> LazyInstanceNorm1d().init(0, example_inputs=torch.ones(4, 3, 2))[0].num_features
    3
    """


class LazyInstanceNorm2d(_LazyNorm):
    """An :class:`InstanceNorm2d` whose ``num_features`` is the size of axis 1 of its input.

    >>> LazyInstanceNorm2d().init(0, example_inputs=torch.ones(4, 3, 2, 2))[0].num_features
    3
    """


class LazyInstanceNorm3d(_LazyNorm):
    """An :class:`InstanceNorm3d` whose ``num_features`` is the size of axis 1 of its input.

    >>> LazyInstanceNorm3d().init(0, example_inputs=torch.ones(4, 3, 2, 2, 2))[0].num_features
    3
    """
