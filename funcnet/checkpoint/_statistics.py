"""Statistics of the values in a checkpoint, computed a piece at a time, whatever its size."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from funcnet.checkpoint._checkpoint import Checkpoint
from funcnet.checkpoint._node_reader import NodeReader
from funcnet.checkpoint._nodes import SourceNode


@dataclass(frozen=True)
class Stats:
    """Numbers about the values of a tensor: of those that are finite, and how many are not.

    ``min``, ``max`` and ``mean`` are None for complex numbers, which have no order, and where no value is finite.

    >>> import tempfile, torch
    >>> from funcnet import checkpoint
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     checkpoint.save(f"{folder}/model.npz", {"w": torch.tensor([1.0, 3.0])})
    ...     for name, numbers in checkpoint.stats(checkpoint.load(f"{folder}/model.npz")).items():
    ...         print(name, numbers)
    w Stats(min=1.0, max=3.0, mean=2.0, nan=0, inf=0)
    """

    min: float | None
    max: float | None
    mean: float | None
    nan: int
    inf: int


def stats(ckpt: Checkpoint, progress: Callable[[int, int], None] | None = None) -> dict[str, Stats]:
    """Smallest, largest and mean value of every stored tensor, and how many values are not finite.

    >>> import tempfile
    >>> from funcnet.checkpoint import load, save
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(f"{folder}/a.pt", {"w": torch.tensor([1.0, 3.0, float("nan")])})
    ...     stats(load(f"{folder}/a.pt"))
    {'w': Stats(min=1.0, max=3.0, mean=2.0, nan=1, inf=0)}
    """
    reader = NodeReader(ckpt.entries)
    done = 0
    stats_by_name: dict[str, Stats] = {}
    for name, spec in ckpt.specs.items():
        node = SourceNode(spec, name)
        reader.release_sources(except_for=node)
        running = _RunningStats(spec.dtype)
        for piece in filter(len, reader.iter_bytes(node)):
            running.add(torch.frombuffer(piece, dtype=spec.dtype))
            done += len(piece)
            if progress is not None:
                progress(done, ckpt.nbytes)
        stats_by_name[name] = running.finish()
    return stats_by_name


class _RunningStats:
    """The statistics of the values added so far."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.is_complex = dtype.is_complex
        self.low, self.high, self.total = math.inf, -math.inf, 0.0
        self.count = self.nan = self.inf = 0

    def add(self, values: Tensor) -> None:
        if self.is_complex:
            self.nan += int(values.isnan().sum())
            self.inf += int(values.isinf().sum())
            return
        values = real_to_float64(values)
        finite = values.isfinite()
        if not bool(finite.all()):
            self.nan += int(values.isnan().sum())
            self.inf += int(values.isinf().sum())
            values = values[finite]
        if values.numel():
            self.low, self.high = min(self.low, values.min().item()), max(self.high, values.max().item())
            self.total += values.sum().item()
            self.count += values.numel()

    def finish(self) -> Stats:
        if not self.count:
            return Stats(None, None, None, self.nan, self.inf)
        return Stats(self.low, self.high, self.total / self.count, self.nan, self.inf)


def real_to_float64(values: Tensor) -> Tensor:
    """Real values as float64; those of one byte through float32, because torch converts some of them no other way."""
    return (values.to(torch.float32) if values.dtype.itemsize == 1 else values).to(torch.float64)
