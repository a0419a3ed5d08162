"""What is measured of two programs that should do the same: how far apart, how long, how much memory."""

from __future__ import annotations

import statistics
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from funcnet._torch import DispatchMode, pytree
from funcnet.compare._results import Sides


def largest_difference(left: Any, right: Any) -> float:
    """The largest absolute difference between the tensors of two trees; 0.0 only where all numbers are equal.

    Infinite where the trees have other keys, shapes or dtypes, or where one side is NaN; NaN on both sides is equal.

    >>> largest_difference({"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([1.0, 2.5])})
    0.5
    """
    lefts, left_spec = pytree.tree_flatten(left)
    rights, right_spec = pytree.tree_flatten(right)
    if left_spec != right_spec:
        return float("inf")
    return max((_apart(a, b) for a, b in zip(lefts, rights, strict=True)), default=0.0)


def _apart(left: Any, right: Any) -> float:
    if not isinstance(left, Tensor) or not isinstance(right, Tensor):
        return 0.0 if type(left) is type(right) and (left is right or bool(left == right)) else float("inf")
    if left.shape != right.shape or left.dtype != right.dtype or left.device != right.device:
        return float("inf")
    if torch.equal(left, right):
        return 0.0
    wide = torch.complex128 if left.is_complex() else torch.float64
    a, b = left.detach().to(wide), right.detach().to(wide)
    same = (left == right) | (a.isnan() & b.isnan())  # on the narrow numbers too: large integers round when widened
    gaps = torch.where(same, 0.0, (a - b).abs())
    gaps = torch.where(~same & (gaps == 0), torch.finfo(torch.float64).tiny, gaps)
    return float(gaps.nan_to_num(nan=float("inf"), posinf=float("inf")).max())


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread: on a busy machine, threads that wait for each other make times worth nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def seconds(
    stateful: Callable[[], Any], stateless: Callable[[], Any], *, budget: float = 1.0, block: float = 0.002
) -> Sides:
    """Median seconds per call of two programs that take turns, so that a machine that slows down slows both.

    Args:
        stateful, stateless: the calls.
        budget: seconds to spend on both together; three rounds are made in any case.
        block: shortest time, in seconds, that is taken as one measurement; short calls are repeated until they fill it.
    """
    calls = (stateful, stateless)
    once = sum(_timed(call, 1) for call in calls for _ in range(2)) / 4  # the first calls also warm caches
    repeat = max(1, min(1000, round(block / once)))
    rounds = max(3, min(201, int(budget / (2 * once * repeat))))
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds):
        for side in (0, 1) if turn % 2 else (1, 0):
            times[side].append(_timed(calls[side], repeat))
    return Sides(statistics.median(times[0]), statistics.median(times[1]))


def _timed(call: Callable[[], Any], repeat: int) -> float:
    start = clock()
    for _ in range(repeat):
        call()
    return (clock() - start) / repeat


def clock() -> float:
    """Seconds since some moment, once an accelerator has finished what it was given."""
    if torch.accelerator.is_available() and torch.accelerator.current_accelerator() is not None:
        torch.accelerator.synchronize()
    return time.perf_counter()


class LiveBytes(DispatchMode):
    """Counts the bytes of all tensors alive, and the most there were at one time.

    Every storage that an operator returns within the context counts from then until it is freed, backward passes
    included; so do the tensors given to :meth:`count`. What a kernel uses inside itself is not seen.

    >>> with LiveBytes() as memory:
    ...     x = torch.zeros(1000)
    ...     y = x + 1
    ...     del x
    >>> memory.live, memory.peak
    (4000, 8000)
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        self.count(output)
        return output

    def count(self, tree: Any) -> None:
        """Count the tensors of a tree, each storage once."""
        for leaf in pytree.tree_leaves(tree):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        size = storage.nbytes()
        self._seen.add(storage)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, size).atexit = False

    def _free(self, size: int) -> None:
        self.live -= size
