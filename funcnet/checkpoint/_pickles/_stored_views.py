"""Entries of a checkpoint for the tensors of a pickle: where the bytes of each lie, and which of them are ties."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from funcnet._typing import Shape
from funcnet.checkpoint._checkpoint import Spec, StoredTensor
from funcnet.checkpoint._dtypes import DTYPES
from funcnet.checkpoint._errors import CheckpointError, truncated_list
from funcnet.checkpoint._files import Checksum, File, Span, read_span
from funcnet.checkpoint._pickles._numpy_objects import read_array
from funcnet.checkpoint._pickles._opaque import Opaque
from funcnet.checkpoint._pickles._pickled_tensors import PLAIN_FORM, PickledStorage, PickledTensor, view_storage
from funcnet.checkpoint._stored_shapes import check_shape


@dataclass(frozen=True)
class StoredBytes:
    """Where the bytes of a storage lie in a file."""

    file: File
    offset: int
    size: int
    checksum: Checksum | None = None


LocateStorage = Callable[[PickledStorage], StoredBytes | None]


@dataclass(frozen=True)
class TensorEntries:
    """Entries by name, ties (alias -> owner), and what the pickle has in place of plain tensors, by name."""

    entries: dict[str, StoredTensor]
    aliases: dict[str, str]
    forms: dict[str, object]


def make_entries(file: File, tensors: Mapping[str, Any], locate: LocateStorage) -> TensorEntries:
    """Entries of tensors, and ties: tensors that view the same elements of one storage in the same way.

    Args:
        file: the file that they are in.
        tensors: the descriptions of tensors by name, from ``flatten_checkpoint``.
        locate: returns where the bytes of a storage lie; None if they are not there.

    Raises:
        CheckpointError: lists the tensors that funcnet cannot read.
    """
    result = TensorEntries({}, {}, {})
    owner_of_view: dict[object, str] = {}
    problems: list[str] = []
    for name, described in tensors.items():
        try:
            tensor, form = _as_view(described)
            entry, view = _make_entry(file, tensor, locate)
        except ValueError as error:
            problems.append(f"{name!r} {error}")
            continue
        if form is not PLAIN_FORM:
            result.forms[name] = form
        view = view if entry.spec.nbytes else id(described)  # nothing else tells an empty tensor from another one
        if view in owner_of_view:
            result.aliases[name] = owner_of_view[view]
        else:
            owner_of_view[view] = name
            result.entries[name] = entry
    if problems:
        raise CheckpointError(f"{str(file.path)!r} holds tensors that funcnet cannot read:{truncated_list(problems)}")
    return result


def _as_view(described: object) -> tuple[PickledTensor, object]:
    """A tensor of a pickle as a view of a storage, and what it is in the pickle."""
    if isinstance(described, Opaque):
        array = read_array(described)
        assert array is not None
        return array, described
    if isinstance(described, PickledStorage):
        described = view_storage(described)
    assert isinstance(described, PickledTensor)
    return described, described.form


def _make_entry(file: File, tensor: PickledTensor, locate: LocateStorage) -> tuple[StoredTensor, object]:
    """The entry of one tensor, and a key that is equal for tensors that view the same elements in the same way."""
    if tensor.dtype not in DTYPES.values():
        raise ValueError(f"has the dtype {tensor.dtype}, which is none of {', '.join(DTYPES)}")
    itemsize = tensor.dtype.itemsize
    spec = Spec(check_shape(tensor.shape, itemsize), tensor.dtype)
    flags = (tensor.stride, spec, tensor.is_conj, tensor.is_neg)
    if not spec.nbytes:
        return StoredTensor(spec, reader=lambda: torch.empty(spec.shape, dtype=spec.dtype)), None
    storage = tensor.storage
    extent = sum((size - 1) * step for size, step in zip(spec.shape, tensor.stride, strict=True)) + 1
    begin, end = tensor.offset * itemsize, (tensor.offset + extent) * itemsize
    stored = locate(storage) if storage.data is None else StoredBytes(file, 0, len(storage.data))
    is_missing = stored is None or stored.size < storage.nbytes
    if stored is None or is_missing or min(tensor.stride, default=0) < 0 or begin < 0 or end > storage.nbytes:
        raise ValueError("views bytes that are not in the file")
    if spec.nbytes > max(file.size, storage.nbytes):
        raise ValueError(f"repeats its elements to {spec.nbytes:,} bytes, more than the whole file has")
    has_plain_bits = not tensor.is_conj and not tensor.is_neg
    if storage.data is not None:
        data = storage.data

        def read_from_pickle() -> Tensor:
            return _view(torch.frombuffer(bytearray(data[begin:end]), dtype=tensor.dtype), tensor)

        return StoredTensor(spec, reader=read_from_pickle), (id(data), begin, *flags)
    span = Span(stored.file, stored.offset + begin, stored.checksum)
    view: object = (stored.offset, begin, *flags)
    if _is_row_major(spec.shape, tensor.stride) and has_plain_bits:
        return StoredTensor(spec, span), view
    return StoredTensor(spec, reader=lambda: _view(read_span(span, (extent,), tensor.dtype), tensor)), view


def _is_row_major(shape: Shape, stride: tuple[int, ...]) -> bool:
    """Whether the elements lie one after the other; the stride of an axis of one element does not matter."""
    expected = 1
    for size, step in zip(reversed(shape), reversed(stride), strict=True):
        if size != 1 and step != expected:
            return False
        expected *= size
    return True


def _view(elements: Tensor, tensor: PickledTensor) -> Tensor:
    """The tensor of the elements that it views, the first of which is its own first one."""
    strided = elements.as_strided(tensor.shape, tensor.stride)
    strided = strided.conj() if tensor.is_conj else strided
    return (strided.neg() if tensor.is_neg else strided).resolve_conj().resolve_neg().contiguous().clone()
