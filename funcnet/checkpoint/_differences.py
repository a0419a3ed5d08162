"""How two checkpoints differ, compared a piece at a time, whatever their size."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from funcnet.checkpoint._checkpoint import Checkpoint
from funcnet.checkpoint._node_reader import NodeReader, Rechunker
from funcnet.checkpoint._nodes import SourceNode
from funcnet.checkpoint._statistics import real_to_float64


@dataclass(frozen=True)
class Difference:
    """How one name differs between two checkpoints.

    Attributes:
        name: the name.
        kind: "missing", "new", "shape", "dtype", "tie", "value".
        text: both sides, in words.
        largest: largest difference of two values, for "value"; None if a NaN or an infinity stands against a different
            value.
        elements: how many elements have other bits, for "value".

    >>> import tempfile
    >>> from funcnet import checkpoint
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     checkpoint.save(f"{folder}/a.npz", {"w": torch.ones(2)})
    ...     checkpoint.save(f"{folder}/b.npz", {"w": torch.tensor([1.0, 3.0])})
    ...     found = checkpoint.differences(checkpoint.load(f"{folder}/a.npz"), checkpoint.load(f"{folder}/b.npz"))
    ...     found = list(found)
    >>> [(difference.name, difference.kind, difference.largest) for difference in found]
    [('w', 'value', 2.0)]
    """

    name: str
    kind: str
    text: str
    largest: float | None = None
    elements: int | None = None


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
    results = [Difference(name, "missing", "only in the first") for name in left if name not in right]
    results += [Difference(name, "new", "only in the second") for name in right if name not in left]
    common_names = [name for name in left if name in right]
    specs = left.specs, right.specs
    total = sum(specs[0][left.aliases.get(name, name)].nbytes for name in common_names)
    readers = NodeReader(left.entries), NodeReader(right.entries)
    done = 0
    difference_by_owners: dict[tuple[str, str], Difference | None] = {}  # so that tied tensors are compared once
    for name in common_names:
        owners = left.aliases.get(name, name), right.aliases.get(name, name)
        if owners[0] != owners[1]:
            texts = ("a tie to " + repr(owner) if owner != name else "stored" for owner in owners)
            results.append(Difference(name, "tie", " against ".join(texts)))
        if owners not in difference_by_owners:
            sources = [SourceNode(specs[side][owner], owner) for side, owner in enumerate(owners)]
            difference_by_owners[owners] = _compare_tensors(readers, sources[0], sources[1])
        if (difference := difference_by_owners[owners]) is not None:
            results.append(replace(difference, name=name))
        done += specs[0][owners[0]].nbytes
        if progress is not None:
            progress(done, total)
    return results


def _compare_tensors(readers: tuple[NodeReader, NodeReader], left: SourceNode, right: SourceNode) -> Difference | None:
    """How two tensors differ; None if they have the same shape, dtype and bytes."""
    if left.shape != right.shape:
        return Difference(left.name, "shape", f"{list(left.shape)} against {list(right.shape)}")
    dtype = left.spec.dtype
    if dtype != right.spec.dtype:
        return Difference(left.name, "dtype", f"{dtype} against {right.spec.dtype}")
    largest: float | None = 0.0
    elements = 0
    for pieces in _iter_aligned_pieces(readers, left, right):
        if pieces[0] == pieces[1]:
            continue
        left_values, right_values = (torch.frombuffer(bytearray(piece), dtype=dtype) for piece in pieces)
        rows = (values.view(torch.uint8).view(-1, dtype.itemsize) for values in (left_values, right_values))
        differs = torch.ne(*rows).any(1)
        elements += int(differs.sum())
        if dtype.is_complex:
            gaps = (left_values - right_values).abs().to(torch.float64)
        else:
            gaps = (real_to_float64(left_values) - real_to_float64(right_values)).abs()
        largest_gap = gaps[differs].max().item()
        largest = None if largest is None or not math.isfinite(largest_gap) else max(largest, largest_gap)
    if not elements:
        return None
    size = "no number" if largest is None else f"{largest:.6g}"
    text = f"largest difference {size} in {elements:,} of {math.prod(left.shape):,} elements"
    return Difference(left.name, "value", text, largest, elements)


def _iter_aligned_pieces(
    readers: tuple[NodeReader, NodeReader], left: SourceNode, right: SourceNode
) -> Iterator[tuple[bytes, bytes]]:
    """The bytes of two tensors in pieces of one length."""
    for reader, node in zip(readers, (left, right), strict=True):
        reader.release_sources(except_for=node)
    left_bytes = Rechunker(readers[0].iter_bytes(left))
    for piece in readers[1].iter_bytes(right):
        yield left_bytes.take_bytes(len(piece)), bytes(piece)
