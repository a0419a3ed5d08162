"""Memory for tensors on their way through: used again where it fits, and copied to in small steps.

Both are about speed on a busy machine. Fresh memory costs more than what is read into it, because the system clears
each page first. And torch shares a large copy out among threads that then wait for each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from funcnet._typing import Shape

GRAIN = 1 << 15
"""Elements that torch copies on one thread, whatever the number of threads: less than its own grain size."""
_SLACK = 1.25


class Buffers:
    """Memory that is lent and given back.

    Args:
        budget: bytes that may be held, lent or not; what is lent at one time is never refused.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.free: list[Tensor] = []
        self.lent = 0

    def take(self, shape: Shape, dtype: torch.dtype) -> Tensor:
        """A contiguous tensor, its values undefined."""
        count = math.prod(shape) * dtype.itemsize
        fitting = [buffer for buffer in self.free if count <= buffer.numel() <= _SLACK * count]
        if fitting:
            buffer = min(fitting, key=Tensor.numel)
            self.free = [other for other in self.free if other is not buffer]
        else:
            while self.free and self.lent + sum(map(Tensor.numel, self.free)) + count > self.budget:
                del self.free[0]
            buffer = torch.empty(count, dtype=torch.uint8)
        self.lent += buffer.numel()
        return buffer[:count].view(dtype).view(shape)

    def give_back(self, tensor: Tensor) -> None:
        """Let others have the memory of a tensor from :meth:`take`, which nobody looks at any more."""
        storage = tensor.untyped_storage()
        self.lent -= storage.nbytes()
        self.free.append(torch.empty(0, dtype=torch.uint8).set_(storage))


def copy_to(target: Tensor, given: Tensor) -> None:
    """``target.copy_(given)`` on this thread alone.

    >>> target = torch.zeros(300, 200)
    >>> copy_to(target, torch.ones(200, 300).t())
    >>> bool(target.all())
    True
    """
    if target.numel() <= GRAIN:
        target.copy_(given)
        return
    dim = next(dim for dim, size in enumerate(target.shape) if size > 1)
    size = target.shape[dim]
    step = max(1, GRAIN * size // target.numel())
    for start in range(0, size, step):
        count = min(step, size - start)
        copy_to(target.narrow(dim, start, count), given.narrow(dim, start, count))


def contiguous(given: Tensor) -> Tensor:
    """The tensor in row-major order, as ``given.contiguous()``, on this thread alone.

    Where the last axis jumps in memory, a copy of the elements as they lie comes first: turning around a small block
    that lies in one piece is several times as fast as picking it out of a large tensor.
    """
    if given.is_contiguous():
        return given
    strides = given.stride()
    order = sorted(range(given.dim()), key=lambda dim: -strides[dim])
    if strides[-1] == 1 or given.dim() < 2:
        order = list(range(given.dim()))
    lying = given.permute(order)
    copied = torch.empty(lying.shape, dtype=given.dtype)
    copy_to(copied, lying)
    turned = copied.permute(_inverse(order))
    if turned.is_contiguous():
        return turned
    if turned.dim() == 2:
        return turned.contiguous()  # torch has a kernel for just this, on one thread
    done = torch.empty(turned.shape, dtype=given.dtype)
    copy_to(done, turned)
    return done


def _inverse(order: Sequence[int]) -> list[int]:
    return sorted(range(len(order)), key=order.__getitem__)
