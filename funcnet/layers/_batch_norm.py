"""Batch normalisation, the counterpart of torch/nn/modules/batchnorm.py. Axes: N batch, C channel, L D H W space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.types import Device

from funcnet._context import is_differentiated_twice, under_vmap
from funcnet._torch import private_backend_name, sync_batch_norm
from funcnet.core import Buffer, Param, View
from funcnet.kernels import batch_norm as composed_batch_norm
from funcnet.kernels.internals import (
    batch_norm_of_all_ranks,
    flatten_space_for_compiler,
    guard_batch_norm_gradient,
)
from funcnet.layers._layer import Layer
from funcnet.ranks import RankRun, current_run


class _BatchNorm(Layer):
    """The base of BatchNorm1d to BatchNorm3d; the forward of each says which ranks of input it takes."""

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
        return f"input with {self.num_features} channels in axis 1"


class ChannelNorm(Protocol):
    """The fields of layers that normalise each channel: batch and instance normalisation."""

    @property
    def num_features(self) -> int: ...
    @property
    def affine(self) -> bool: ...
    @property
    def track_running_stats(self) -> bool: ...
    @property
    def bias(self) -> bool: ...


def check_eps(layer: _BatchNorm | SyncBatchNorm) -> None:
    """Refuse a negative eps, which the twin accepts."""
    if layer.eps < 0:
        raise ValueError(f"{type(layer).__name__}: eps is added to a variance and not negative, got {layer.eps}.")


def norm_parts(layer: ChannelNorm) -> dict[str, Any]:
    """The params and buffers of a layer that may scale and shift its channels and keep statistics of them."""
    size, is_tracked = layer.num_features, layer.track_running_stats
    return {
        "weight": Param(size, 1.0) if layer.affine else None,
        "bias": Param(size, 0.0) if layer.affine and layer.bias else None,
        "running_mean": Buffer(size, 0.0) if is_tracked else None,
        "running_var": Buffer(size, 1.0) if is_tracked else None,
        "num_batches_tracked": Buffer((), 0, dtype=torch.long) if is_tracked else None,
    }


def _check_rank_and_normalise(p: View, input: Tensor, *ranks: int) -> Tensor:
    if input.dim() not in ranks:
        raise ValueError(f"expected {' or '.join(f'{rank}D' for rank in ranks)} input (got {input.dim()}D input)")
    return _batch_normalise(p, input)


def _batch_normalise(p: View, input: Tensor) -> Tensor:
    if input.dim() > 3 and 1 in input.shape:  # some gradients of such inputs, torch's kernels read in a wrong order
        flat = flatten_space_for_compiler(input)
        if flat is not input:
            return _batch_normalise_any(p, flat).view(input.shape)
        return guard_batch_norm_gradient(input, _batch_normalise_any(p, input))
    return _batch_normalise_any(p, input)


def _batch_normalise_any(p: View, input: Tensor) -> Tensor:
    momentum = p.momentum or 0.0
    weight = p.weight  # read once: it may be computed anew at each reading
    run = current_run()
    if run is not None and run.shares_statistics and (p.training or p.running_mean is None):
        return _normalise_on_ranks(p, input, weight, run)
    compute = composed_batch_norm if is_differentiated_twice(input, weight) else F.batch_norm
    if p.running_mean is None:
        return compute(input, None, None, weight, p.bias, True, momentum, p.eps)
    if not p.training:
        return F.batch_norm(input, p.running_mean, p.running_var, weight, p.bias, False, momentum, p.eps)
    p.num_batches_tracked = p.num_batches_tracked + 1
    if torch.compiler.is_compiling() or under_vmap():
        return _normalise_traceable(p, input, weight, compute)
    mean, var = p.running_mean.clone(), p.running_var.clone()  # copies, because the kernels write to them
    if p.momentum is None:
        momentum = 1.0 / float(p.num_batches_tracked)
    size = p.num_features
    if compute is F.batch_norm and input.is_cpu and input.size(1) == size and input.numel() > size and p.eps > 0:
        # F.batch_norm calls this kernel here; in a small call, the rest of it costs as much as the kernel.
        y = torch.native_batch_norm(input, weight, p.bias, mean, var, True, momentum, p.eps)[0]
    else:
        y = compute(input, mean, var, weight, p.bias, True, momentum, p.eps)
    p.running_mean, p.running_var = mean, var
    return y


def _normalise_on_ranks(p: View, input: Tensor, weight: Tensor | None, run: RankRun) -> Tensor:
    """A call that normalises by the rows of all ranks."""
    y, mean, var = batch_norm_of_all_ranks(input, weight, p.bias, p.eps, run)
    if p.running_mean is not None:
        p.num_batches_tracked = p.num_batches_tracked + 1
        momentum = 1.0 / float(p.num_batches_tracked) if p.momentum is None else p.momentum
        p.running_mean = (1 - momentum) * p.running_mean + momentum * mean.to(p.running_mean.dtype)
        p.running_var = (1 - momentum) * p.running_var + momentum * var.to(p.running_var.dtype)
    return y


def _normalise_traceable(p: View, input: Tensor, weight: Tensor | None, compute: Callable[..., Tensor]) -> Tensor:
    """The rest of a training call under vmap or a compiler."""
    mean, var = writable_copy(p.running_mean, input), writable_copy(p.running_var, input)
    if p.momentum is None:
        # The kernel takes a float and the factor is a tensor here, so the averages are rounded once more than in eager
        # mode.
        batch_mean, batch_var = torch.zeros_like(mean), torch.zeros_like(var)
        y = compute(input, batch_mean, batch_var, weight, p.bias, True, 1.0, p.eps)
        factor = p.num_batches_tracked.to(mean.dtype).reciprocal()
        mean, var = torch.lerp(mean, batch_mean, factor), torch.lerp(var, batch_var, factor)
    else:
        y = compute(input, mean, var, weight, p.bias, True, p.momentum, p.eps)
    p.running_mean, p.running_var = mean, var
    return y


def writable_copy(buffer: Tensor, input: Tensor) -> Tensor:
    """A copy of a buffer that a kernel can write to."""
    if under_vmap() or torch.compiler.is_compiling():
        # vmap lets kernels write to a batched tensor only, so the copy is batched wherever the input is.
        return buffer + input.new_zeros((), dtype=buffer.dtype)
    return buffer.clone()


class BatchNorm1d(_BatchNorm):
    """Normalise each channel over the batch, then scale and shift.

    Args:
        num_features: size C.
        eps: added to the variance.
        momentum: weight m of the batch in ``new = (1 - m) * old + m * batch``; None for a plain average.
        affine: when false, ``params`` has no entries.
        track_running_stats: when false, ``buffers`` has no entries and eval mode also normalises by the batch.
        device, dtype: the defaults of :meth:`init`.
        bias: when false, ``params`` has no ``bias`` entry.

    Params: weight (C,), bias (C,).  Draws: none.
    Buffers: running_mean (C,), running_var (C,), num_batches_tracked (); each training call replaces them.
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
        return _check_rank_and_normalise(p, input, 2, 3)


