"""Normalisation of each channel of each example. Axes: N batch, C channel, L D H W space."""

from __future__ import annotations

import math
from dataclasses import field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.types import Device

from funcnet._context import is_differentiated_twice, under_vmap, warn_caller
from funcnet.core import Buffer, Param, View
from funcnet.kernels import instance_norm as composed_instance_norm
from funcnet.kernels.internals import guard_instance_norm_gradient
from funcnet.layers._batch_norm import norm_parts, writable_copy
from funcnet.layers._layer import Layer
from funcnet.layers._sizes import describe_spatial_input


class _InstanceNorm(Layer):
    """The base of InstanceNorm1d to InstanceNorm3d; each says how many axes of space it has."""

    axes: ClassVar[int]

    num_features: int
    eps: float = 1e-5
    momentum: float | None = 0.1
    affine: bool = False
    track_running_stats: bool = False
    device: Device = None
    dtype: torch.dtype | None = None
    bias: bool = field(default=True, kw_only=True)

    if TYPE_CHECKING:

        @property
        def weight(self) -> Param | None: ...

        @property
        def running_mean(self) -> Buffer | None: ...

        @property
        def running_var(self) -> Buffer | None: ...

        @property
        def num_batches_tracked(self) -> Buffer | None: ...

    def parts(self) -> dict[str, Any]:
        return norm_parts(self)

    def expects(self) -> str:
        return describe_spatial_input(self.num_features, self.axes)


def _check_shape_and_normalise(p: View, input: Tensor, axes: int) -> Tensor:
    rank = input.dim()
    if rank not in (axes + 1, axes + 2):
        raise ValueError(f"expected {axes + 1}D or {axes + 2}D input (got {rank}D input)")
    channels = input.size(rank - axes - 1)
    if channels != p.num_features:
        if p.affine:
            raise ValueError(f"expected {p.num_features} channels in axis {rank - axes - 1}, got {channels}")
        warn_caller(
            f"InstanceNorm{axes}d was made for {p.num_features} channels and got {channels}, which makes no difference "
            f"without affine.",
            stacklevel=3,
        )
    if rank == axes + 1:
        return _instance_normalise(p, input.unsqueeze(0)).squeeze(0)
    return _instance_normalise(p, input)


def _instance_normalise(p: View, input: Tensor) -> Tensor:
    if torch.compiler.is_compiling() and input.dim() > 3 and input.is_cpu:
        # The kernel reads gradients of one axis of space in the right order, and compiled code takes no hooks.
        return _instance_normalise_any(p, input.flatten(2)).view(input.shape)
    return guard_instance_norm_gradient(_instance_normalise_any(p, input))


def _instance_normalise_any(p: View, input: Tensor) -> Tensor:
    mean, var, momentum = p.running_mean, p.running_var, p.momentum or 0.0
    weight = p.weight  # read once: it may be computed anew at each reading
    is_composed = is_differentiated_twice(input, weight)
    compute = composed_instance_norm if is_composed else F.instance_norm
    if mean is None or not p.training:
        return compute(input, mean, var, weight, p.bias, mean is None, momentum, p.eps)
    if is_composed or under_vmap() or torch.compiler.is_compiling() or input.dtype != mean.dtype:
        mean, var = writable_copy(mean, input), writable_copy(var, input)
        y = compute(input, mean, var, weight, p.bias, True, momentum, p.eps)
    else:
        y, mean, var = _normalise_and_track(p, input, weight, mean, var, momentum)
    p.running_mean, p.running_var = mean, var  # num_batches_tracked does not change, as in the module
    return y


def _normalise_and_track(
    p: View, input: Tensor, weight: Tensor | None, mean: Tensor, var: Tensor, momentum: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The result of F.instance_norm, and new statistics, which F would write to copies of the old ones."""
    examples, channels, *space = input.shape
    if math.prod(space) == 1:
        raise ValueError(f"expected more than 1 element of space in training, got input {tuple(input.shape)}")
    # row.repeat(examples) does the same at ten times the price.
    mean, var = (row.new_empty(examples, row.shape[0]).copy_(row).view(-1) for row in (mean, var))
    weight, bias = (None if param is None else param.repeat(examples) for param in (weight, p.bias))
    rows = input.contiguous().view(1, examples * channels, *space)
    y = torch.batch_norm(rows, weight, bias, mean, var, True, momentum, p.eps, torch.backends.cudnn.enabled)
    return y.view(input.shape), mean.view(examples, channels).mean(0), var.view(examples, channels).mean(0)


class InstanceNorm1d(_InstanceNorm):
    """Normalise each channel of each example over space, then scale and shift.

    Args:
        num_features: size C; it has no effect without ``affine`` or ``track_running_stats``.
        eps: added to the variance.
        momentum: weight m of the batch in ``new = (1 - m) * old + m * mean over the batch``; None for 0.
        affine: whether ``params`` has ``weight`` and ``bias``.
        track_running_stats: whether ``buffers`` has running statistics, with which eval mode normalises.
        device, dtype: the defaults of :meth:`init`.
        bias: when false, ``params`` has no ``bias`` entry.

    Params: none, or weight (C,), bias (C,).  Draws: none.
    Buffers: none, or running_mean (C,), running_var (C,), num_batches_tracked (); training calls replace the first two.
    Shape:  input (N, C, L) or (C, L) -> y of the same shape.
    Raises: ShapeError for another rank, for a single element of space in training, and with affine for other channels.
    Source: torch.nn.functional.instance_norm.

    >>> norm = InstanceNorm1d(1)
    >>> norm({}, torch.tensor([[1.0, 2.0, 3.0]]))
    tensor([[-1.2247,  0.0000,  1.2247]])
    """

    axes = 1

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        return _check_shape_and_normalise(p, input, 1)


class InstanceNorm2d(_InstanceNorm):
    """See :class:`InstanceNorm1d`. Shape: input (N, C, H, W) or (C, H, W).

    >>> norm = InstanceNorm2d(3, affine=True)
    >>> norm(norm.init(0)[0], torch.ones(4, 3, 2, 2)).shape
    torch.Size([4, 3, 2, 2])
    """

    axes = 2

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        return _check_shape_and_normalise(p, input, 2)


class InstanceNorm3d(_InstanceNorm):
    """See :class:`InstanceNorm1d`. Shape: input (N, C, D, H, W) or (C, D, H, W).

    >>> norm = InstanceNorm3d(3, track_running_stats=True)
    >>> y, new = norm.apply(*norm.init(0), torch.ones(4, 3, 2, 2, 2), train=True)
    >>> new["running_mean"]
    tensor([0.1000, 0.1000, 0.1000])
    """

    axes = 3

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        return _check_shape_and_normalise(p, input, 3)
