"""Which tensors of a tree may be written over, when their owner gives them away."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from funcnet._context import is_plainly_eager


def are_writable(tensors: Iterable[Tensor]) -> list[bool]:
    """For each tensor whether its memory may be written over without a change to any other tensor, or to a derivative.

    A gradient may be one number that is shown many times, as that of a sum is, and two paths may share one gradient, as
    the two terms of a sum do. Nor is anything written over where a transform, the compiler or autograd looks on.
    """
    tensors = list(tensors)
    if not is_plainly_eager():
        return [False] * len(tensors)
    candidates = [_is_dense(tensor) and not (tensor.requires_grad and torch.is_grad_enabled()) for tensor in tensors]
    spans = sorted(
        (start := tensor.data_ptr(), start + tensor.numel() * tensor.element_size(), index)
        for index, tensor in enumerate(tensors)
        if tensor.layout == torch.strided and tensor.numel()
    )
    end, last = 0, -1
    for start, stop, index in spans:
        if start < end:
            candidates[index] = candidates[last] = False
        if stop > end:
            end, last = stop, index
    return candidates


def _is_dense(tensor: Tensor) -> bool:
    """Whether each element of a tensor has a place of its own in one stretch of memory."""
    if tensor.layout != torch.strided:
        return False
    if tensor.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size == 0:
            return True
        if size > 1:
            if stride != expected:
                return False
            expected *= size
    return True
