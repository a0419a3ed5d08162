"""Measures two programs that should compute the same: how far apart they are, how long they take, how much memory."""

from __future__ import annotations

import statistics
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from funcnet._torch import DispatchMode, pytree
from funcnet.compare._results import Sides

SLOW_SECONDS, VERY_SLOW_SECONDS = 0.25, 1.0
"""Calls that take longer are warmed up only once, and make fewer rounds; those that take longer still make one."""


def largest_difference(left: object, right: object) -> float:
    """The largest absolute difference between the tensors of two trees; 0.0 only if all numbers are equal.

    It is infinite if the trees differ in keys, shapes or dtypes, or if a number is NaN on one side alone. NaN on both
    sides counts as equal.

    >>> largest_difference({"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([1.0, 2.5])})
    0.5
    """
    left_leaves, left_structure = pytree.tree_flatten(left)
    right_leaves, right_structure = pytree.tree_flatten(right)
    if left_structure != right_structure:
        return float("inf")
    return max((_leaf_difference(a, b) for a, b in zip(left_leaves, right_leaves, strict=True)), default=0.0)


def _leaf_difference(left: object, right: object) -> float:
    if not isinstance(left, Tensor) or not isinstance(right, Tensor):
        return 0.0 if type(left) is type(right) and (left is right or bool(left == right)) else float("inf")
    if left.shape != right.shape or left.dtype != right.dtype or left.device != right.device:
        return float("inf")
    if torch.equal(left, right):
        return 0.0
    wide_dtype = torch.complex128 if left.is_complex() else torch.float64
    a, b = left.detach().to(wide_dtype), right.detach().to(wide_dtype)
    # Equality is asked of the original numbers too, because large integers are rounded when they are widened.
    equal = (left == right) | (a.isnan() & b.isnan())
    gaps = torch.where(equal, 0.0, (a - b).abs())
    gaps = torch.where(~equal & (gaps == 0), torch.finfo(torch.float64).tiny, gaps)
    return float(gaps.nan_to_num(nan=float("inf"), posinf=float("inf")).max())


@contextmanager
def single_threaded() -> Iterator[None]:
    """Let torch compute on one thread: on a busy machine, threads that wait for each other make times meaningless."""
    thread_count = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(thread_count)


def measure_seconds(
    stateful: Callable[[], object], stateless: Callable[[], object], *, budget: float = 1.0, block: float = 0.002
) -> Sides:
    """The median seconds per call of two programs that take turns, so that a machine that slows down slows both.

    Args:
        stateful, stateless: the two programs, as calls without arguments.
        budget: seconds to spend on both together; at least three rounds are made, or one if a call takes more than a
            second.
        block: the shortest time in seconds that counts as one measurement; shorter calls are repeated to fill it.
    """
    calls = (stateful, stateless)
    # The first calls also warm the caches.
    seconds_per_call = sum(time_calls(call, 1) for call in calls) / 2
    if seconds_per_call <= SLOW_SECONDS:
        seconds_per_call = (seconds_per_call + sum(time_calls(call, 1) for call in calls) / 2) / 2
    repeat = max(1, min(1000, round(block / seconds_per_call)))
    least = 3 if seconds_per_call <= VERY_SLOW_SECONDS else 1
    rounds = max(least, min(201, int(budget / (2 * seconds_per_call * repeat))))
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds):
        for side in (0, 1) if turn % 2 else (1, 0):
            times[side].append(time_calls(calls[side], repeat))
    return Sides(statistics.median(times[0]), statistics.median(times[1]))


def time_calls(call: Callable[[], object], repeat: int) -> float:
    """The mean seconds of ``repeat`` calls."""
    start = read_clock()
    for _ in range(repeat):
        call()
    return (read_clock() - start) / repeat


def read_clock() -> float:
    """The time in seconds, read after an accelerator has finished its work."""
    if torch.accelerator.is_available() and torch.accelerator.current_accelerator() is not None:
        torch.accelerator.synchronize()
    return time.perf_counter()


class LiveBytes(DispatchMode):
    """Counts the bytes of all tensors that are alive, and the largest number at any time.

    Every storage that an operator returns within the context counts until it is freed, in backward passes too; so do
    the tensors passed to :meth:`count_tensors`. Memory that a kernel uses inside itself is not seen.

    >>> with LiveBytes() as memory:
    ...     x = torch.zeros(1000)
    ...     y = x + 1
    ...     del x
    >>> memory.live, memory.peak
    (4000, 8000)
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self._counted: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        output = func(*args, **(kwargs or {}))
        self.count_tensors(output)
        return output

    def count_tensors(self, tree: object) -> None:
        """Count the tensors of a tree, each storage once."""
        for leaf in pytree.tree_leaves(tree):
            if isinstance(leaf, Tensor):
                self._count_storage(leaf.untyped_storage())

    def reset_peak(self) -> None:
        """Forget the peak so far: from now on, ``peak`` is the largest number since this moment."""
        self.peak = self.live

    def _count_storage(self, storage: torch.UntypedStorage) -> None:
        if storage in self._counted:
            return
        size = storage.nbytes()
        self._counted.add(storage)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._subtract, size).atexit = False

    def _subtract(self, size: int) -> None:
        self.live -= size
