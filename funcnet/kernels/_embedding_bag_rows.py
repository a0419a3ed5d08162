"""Sums, means and maxima of bags of rows, for every derivative. Axes: B bags, E features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from funcnet._context import beyond_one_gradient
from funcnet._torch_versions import BAG_TAKES_WRONG_COUNTS
from funcnet.kernels._second_derivatives import allow_second_derivatives_within


def embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """Torch.nn.functional.embedding_bag, composed for forward mode and more than one gradient.

    >>> embedding_bag(torch.tensor([[0, 1]]), torch.eye(2))
    tensor([[0.5000, 0.5000]])
    """
    tensors = [tensor for tensor in (weight, per_sample_weights) if tensor is not None]
    if max_norm is not None or not beyond_one_gradient(*tensors):
        options = (max_norm, norm_type, scale_grad_by_freq, mode, sparse, per_sample_weights, include_last_offset)
        return allow_second_derivatives_within(F.embedding_bag(input, weight, offsets, *options, padding_idx))
    factors = per_sample_weights
    if factors is not None and factors.shape != input.shape:
        raise ValueError(f"expected per_sample_weights {tuple(input.shape)}, got {tuple(factors.shape)}")
    if input.dim() == 2 and offsets is None:
        count = input.shape[0]
        bag = torch.arange(count, device=input.device).repeat_interleave(input.shape[1])
    elif input.dim() == 1 and offsets is not None and offsets.dim() == 1:
        starts = offsets[:-1] if include_last_offset else offsets
        count = starts.shape[0]
        position = torch.arange(input.shape[0], device=input.device)
        bag = (position[:, None] >= starts).sum(-1) - 1
    else:
        raise ValueError("expected a 2D input and no offsets, or a 1D input and 1D offsets")
    flat = input.reshape(-1)
    rows = F.embedding(flat, _scale_gradient_by_frequency(weight, flat) if scale_grad_by_freq else weight)
    if offsets is not None:
        # A transform cannot branch on the values of offsets: for offsets that the kernel refuses, the result is NaN.
        is_valid = (offsets[:1] == 0).all() & ((offsets >= 0) & (offsets <= flat.shape[0])).all()
        rows = torch.where(is_valid, rows, rows.new_full((), torch.nan))
    if factors is not None:
        rows = rows * factors.reshape(-1, 1)
    counts_in_bag = torch.ones_like(flat, dtype=torch.bool) if padding_idx is None else flat != padding_idx
    if mode == "max":
        return _max_per_bag(rows, bag, counts_in_bag, count)
    rows = torch.where(counts_in_bag[:, None], rows, rows.new_zeros(()))
    total = rows.new_zeros((count, rows.shape[1])).index_add(0, bag, rows)
    if mode == "sum":
        return total
    entries = rows.new_zeros(count).index_add(0, bag, counts_in_bag.to(rows.dtype))
    return total / entries.clamp(min=1)[:, None]


def _scale_gradient_by_frequency(weight: Tensor, flat: Tensor) -> Tensor:
    """The weight, with gradients divided by how often each row is looked up."""
    if flat.shape[0] == 0:
        return weight
    counts = flat.new_zeros(weight.shape[0]).index_add(0, flat, torch.ones_like(flat))
    if BAG_TAKES_WRONG_COUNTS and weight.device.type == "cpu":
        # torch's kernel on the CPU divides by the wrong count: it sorts the indices, and for the n-th distinct index
        # takes the count of the n-th index of all. A net has the module's gradients, so this does the same.
        nth = ((counts > 0).cumsum(0) - 1).clamp(min=0)
        counts = counts.index_select(0, flat.sort().values.index_select(0, nth))
    detached = weight.detach()
    return detached + (weight - detached) / counts.clamp(min=1)[:, None]


def _max_per_bag(rows: Tensor, bag: Tensor, counts_in_bag: Tensor, count: int) -> Tensor:
    """The largest value of each column in each bag, (B, E); zeros for an empty bag."""
    is_member = (bag == torch.arange(count, device=bag.device)[:, None]) & counts_in_bag  # (B, entries)
    if rows.shape[0] == 0:
        return rows.new_zeros((count, rows.shape[1]))
    largest = torch.where(is_member[:, :, None], rows, float("-inf")).max(1).values
    return torch.where(is_member.any(1)[:, None], largest, 0.0)
