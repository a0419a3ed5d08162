"""Piecewise linear elementwise functions, counterparts of torch/nn/modules/activation.py.

None has buffers; only :class:`PReLU` has a param, and only :class:`RReLU` draws. The output has the shape of ``input``.
The field ``inplace`` exists for the twin and its ``repr``; a pure call never writes to its input, and its result is the
same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.types import Device

from funcnet._context import under_vmap
from funcnet.core import Net, Param, View, draw_source
from funcnet.kernels import hardsigmoid
from funcnet.layers._layer import NO_CHILDREN, Layer
from funcnet.random import rrelu


class ReLU(Layer, ignores_view=True):
    """``max(0, x)``. Source: torch.nn.functional.relu.

    >>> ReLU()({}, torch.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """

    inplace: bool = False

    @staticmethod
    def forward(_: View, input: Tensor) -> Tensor:
        return F.relu(input)


class ReLU6(Layer, ignores_view=True):
    """``x`` clamped to [0, 6]. Source: torch.nn.functional.relu6.

    >>> ReLU6()({}, torch.tensor([-1.0, 2.0, 9.0]))
    tensor([0., 2., 6.])
    """

    inplace: bool = False

    @staticmethod
    def forward(_: View, input: Tensor) -> Tensor:
        return F.relu6(input)


class LeakyReLU(Layer):
    """``x`` where positive, else ``negative_slope * x``. Source: torch.nn.functional.leaky_relu.

    >>> LeakyReLU(0.1)({}, torch.tensor([-1.0, 2.0]))
    tensor([-0.1000,  2.0000])
    """

    negative_slope: float = 1e-2
    inplace: bool = False

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        return F.leaky_relu(input, p.negative_slope)


class PReLU(Layer):
    """``x`` where positive, else ``weight * x``, with a learned slope for all elements or for each channel.

    Args:
        num_parameters: 1, or the number C of channels.
        init: first value of the slopes; the record calls it ``slope``.
        device, dtype: the defaults of :meth:`init`.

    Params: weight (num_parameters,).  Draws: none.
    Shape:  input (N, C, *), or (C,); any shape where ``num_parameters`` is 1.
    Raises: ShapeError if the channels of ``input`` are not ``num_parameters``.
    Source: torch.nn.functional.prelu.

    >>> net = PReLU(init=0.5)
    >>> net(net.init(0)[0], torch.tensor([-1.0, 2.0]))
    tensor([-0.5000,  2.0000])
    """

    num_parameters: int = 1
    slope: float = 0.25  # torch calls it init, which is a method of a net
    device: Device = None
    dtype: torch.dtype | None = None

    def __init__(
        self,
        num_parameters: int = 1,
        init: float = 0.25,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        fields = {"num_parameters": num_parameters, "slope": init, "device": device, "dtype": dtype}
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        self.__post_init__()

    if TYPE_CHECKING:

        @property
        def weight(self) -> Param: ...

    def parts(self) -> dict[str, Any]:
        return {"weight": Param(self.num_parameters, self.slope)}

    def as_module(self) -> nn.Module:
        return nn.PReLU(self.num_parameters, self.slope, self.device and "meta", self.dtype)

    @classmethod
    def from_module(cls, module: nn.Module, children: Mapping[str, Net] = NO_CHILDREN) -> PReLU:
        return cls(module.num_parameters, module.init)  # type: ignore[arg-type]

    @classmethod
    def fields_from_module(cls, module: nn.Module) -> dict[str, Any]:
        return {"num_parameters": module.num_parameters, "slope": module.init}

    def expects(self) -> str:
        channels = self.num_parameters
        return "a floating input" if channels == 1 else f"input (N, {channels}, *) or ({channels},)"

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        if not under_vmap():
            return F.prelu(input, p.weight)
        # The kernel's batching rules need a batch of inputs wherever there is a batch of weights, and give the gradient
        # of a batch within a batch a wrong shape.
        weight = p.weight.squeeze(0) if p.num_parameters == 1 else p.weight.view(-1, *(1,) * (input.dim() - 2))
        return torch.where(input > 0, input, weight * input)


class RReLU(Layer):
    """``x`` where positive, else ``x`` times a slope, which is drawn for each element in training, and fixed in eval.

    Args:
        lower, upper: slopes are drawn uniformly from [lower, upper); in eval the slope is the mean of both.
        inplace: no effect on the result.

    Shape:  any.  Draws: in training.
    Source: funcnet.random.rrelu, bit-equal to torch.nn.functional.rrelu for an int seed.

    >>> RReLU(0.1, 0.3)({}, torch.tensor([-1.0, 2.0]))
    tensor([-0.2000,  2.0000])
    """

    lower: float = 1.0 / 8
    upper: float = 1.0 / 3
    inplace: bool = False

    def __post_init__(self) -> None:
        if self.lower > self.upper:
            raise ValueError(f"RReLU: lower is at most upper, got lower={self.lower} and upper={self.upper}.")
        super().__post_init__()

    def draws(self, training: bool) -> bool:
        return training

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        if p.training:
            return rrelu(input, p.lower, p.upper, True, rng=draw_source(p))
        return rrelu(input, p.lower, p.upper, rng=None)


class Threshold(Layer):
    """``x`` where it is above a threshold, else a fixed value. Source: torch.nn.functional.threshold.

    Args:
        threshold: the number that ``x`` is compared with.
        value: the result where ``x`` is not above it.

    >>> Threshold(0.5, 9.0)({}, torch.tensor([0.0, 1.0]))
    tensor([9., 1.])
    """

    threshold: float
    value: float
    inplace: bool = False

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        return F.threshold(input, p.threshold, p.value)


class Hardtanh(Layer):
    """``x`` clamped to [min_val, max_val]. Source: torch.nn.functional.hardtanh.

    Args:
        min_val, max_val: the bounds; ``max_val`` is the greater one.
        inplace: no effect on the result.
        min_value, max_value: old names of the bounds, which give a FutureWarning; None in the record.

    >>> Hardtanh(-2, 2)({}, torch.tensor([-5.0, 1.0, 5.0]))
    tensor([-2.,  1.,  2.])
    """

    min_val: float = -1.0
    max_val: float = 1.0
    inplace: bool = False
    min_value: float | None = None
    max_value: float | None = None

    @classmethod
    def fields_from_module(cls, module: nn.Module) -> dict[str, Any]:
        bounds = {"min_val": module.min_val, "max_val": module.max_val}
        return {**bounds, "inplace": module.inplace, "min_value": None, "max_value": None}

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        return F.hardtanh(input, p.min_val, p.max_val)


class Hardsigmoid(Layer, ignores_view=True):
    """``x / 6 + 1 / 2``, clamped to [0, 1]. Source: torch.nn.functional.hardsigmoid.

    Torch's kernel has no second derivative. Nested transforms of torch.func use another formula, which has one; outside
    of them ``torch.autograd.grad(create_graph=True)`` fails as it does with the module.

    >>> Hardsigmoid()({}, torch.tensor([-3.0, 0.0, 3.0]))
    tensor([0.0000, 0.5000, 1.0000])
    """

    inplace: bool = False

    @staticmethod
    def forward(_: View, input: Tensor) -> Tensor:
        return hardsigmoid(input)


class Hardswish(Layer, ignores_view=True):
    """``x`` times its :class:`Hardsigmoid`. Source: torch.nn.functional.hardswish.

    >>> Hardswish()({}, torch.tensor([-3.0, 1.0, 3.0]))
    tensor([-0.0000, 0.6667, 3.0000])
    """

    inplace: bool = False

    @staticmethod
    def forward(_: View, input: Tensor) -> Tensor:
        return F.hardswish(input)


class Hardshrink(Layer):
    """Zero where ``|x|`` is at most ``lambd``, else ``x``. Source: torch.nn.functional.hardshrink.

    >>> Hardshrink()({}, torch.tensor([-0.1, 2.0]))
    tensor([0., 2.])
    """

    lambd: float = 0.5

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        return F.hardshrink(input, p.lambd)


class Softshrink(Layer):
    """``x`` moved towards zero by ``lambd``, but not beyond zero. Source: torch.nn.functional.softshrink.

    Args:
        lambd: how far to move, at least 0.

    >>> Softshrink()({}, torch.tensor([-1.0, 2.0]))
    tensor([-0.5000,  1.5000])
    """

    lambd: float = 0.5

    def __post_init__(self) -> None:
        if self.lambd < 0:
            raise ValueError(f"Softshrink: lambd is at least 0, got {self.lambd}.")
        super().__post_init__()

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        return F.softshrink(input, p.lambd)