class BatchNorm2d(_BatchNorm):
    """Normalise each channel over batch and space; see :class:`BatchNorm1d`. Shape: input (N, C, H, W).

    >>> bn = BatchNorm2d(3)
    >>> bn.apply(*bn.init(0), torch.ones(4, 3, 2, 2))[0].shape
    torch.Size([4, 3, 2, 2])
    """

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        return _check_rank_and_normalise(p, input, 4)


class BatchNorm3d(_BatchNorm):
    """Normalise each channel over batch and space; see :class:`BatchNorm1d`. Shape: input (N, C, D, H, W).

    >>> bn = BatchNorm3d(3)
    >>> bn.apply(*bn.init(0), torch.ones(4, 3, 2, 2, 2))[0].shape
    torch.Size([4, 3, 2, 2, 2])
    """

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        return _check_rank_and_normalise(p, input, 5)


class SyncBatchNorm(Layer):
    """Batch normalisation for inputs of any rank, which in training normalises over the batches of all processes.

    It does so if ``torch.distributed`` is initialised, for inputs on a GPU. With one process, and in eval mode, it is
    plain batch normalisation.

    Args:
        process_group: the processes that share statistics; None for all of them.
        num_features, eps, momentum, affine, track_running_stats, device, dtype, bias: as for :class:`BatchNorm1d`.

    Shape:  input (N, C, *) -> y of the same shape.
    Raises: ShapeError for fewer axes or no channels; with several processes, also for an input that is not on a GPU.
    Source: torch.nn.functional.batch_norm; with several processes, the function that torch.nn.SyncBatchNorm calls.

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
        if current_run() is not None or not (
            p.training and torch.distributed.is_available() and torch.distributed.is_initialized()
        ):
            return _batch_normalise(p, input)
        if input.device.type not in ("cuda", "hpu", "xpu", private_backend_name()):
            raise ValueError(f"between processes expected input on a GPU, got it on {input.device}")
        group = p.process_group or torch.distributed.group.WORLD
        processes = torch.distributed.get_world_size(group)
        return _batch_normalise(p, input) if processes == 1 else _normalise_across_processes(p, input, group, processes)


def _normalise_across_processes(
    p: View, input: Tensor, group: torch.distributed.ProcessGroup | None, processes: int
) -> Tensor:
    mean, var, momentum = p.running_mean, p.running_var, p.momentum or 0.0
    if mean is not None:
        p.num_batches_tracked = p.num_batches_tracked + 1
        mean, var = mean.clone(), var.clone()
        momentum = 1.0 / float(p.num_batches_tracked) if p.momentum is None else momentum
    y = sync_batch_norm(input, p.weight, p.bias, mean, var, p.eps, momentum, group, processes)
    if mean is not None:
        p.running_mean, p.running_var = mean, var
    return y
