"""Batch normalisation, the counterpart of torch/nn/modules/batchnorm.py. Axes: N batch, C channel, L D H W space."""

from __future__ import annotations

from dataclasses import field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.types import Device

from funcnet._context import under_vmap
from funcnet._torch import private_backend, sync_batch_norm
from funcnet.core import Buffer, Param, View
from funcnet.layers._layer import Layer


class _BatchNorm(Layer):
    """What the three have in common; each says which ranks it takes."""

    num_features: int
    eps: float = 1e-5
    momentum: float | None = 0.1
    affine: bool = True
    track_running_stats: bool = True
    device: Device = None
    dtype: torch.dtype | None = None
    bias: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_eps(self)

    def parts(self) -> dict[str, Any]:
        return norm_parts(self)

    def expects(self) -> str:
        return f"input with {self.num_features} channels in axis 1"


def check_eps(layer: Any) -> None:
    """Refuse what no call could use."""
    if layer.eps < 0:
        raise ValueError(f"{type(layer).__name__}: eps is added to a variance and not negative, got {layer.eps}.")


def norm_parts(layer: Any) -> dict[str, Any]:
    """The params and buffers of a layer that may scale, shift and keep statistics of its channels."""
    size, tracked = layer.num_features, layer.track_running_stats
    return {
        "weight": Param(size, 1.0) if layer.affine else None,
        "bias": Param(size, 0.0) if layer.affine and layer.bias else None,
        "running_mean": Buffer(size, 0.0) if tracked else None,
        "running_var": Buffer(size, 1.0) if tracked else None,
        "num_batches_tracked": Buffer((), 0, dtype=torch.long) if tracked else None,
    }


def _batch_norm(p: View, input: Tensor, *ranks: int) -> Tensor:
    if input.dim() not in ranks:
        raise ValueError(f"expected {' or '.join(f'{rank}D' for rank in ranks)} input (got {input.dim()}D input)")
    return _normalised(p, input)


def _normalised(p: View, input: Tensor) -> Tensor:
    momentum = p.momentum or 0.0
    if p.running_mean is None:
        return F.batch_norm(input, None, None, p.weight, p.bias, True, momentum, p.eps)
    if not p.training:
        return F.batch_norm(input, p.running_mean, p.running_var, p.weight, p.bias, False, momentum, p.eps)
    p.num_batches_tracked = p.num_batches_tracked + 1
    if torch.compiler.is_compiling() or under_vmap():
        return _traceable(p, input)
    mean, var = p.running_mean.clone(), p.running_var.clone()  # the kernels write to them
    if p.momentum is None:
        momentum = 1.0 / float(p.num_batches_tracked)
    size = p.num_features
    if input.is_cpu and input.size(1) == size and input.numel() > size and p.eps > 0:
        # what F.batch_norm comes down to here, which in a small call is half of its price
        y = torch.native_batch_norm(input, p.weight, p.bias, mean, var, True, momentum, p.eps)[0]
    else:
        y = F.batch_norm(input, mean, var, p.weight, p.bias, True, momentum, p.eps)
    p.running_mean, p.running_var = mean, var
    return y


def _traceable(p: View, input: Tensor) -> Tensor:
    """The rest of a training call, for vmap and compilers."""
    mean, var = writable_copy(p.running_mean, input), writable_copy(p.running_var, input)
    if p.momentum is None:
        # The factor is a tensor here and the kernel takes a float, so the averages are rounded once more than there.
        batch_mean, batch_var = torch.zeros_like(mean), torch.zeros_like(var)
        y = F.batch_norm(input, batch_mean, batch_var, p.weight, p.bias, True, 1.0, p.eps)
        factor = p.num_batches_tracked.to(mean.dtype).reciprocal()
        mean, var = torch.lerp(mean, batch_mean, factor), torch.lerp(var, batch_var, factor)
    else:
        y = F.batch_norm(input, mean, var, p.weight, p.bias, True, p.momentum, p.eps)
    p.running_mean, p.running_var = mean, var
    return y


def writable_copy(buffer: Tensor, input: Tensor) -> Tensor:
    """A copy of a buffer for a kernel to write to."""
    if under_vmap() or torch.compiler.is_compiling():  # batched wherever the input is, or vmap lets nothing be written
        return buffer + input.new_zeros((), dtype=buffer.dtype)
    return buffer.clone()


