""".pt, .pth and .bin files: an archive of storages and a pickle that says how tensors view them.

Reading goes through ``torch.load(weights_only=True)`` with the tensors on the meta device: names, shapes and ties come
from the pickle, and where each storage lies from the archive. Tensors are then read by byte range, as from any other
format. Writing is a pickle of the same form, so that a file is written tensor by tensor and never held in memory.
"""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch
from torch import Tensor

from funcnet._torch import checkpoint_offset, rebuild_tensor_v2, rebuild_tensor_v3, storage_class
from funcnet._typing import Shape
from funcnet.checkpoint._checkpoint import Checkpoint, Entry, Spec
from funcnet.checkpoint._content import Content
from funcnet.checkpoint._dtypes import DTYPES
from funcnet.checkpoint._errors import CheckpointError, file_error, summarize_error, truncated_list
from funcnet.checkpoint._files import File, Span, Window, read_span
from funcnet.checkpoint._flat import flatten_all
from funcnet.checkpoint._pickle_check import check_tuples
from funcnet.checkpoint._zip import LOCAL_HEADER, Member, read_members

LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""How a file of torch before 1.6 begins: the pickle of its magic number."""
_LEGACY_PICKLES = 4  # its magic number, a version, the machine, and what was saved
_ALIGNMENT = 64
_ZIP64 = 1 << 30  # members from this size on have 64-bit sizes in their header


def read_pickle(file: File) -> Checkpoint:
    """The checkpoint in one file of ``torch.save``.

    A file of torch before 1.6 has no archive, and its tensors are read at once.

    Raises:
        CheckpointError: if the file is damaged, or holds more than tensors and plain values: nothing is run to load it.
    """
    legacy = file.read(0, min(len(LEGACY), file.size)) == LEGACY
    if legacy:
        _check(file, pickles=_LEGACY_PICKLES)
    held = _load(file, "cpu") if legacy else load_blob(file)
    try:
        tensors, values = flatten_all(held)
    except CheckpointError as error:
        raise CheckpointError(f"{str(file.path)!r} cannot be laid out flat: {error}") from None
    entries, aliases = make_entries(file, tensors, None if legacy else read_members(file))
    return Checkpoint(file.path, "pt", entries, aliases, values, files=(file.path,))


def load_blob(file: File, offset: int = 0, length: int | None = None) -> Any:
    """What a ``torch.save`` archive at some place of a file holds, with tensors on the meta device."""
    members = read_members(file, offset, length)
    packed = [name for name, member in members.items() if not member.stored]
    if packed:
        raise file_error(file.path, f"has compressed members, which torch.save does not write:{truncated_list(packed)}")
    # Bytes of tensors that are not read cannot be swapped either: torch tries to, and the process dies of it.
    orders = [member for name, member in members.items() if name.lower().endswith("byteorder")]
    if any(member.size != 6 or file.read(member.offset, 6) != b"little" for member in orders):
        raise file_error(
            file.path, "has the bytes of numbers in another order than little-endian", "Save it again on this machine."
        )
    for name, member in members.items():
        if name.lower().endswith("data.pkl"):
            _check(file, member.offset, member.size)
    return _load(file, "meta", offset, length)


def _check(file: File, offset: int = 0, length: int | None = None, pickles: int = 1) -> None:
    stream = io.BufferedReader(Window(file, offset, length))
    try:
        for _ in range(pickles):
            check_tuples(stream)
    except Exception as error:  # whatever the bytes lead it to
        raise file_error(
            file.path, f"cannot be loaded with weights_only: {summarize_error(error)}", "Copy or save it again."
        ) from None


def _load(file: File, device: str, offset: int = 0, length: int | None = None) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(io.BufferedReader(Window(file, offset, length)), map_location=device, weights_only=True)
    except Exception as error:  # whatever the bytes lead torch to
        reason = summarize_error(error, after="WeightsUnpickler error:")  # before it comes advice to load all the same
        raise file_error(
            file.path,
            f"cannot be loaded with weights_only, and funcnet loads nothing else: {reason}",
            "Save the tensors alone, as torch.save(module.state_dict(), path).",
        ) from None


def make_entries(
    file: File, tensors: dict[str, Tensor], members: dict[str, Member] | None, base: int = 0
) -> tuple[dict[str, Entry], dict[str, str]]:
    """Entries, and ties: tensors that view the same elements of one storage in the same way.

    Args:
        file: where the storages lie.
        tensors: by path; on the meta device, or in memory where ``members`` is None.
        members: what the archive holds.
        base: where in the file the archive begins.
    """
    sizes = None if members is None else {member.offset: member.size for member in members.values()}
    entries: dict[str, Entry] = {}
    aliases: dict[str, str] = {}
    first: dict[Any, str] = {}
    wrong: list[str] = []
    for name, tensor in tensors.items():
        try:
            entry, view = _entry(file, tensor.detach(), sizes, base)
        except ValueError as error:
            wrong.append(f"{name!r} {error}")
            continue
        view = view if tensor.numel() else id(tensor)  # an empty tensor has no bytes to tell it from others
        if view in first:
            aliases[name] = first[view]
        else:
            first[view] = name
            entries[name] = entry
    if wrong:
        raise CheckpointError(f"{str(file.path)!r} holds tensors that funcnet cannot read:{truncated_list(wrong)}")
    return entries, aliases


def _entry(file: File, tensor: Tensor, sizes: dict[int, int] | None, base: int) -> tuple[Entry, Any]:
    """The entry of one tensor, and what tells it from other views."""
    if tensor.layout is not torch.strided or tensor.is_nested or tensor.is_quantized:
        raise ValueError(f"is {tensor.layout}, nested or quantized: only plain dense tensors are read")
    if tensor.dtype not in DTYPES.values():
        raise ValueError(f"has the dtype {tensor.dtype}, which is none of {', '.join(DTYPES)}")
    spec = Spec(tuple(tensor.shape), tensor.dtype)
    if sizes is None:
        view: Any = (tensor.data_ptr(), tensor.stride(), spec, tensor.is_conj(), tensor.is_neg())
        return Entry(spec, reader=lambda: tensor.resolve_conj().resolve_neg().contiguous().clone()), view
    if not tensor.is_meta:
        raise ValueError("is stored without a storage of its own")
    itemsize = tensor.dtype.itemsize
    offset = checkpoint_offset(tensor)
    begin = -1 if offset is None else base + offset
    stored = tensor.untyped_storage().nbytes()
    extent = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    first = int(tensor.storage_offset()) * itemsize
    backwards = min(tensor.stride(), default=0) < 0
    if tensor.numel() and (backwards or sizes.get(begin, -1) < stored or first + extent * itemsize > stored):
        raise ValueError("views bytes that are not in the file")
    if spec.nbytes > file.size:
        raise ValueError(f"repeats its elements to {spec.nbytes:,} bytes, more than the whole file has")
    view = (begin, first, tensor.stride(), spec, tensor.is_conj(), tensor.is_neg())
    span = Span(file, begin + first)
    if not tensor.numel() or (tensor.is_contiguous() and not tensor.is_conj() and not tensor.is_neg()):
        return Entry(spec, span), view

    def read() -> Tensor:
        flat = read_span(span, (extent,), tensor.dtype)
        strided = flat.as_strided(tensor.shape, tensor.stride())
        strided = strided.conj() if tensor.is_conj() else strided
        return (strided.neg() if tensor.is_neg() else strided).resolve_conj().contiguous()

    return Entry(spec, reader=read), view


# --- writing ---


@dataclass(frozen=True, eq=False)
class _Storage:
    key: str
    dtype: torch.dtype
    count: int


@dataclass(frozen=True, eq=False)
class _View:
    storage: _Storage
    shape: Shape


class _Pickler(pickle.Pickler):
    """Writes views as the calls that torch.save writes for tensors."""

    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, _Storage):
            return None
        kind = storage_class(value.dtype)
        count = value.count if kind else value.count * value.dtype.itemsize
        return ("storage", kind or torch.UntypedStorage, value.key, "cpu", count)

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, _View):
            return NotImplemented
        stride = torch.empty(value.shape, device="meta").stride()
        args: Any = (value.storage, 0, value.shape, stride, False, OrderedDict())
        if storage_class(value.storage.dtype):
            return rebuild_tensor_v2, args
        return rebuild_tensor_v3, (*args, value.storage.dtype)


def write_pickle(out: BinaryIO, content: Content) -> None:
    """Write one file as ``torch.save`` does: a flat dict of names, tied names being one tensor.

    Raises:
        CheckpointError: if a value cannot be pickled, or would be refused by those who load the file.
    """
    state: dict[str, Any] = {}
    for number, (name, spec) in enumerate(content.specs.items()):
        count = spec.nbytes // spec.dtype.itemsize
        state[name] = _View(_Storage(str(number), spec.dtype, count), spec.shape)
    state |= {alias: state[owner] for alias, owner in content.aliases.items()}
    state |= content.extras
    pickled = io.BytesIO()
    try:
        _Pickler(pickled, protocol=2).dump(state)
    except Exception as error:  # whatever a foreign value raises
        raise CheckpointError(f"a value cannot be pickled: {summarize_error(error)}. Leave it out.") from None
    unsafe = [f"{name}: a {type(value).__name__}" for name, value in content.extras.items() if not _comes_back(value)]
    if unsafe:
        raise CheckpointError(
            f"these are neither tensors nor plain values, so weights_only=True would refuse them:"
            f"{truncated_list(unsafe)}\nLeave them out; of a module save module.state_dict()."
        )
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, data in (("data.pkl", pickled.getvalue()), ("byteorder", b"little"), ("version", b"3\n")):
            write_member(archive, f"archive/{name}", len(data), iter([memoryview(data)]))
        for number, (name, spec) in enumerate(content.specs.items()):
            write_member(archive, f"archive/data/{number}", spec.nbytes, content.chunks(name))


def _comes_back(value: Any) -> bool:
    """Whether ``torch.load(weights_only=True)`` takes a value."""
    if isinstance(value, (bool, int, float, str, bytes, type(None))):
        return True
    file = io.BytesIO()
    torch.save(value, file)
    try:
        torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    except pickle.UnpicklingError:
        return False
    return True


def write_member(archive: zipfile.ZipFile, name: str, size: int, chunks: Iterator[memoryview]) -> None:
    """Add a member, stored, with its first byte at a multiple of 64 so that readers may map it."""
    large = size >= _ZIP64
    info = zipfile.ZipInfo(name)
    start = archive.fp.tell() + LOCAL_HEADER + len(name.encode()) + 20 * large  # type: ignore[union-attr]
    padding = -(start + 4) % _ALIGNMENT
    info.extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding
    info.file_size = size
    with archive.open(info, "w", force_zip64=large) as member:
        for chunk in chunks:
            member.write(chunk)
