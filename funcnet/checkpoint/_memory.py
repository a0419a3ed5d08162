"""Memory for tensors on their way from file to file: used again where it fits, and copied to in small steps.

Both are about speed on a busy machine. New memory costs more than what is read into it, because the system clears each
page first. And torch divides a large copy among threads, which then wait for each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from funcnet._typing import Shape

COPY_ELEMENTS = 1 << 15
"""Elements that torch copies on one thread, whatever the number of threads: less than its own grain size."""
_MAX_SLACK = 1.25


class BufferPool:
    """Memory that is lent and given back.

    Args:
        budget: bytes that may be allocated at a time, lent or free. Loans are never refused; the budget only bounds how
            much free memory is stored for later use.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.free: list[Tensor] = []
        self.lent = 0

    def borrow(self, shape: Shape, dtype: torch.dtype) -> Tensor:
        """A contiguous tensor whose values are undefined."""
        count = math.prod(shape) * dtype.itemsize
        candidates = [buffer for buffer in self.free if count <= buffer.numel() <= _MAX_SLACK * count]
        if candidates:
            buffer = min(candidates, key=Tensor.numel)
            self.free = [candidate for candidate in self.free if candidate is not buffer]
        else:
            while self.free and self.lent + sum(map(Tensor.numel, self.free)) + count > self.budget:
                del self.free[0]
            buffer = torch.empty(count, dtype=torch.uint8)
        self.lent += buffer.numel()
        return buffer[:count].view(dtype).view(shape)

    def give_back(self, tensor: Tensor) -> None:
        """Free the memory of a tensor from :meth:`borrow`, which nobody reads any more."""
        storage = tensor.untyped_storage()
        self.lent -= storage.nbytes()
        self.free.append(torch.empty(0, dtype=torch.uint8).set_(storage))


def copy_single_threaded(target: Tensor, source: Tensor) -> None:
    """``target.copy_(source)`` on this thread alone.

    >>> target = torch.zeros(300, 200)
    >>> copy_single_threaded(target, torch.ones(200, 300).t())
    >>> bool(target.all())
    True
    """
    if target.numel() <= COPY_ELEMENTS:
        target.copy_(source)
        return
    dim = next(dim for dim, size in enumerate(target.shape) if size > 1)
    size = target.shape[dim]
    step = max(1, COPY_ELEMENTS * size // target.numel())
    for start in range(0, size, step):
        count = min(step, size - start)
        copy_single_threaded(target.narrow(dim, start, count), source.narrow(dim, start, count))


def make_contiguous(tensor: Tensor) -> Tensor:
    """The tensor in row-major order, as ``tensor.contiguous()``, on this thread alone.

    Where the last axis jumps in memory, a copy of the elements in the order of memory comes first: permuting a small
    block that lies in one piece is several times as fast as collecting it from a large tensor.
    """
    if tensor.is_contiguous():
        return tensor
    strides = tensor.stride()
    order = sorted(range(tensor.dim()), key=lambda dim: -strides[dim])
    if strides[-1] == 1 or tensor.dim() < 2:
        order = list(range(tensor.dim()))
    in_memory_order = tensor.permute(order)
    block = torch.empty(in_memory_order.shape, dtype=tensor.dtype)
    copy_single_threaded(block, in_memory_order)
    permuted = block.permute(_inverse_permutation(order))
    if permuted.is_contiguous():
        return permuted
    if permuted.dim() == 2:
        return permuted.contiguous()  # torch has a kernel for just this, on one thread
    result = torch.empty(permuted.shape, dtype=tensor.dtype)
    copy_single_threaded(result, permuted)
    return result


def _inverse_permutation(order: Sequence[int]) -> list[int]:
    return sorted(range(len(order)), key=order.__getitem__)
