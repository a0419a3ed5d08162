"""Looking at checkpoints: what is in one, and how two differ; a piece at a time, whatever their size."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from funcnet.checkpoint._checkpoint import Checkpoint, Spec
from funcnet.checkpoint._nodes import SourceNode
from funcnet.checkpoint._stream import Joined, NodeReader


@dataclass(frozen=True)
class Stats:
    """Numbers about the values of a tensor: of those that are finite, and how many are not.

    None where there are no finite values, or no order among them (complex numbers).
    """

    min: float | None
    max: float | None
    mean: float | None
    nan: int
    inf: int


@dataclass(frozen=True)
class Difference:
    """How one name differs between two checkpoints.

    Attributes:
        name: the name.
        kind: "missing", "new", "shape", "dtype", "tie", "value".
        text: both sides, in words.
        largest: largest difference of two values, for "value"; None if a NaN or an infinity stands against another.
        elements: how many elements have other bits, for "value".
    """

    name: str
    kind: str
    text: str
    largest: float | None = None
    elements: int | None = None


def stats(ckpt: Checkpoint, progress: Callable[[int, int], None] | None = None) -> dict[str, Stats]:
    """Smallest, largest and mean value of every stored tensor, and how many values are no numbers.

    >>> import tempfile
    >>> from funcnet.checkpoint import load, save
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(f"{folder}/a.pt", {"w": torch.tensor([1.0, 3.0, float("nan")])})
    ...     stats(load(f"{folder}/a.pt"))
    {'w': Stats(min=1.0, max=3.0, mean=2.0, nan=1, inf=0)}
    """
    stream = NodeReader(ckpt.entries)
    done = 0
    found = {}
    for name, spec in ckpt.specs.items():
        node = SourceNode(spec, name)
        stream.forget(node)
        summary = _Summary(spec.dtype)
        for piece in filter(len, stream.bytes(node)):
            summary.add(torch.frombuffer(piece, dtype=spec.dtype))
            done += len(piece)
            if progress is not None:
                progress(done, ckpt.nbytes)
        found[name] = summary.stats()
    return found


class _Summary:
    def __init__(self, dtype: torch.dtype) -> None:
        self.complex = dtype.is_complex
        self.low, self.high, self.total = math.inf, -math.inf, 0.0
        self.count = self.nan = self.inf = 0

    def add(self, given: Tensor) -> None:
        if self.complex:
            self.nan += int(given.isnan().sum())
            self.inf += int(given.isinf().sum())
            return
        values = numbers(given)
        finite = values.isfinite()
        if not bool(finite.all()):
            self.nan += int(values.isnan().sum())
            self.inf += int(values.isinf().sum())
            values = values[finite]
        if values.numel():
            self.low, self.high = min(self.low, values.min().item()), max(self.high, values.max().item())
            self.total += values.sum().item()
            self.count += values.numel()

    def stats(self) -> Stats:
        if not self.count:
            return Stats(None, None, None, self.nan, self.inf)
        return Stats(self.low, self.high, self.total / self.count, self.nan, self.inf)


def numbers(given: Tensor) -> Tensor:
    """Real values as float64; by float32 where torch has no direct way."""
    return (given.to(torch.float32) if given.dtype.itemsize == 1 else given).to(torch.float64)


def differences(
    left: Checkpoint, right: Checkpoint, progress: Callable[[int, int], None] | None = None
) -> list[Difference]:
    """How two checkpoints differ, name by name: names, shapes, dtypes, ties, and values bit by bit.

    >>> import tempfile
    >>> from funcnet.checkpoint import load, save
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(f"{folder}/a.pt", {"w": torch.tensor([1.0, 2.0]), "b": torch.ones(1)})
    ...     save(f"{folder}/b.npz", {"w": torch.tensor([1.0, 2.5]), "b": torch.ones(1)})
    ...     differences(load(f"{folder}/a.pt"), load(f"{folder}/b.npz"))
    [Difference(name='w', kind='value', text='largest difference 0.5 in 1 of 2 elements', largest=0.5, elements=1)]
    """
    found = [Difference(name, "missing", "only in the first") for name in left if name not in right]
    found += [Difference(name, "new", "only in the second") for name in right if name not in left]
    both = [name for name in left if name in right]
    total = sum(_spec(left, name).nbytes for name in both)
    streams = NodeReader(left.entries), NodeReader(right.entries)
    done = 0
    compared: dict[tuple[str, str], Difference | None] = {}
    for name in both:
        owners = left.aliases.get(name, name), right.aliases.get(name, name)
        if owners[0] != owners[1]:
            texts = ("a tie to " + repr(owner) if owner != name else "stored" for owner in owners)
            found.append(Difference(name, "tie", " against ".join(texts)))
        if owners not in compared:
            compared[owners] = _difference(streams, left.specs[owners[0]], right.specs[owners[1]], *owners)
        if (one := compared[owners]) is not None:
            found.append(Difference(name, one.kind, one.text, one.largest, one.elements))
        done += _spec(left, name).nbytes
        if progress is not None:
            progress(done, total)
    return found


def _spec(ckpt: Checkpoint, name: str) -> Spec:
    return ckpt.entries[ckpt.aliases.get(name, name)].spec


def _difference(
    streams: tuple[NodeReader, NodeReader], left: Spec, right: Spec, one: str, two: str
) -> Difference | None:
    if left.shape != right.shape:
        return Difference(one, "shape", f"{list(left.shape)} against {list(right.shape)}")
    if left.dtype != right.dtype:
        return Difference(one, "dtype", f"{left.dtype} against {right.dtype}")
    largest: float | None = 0.0
    elements = 0
    for first, second in _pairs(streams, SourceNode(left, one), SourceNode(right, two)):
        if first == second:
            continue
        a, b = (torch.frombuffer(bytearray(piece), dtype=left.dtype) for piece in (first, second))
        raw = (x.view(torch.uint8).view(-1, left.dtype.itemsize) for x in (a, b))
        apart = torch.ne(*raw).any(1)
        elements += int(apart.sum())
        gap = (a - b).abs().to(torch.float64) if left.dtype.is_complex else (numbers(a) - numbers(b)).abs()
        worst = gap[apart].max().item()
        largest = None if largest is None or not math.isfinite(worst) else max(largest, worst)
    if not elements:
        return None
    size = "no number" if largest is None else f"{largest:.6g}"
    text = f"largest difference {size} in {elements:,} of {math.prod(left.shape):,} elements"
    return Difference(one, "value", text, largest, elements)


def _pairs(streams: tuple[NodeReader, NodeReader], one: SourceNode, two: SourceNode) -> Iterator[tuple[bytes, bytes]]:
    for stream, node in zip(streams, (one, two), strict=True):
        stream.forget(node)
    left = Joined(streams[0].bytes(one))
    for piece in streams[1].bytes(two):
        yield left.take(len(piece)), bytes(piece)