class BatchNorm1d(_BatchNorm):
    """Normalise each channel over the batch, then scale and shift.

    Args:
        num_features: size C.
        eps: added to the variance.
        momentum: weight of the new batch value, ``new = (1 - m) * old + m * batch``; None for a plain average.
        affine: when false, ``params`` has no entries.
        track_running_stats: when false, ``buffers`` has no entries and eval normalises by the batch too.
        device, dtype: the defaults of :meth:`init`.
        bias: when false, ``params`` has no ``bias`` entry.

    Params: weight (C,), bias (C,).  Draws: none.
    Buffers: running_mean (C,), running_var (C,), num_batches_tracked (); replaced by each training call.
    Shape:  input (N, C) or (N, C, L) -> y of the same shape.
    Raises: ShapeError for another rank.
    Source: torch.nn.functional.batch_norm.

    >>> bn = BatchNorm1d(3)
    >>> params, buffers = bn.init(0)
    >>> y, new = bn.apply(params, buffers, torch.ones(4, 3), train=True)
    >>> buffers["running_mean"], new["running_mean"]
    (tensor([0., 0., 0.]), tensor([0.1000, 0.1000, 0.1000]))
    """

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        return _batch_norm(p, input, 2, 3)


class BatchNorm2d(_BatchNorm):
    """Normalise each channel over batch and space; see :class:`BatchNorm1d`. Shape: input (N, C, H, W).

    >>> bn = BatchNorm2d(3)
    >>> bn.apply(*bn.init(0), torch.ones(4, 3, 2, 2))[0].shape
    torch.Size([4, 3, 2, 2])
    """

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        return _batch_norm(p, input, 4)


class BatchNorm3d(_BatchNorm):
    """Normalise each channel over batch and space; see :class:`BatchNorm1d`. Shape: input (N, C, D, H, W).

    >>> bn = BatchNorm3d(3)
    >>> bn.apply(*bn.init(0), torch.ones(4, 3, 2, 2, 2))[0].shape
    torch.Size([4, 3, 2, 2, 2])
    """

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        return _batch_norm(p, input, 5)


class SyncBatchNorm(Layer):
    """:class:`BatchNorm1d` of any rank, which in training normalises over the batches of all processes.

    It does so where ``torch.distributed`` is initialised, with inputs on a GPU; with one process, and in eval, it is
    plain batch normalisation.

    Args:
        process_group: the processes that share statistics; None for all of them.
        num_features, eps, momentum, affine, track_running_stats, device, dtype, bias: as for :class:`BatchNorm1d`.

    Shape:  input (N, C, *) -> y of the same shape.
    Raises: ShapeError for fewer axes or no channels, and, between processes, for an input that is not on a GPU.
    Source: torch.nn.functional.batch_norm; between processes the function beneath torch.nn.SyncBatchNorm.

    >>> bn = SyncBatchNorm(3)
    >>> bn.apply(*bn.init(0), torch.ones(4, 3, 2, 2), train=True)[1]["running_mean"]
    tensor([0.1000, 0.1000, 0.1000])
    """

    num_features: int
    eps: float = 1e-5
    momentum: float | None = 0.1
    affine: bool = True
    track_running_stats: bool = True
    process_group: Any = None
    device: Device = None
    dtype: torch.dtype | None = None
    bias: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_eps(self)

    def parts(self) -> dict[str, Any]:
        return norm_parts(self)

    def expects(self) -> str:
        return f"input (N, {self.num_features}, *)"

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2D input (got {input.dim()}D input)")
        if input.size(1) == 0:
            raise ValueError("expected at least one channel")
        if not (p.training and torch.distributed.is_available() and torch.distributed.is_initialized()):
            return _normalised(p, input)
        if input.device.type not in ("cuda", "hpu", "xpu", private_backend()):
            raise ValueError(f"between processes expected input on a GPU, got it on {input.device}")
        group = p.process_group or torch.distributed.group.WORLD
        count = torch.distributed.get_world_size(group)
        return _normalised(p, input) if count == 1 else _synchronised(p, input, group, count)


def _synchronised(p: View, input: Tensor, group: Any, count: int) -> Tensor:
    mean, var, momentum = p.running_mean, p.running_var, p.momentum or 0.0
    if mean is not None:
        p.num_batches_tracked = p.num_batches_tracked + 1
        mean, var = mean.clone(), var.clone()
        momentum = 1.0 / float(p.num_batches_tracked) if p.momentum is None else momentum
    y = sync_batch_norm(input, p.weight, p.bias, mean, var, p.eps, momentum, group, count)
    if mean is not None:
        p.running_mean, p.running_var = mean, var
    return y
