""".pt, .pth and .bin files: an archive of storages and a pickle that says how tensors view them.

Reading goes through ``torch.load(weights_only=True)`` with the tensors on the meta device: names, shapes and ties come
from the pickle, and the place of each storage comes from the archive. Tensors are then read by byte range, as from any
other format. Writing makes a pickle of the same form, so that a file is written tensor by tensor, without a copy of all
of them in memory.

A file holds what was saved as it was. ``ABSENT``, which no other program knows, is left out of the pickle, and noted in
a member of the archive that torch does not read; so are the dicts and lists that the shards of a folder come from.
"""

from __future__ import annotations

import io
import json
import pickle
import warnings
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch
from torch import Tensor

from funcnet._torch import checkpoint_offset, rebuild_tensor_v2, rebuild_tensor_v3, storage_class
from funcnet._typing import Shape
from funcnet.checkpoint._checkpoint import Checkpoint, Spec, StoredTensor
from funcnet.checkpoint._content import Content
from funcnet.checkpoint._dtypes import DTYPES
from funcnet.checkpoint._errors import CheckpointError, file_error, summarize_error, truncated_list
from funcnet.checkpoint._files import File, FileWindow, Span, read_span
from funcnet.checkpoint._flat import flatten_checkpoint
from funcnet.checkpoint._pickle_check import check_tuples
from funcnet.checkpoint._structure import Structure, decode_structure, fill, has_absent, iter_names
from funcnet.checkpoint._zip import ZipMember, read_members, write_member

LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""The first bytes of a file of torch before 1.6: the pickle of its magic number."""
_NOTE_MEMBER = "funcnet.json"
_MAX_NOTE = 256 << 20
_LEGACY_PICKLES = 4  # pickles in such a file: the magic number, a version, the machine, and what was saved


def read_pickle(file: File) -> Checkpoint:
    """The checkpoint in one file of ``torch.save``.

    A file of torch before 1.6 has no archive, and its tensors are read at once.

    Raises:
        CheckpointError: if the file is damaged, or holds more than tensors and plain values: nothing is run to load it.
    """
    is_legacy = file.read(0, min(len(LEGACY_MAGIC), file.size)) == LEGACY_MAGIC
    if is_legacy:
        _check_pickles(file, count=_LEGACY_PICKLES)
    saved = _torch_load(file, "cpu") if is_legacy else load_archive(file)
    try:
        tensors, extras, structure = flatten_checkpoint(saved)
    except CheckpointError as error:
        raise CheckpointError(f"{str(file.path)!r} cannot be laid out flat: {error}") from None
    members = None if is_legacy else read_members(file)
    entries, aliases = make_entries(file, tensors, members)
    notes = [member for name, member in (members or {}).items() if name.rpartition("/")[2] == _NOTE_MEMBER]
    if notes:
        structure = _read_note(file, notes[0])
        extras = {name: value for name, value in extras.items() if name in {*iter_names(structure)}}
    return Checkpoint(file.path, "pt", entries, aliases, extras, files=(file.path,), structure=structure)


def _read_note(file: File, member: ZipMember) -> Structure | None:
    """The structure in a member of the archive, which is there if the pickle alone does not tell it."""
    try:
        if member.size > _MAX_NOTE or not member.is_stored:
            raise ValueError(f"{member.size:,} bytes")
        return decode_structure(json.loads(file.read(member.offset, member.size)))
    except (ValueError, TypeError, RecursionError) as error:
        reason = f"has a member {_NOTE_MEMBER!r} that funcnet did not write: {summarize_error(error)}"
        raise file_error(file.path, reason) from None


def load_archive(file: File, offset: int = 0, length: int | None = None) -> Any:
    """The object that ``torch.save`` wrote to an archive, with tensors on the meta device.

    Args:
        file: the file.
        offset, length: the part of the file that is the archive.

    Raises:
        CheckpointError: if the archive is damaged, or ``weights_only`` does not allow what it holds.
    """
    members = read_members(file, offset, length)
    packed = [name for name, member in members.items() if not member.is_stored]
    if packed:
        raise file_error(file.path, f"has compressed members, which torch.save does not write:{truncated_list(packed)}")
    # torch swaps the bytes of numbers from another kind of machine. Tensors on the meta device have no bytes, and the
    # attempt kills the process.
    byte_orders = [member for name, member in members.items() if name.lower().endswith("byteorder")]
    if any(member.size != 6 or file.read(member.offset, 6) != b"little" for member in byte_orders):
        raise file_error(
            file.path, "has the bytes of numbers in another order than little-endian", "Save it again on this machine."
        )
    for name, member in members.items():
        if name.lower().endswith("data.pkl"):
            _check_pickles(file, member.offset, member.size)
    return _torch_load(file, "meta", offset, length)


def _check_pickles(file: File, offset: int = 0, length: int | None = None, count: int = 1) -> None:
    """Refuse pickles that could be loaded only in boundless time."""
    stream = io.BufferedReader(FileWindow(file, offset, length))
    try:
        for _ in range(count):
            check_tuples(stream)
    except Exception as error:  # pickletools raises anything, depending on the bytes
        raise file_error(
            file.path, f"cannot be loaded with weights_only: {summarize_error(error)}", "Copy or save it again."
        ) from None


def _torch_load(file: File, device: str, offset: int = 0, length: int | None = None) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(
                io.BufferedReader(FileWindow(file, offset, length)), map_location=device, weights_only=True
            )
    except Exception as error:  # torch raises anything, depending on the bytes
        # Before this mark the message advises to load the file without the checks of weights_only.
        reason = summarize_error(error, after="WeightsUnpickler error:")
        raise file_error(
            file.path,
            f"cannot be loaded with weights_only, and funcnet loads nothing else: {reason}",
            "Save the tensors alone, as torch.save(module.state_dict(), path).",
        ) from None


def make_entries(
    file: File, tensors: dict[str, Tensor], members: dict[str, ZipMember] | None, base: int = 0
) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Entries of tensors, and ties: tensors that view the same elements of one storage in the same way.

    Args:
        file: the file that the storages lie in.
        tensors: tensors by path; on the meta device, or in memory where ``members`` is None.
        members: the members of the archive, by name.
        base: the byte of the file where the archive begins.

    Raises:
        CheckpointError: lists the tensors that funcnet cannot read.
    """
    storage_sizes = None if members is None else {member.offset: member.size for member in members.values()}
    entries: dict[str, StoredTensor] = {}
    aliases: dict[str, str] = {}
    owner_of_view: dict[object, str] = {}
    problems: list[str] = []
    for name, tensor in tensors.items():
        try:
            entry, view = _make_entry(file, tensor.detach(), storage_sizes, base)
        except ValueError as error:
            problems.append(f"{name!r} {error}")
            continue
        if not tensor.numel():  # it has no bytes by which to tell it from another empty tensor
            view = id(tensor)
        if view in owner_of_view:
            aliases[name] = owner_of_view[view]
        else:
            owner_of_view[view] = name
            entries[name] = entry
    if problems:
        raise CheckpointError(f"{str(file.path)!r} holds tensors that funcnet cannot read:{truncated_list(problems)}")
    return entries, aliases


def _make_entry(
    file: File, tensor: Tensor, storage_sizes: dict[int, int] | None, base: int
) -> tuple[StoredTensor, object]:
    """The entry of one tensor, and a key that is equal for tensors that view the same elements in the same way."""
    if tensor.layout is not torch.strided or tensor.is_nested or tensor.is_quantized:
        raise ValueError(f"is {tensor.layout}, nested or quantized: only plain dense tensors are read")
    if tensor.dtype not in DTYPES.values():
        raise ValueError(f"has the dtype {tensor.dtype}, which is none of {', '.join(DTYPES)}")
    spec = Spec(tuple(tensor.shape), tensor.dtype)
    flags = (tensor.stride(), spec, tensor.is_conj(), tensor.is_neg())
    if storage_sizes is None:
        view: object = (tensor.data_ptr(), *flags)
        return StoredTensor(spec, reader=lambda: tensor.resolve_conj().resolve_neg().contiguous().clone()), view
    if not tensor.is_meta:
        raise ValueError("is stored without a storage of its own")
    itemsize = tensor.dtype.itemsize
    offset = checkpoint_offset(tensor)
    storage_begin = -1 if offset is None else base + offset
    storage_bytes = tensor.untyped_storage().nbytes()
    extent = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    skipped_bytes = int(tensor.storage_offset()) * itemsize
    has_negative_stride = min(tensor.stride(), default=0) < 0
    is_storage_missing = storage_sizes.get(storage_begin, -1) < storage_bytes
    if tensor.numel() and (
        has_negative_stride or is_storage_missing or skipped_bytes + extent * itemsize > storage_bytes
    ):
        raise ValueError("views bytes that are not in the file")
    if spec.nbytes > file.size:
        raise ValueError(f"repeats its elements to {spec.nbytes:,} bytes, more than the whole file has")
    view = (storage_begin, skipped_bytes, *flags)
    span = Span(file, storage_begin + skipped_bytes)
    if not tensor.numel() or (tensor.is_contiguous() and not tensor.is_conj() and not tensor.is_neg()):
        return StoredTensor(spec, span), view

    def read_view() -> Tensor:
        elements = read_span(span, (extent,), tensor.dtype)
        strided = elements.as_strided(tensor.shape, tensor.stride())
        strided = strided.conj() if tensor.is_conj() else strided
        return (strided.neg() if tensor.is_neg() else strided).resolve_conj().contiguous()

    return StoredTensor(spec, reader=read_view), view


# --- writing ---


@dataclass(frozen=True, eq=False)
class _PickledStorage:
    """A storage of the file that is written: its key in the archive, and how many elements it has."""

    key: str
    dtype: torch.dtype
    count: int


@dataclass(frozen=True, eq=False)
class _PickledTensor:
    """A tensor of the file that is written: it views all of a storage, row-major."""

    storage: _PickledStorage
    shape: Shape


class _TensorPickler(pickle.Pickler):
    """A pickler that writes a ``_PickledTensor`` as the call that torch.save writes for a tensor."""

    def persistent_id(self, value: object) -> object:
        if not isinstance(value, _PickledStorage):
            return None
        kind = storage_class(value.dtype)
        count = value.count if kind else value.count * value.dtype.itemsize
        return ("storage", kind or torch.UntypedStorage, value.key, "cpu", count)

    def reducer_override(self, value: object) -> Any:
        if not isinstance(value, _PickledTensor):
            return NotImplemented
        stride = torch.empty(value.shape, device="meta").stride()
        args: Any = (value.storage, 0, value.shape, stride, False, OrderedDict())
        if storage_class(value.storage.dtype):
            return rebuild_tensor_v2, args
        return rebuild_tensor_v3, (*args, value.storage.dtype)


def write_pickle(out: BinaryIO, content: Content, *, is_nested: bool = True) -> None:
    """Write one file as ``torch.save`` does, in which tied names are one tensor.

    Args:
        out: the file.
        content: what to write.
        is_nested: whether it is the tree that was saved, and not a flat dict of names, as in folders.

    Raises:
        CheckpointError: if a value cannot be pickled, or ``torch.load(weights_only=True)`` would refuse it.
    """
    state: dict[str, Any] = {}
    for number, (name, spec) in enumerate(content.specs.items()):
        count = spec.nbytes // spec.dtype.itemsize
        state[name] = _PickledTensor(_PickledStorage(str(number), spec.dtype, count), spec.shape)
    state |= {alias: state[owner] for alias, owner in content.aliases.items()}
    state |= content.extras
    note = content.encode_structure() if not is_nested or has_absent(content.structure) else None
    if is_nested and content.structure is not None:
        state = fill(content.structure, state, omits_absent=True)
    pickled = io.BytesIO()
    try:
        _TensorPickler(pickled, protocol=2).dump(state)
    except Exception as error:  # the __reduce__ of a value may raise anything
        raise CheckpointError(f"a value cannot be pickled: {summarize_error(error)}. Leave it out.") from None
    unsafe = [f"{name}: a {type(value).__name__}" for name, value in content.extras.items() if not _is_loadable(value)]
    if unsafe:
        raise CheckpointError(
            f"these are neither tensors nor plain values, so weights_only=True would refuse them:"
            f"{truncated_list(unsafe)}\nLeave them out; of a module save module.state_dict()."
        )
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        members = {"data.pkl": pickled.getvalue(), "byteorder": b"little", "version": b"3\n"}
        if note is not None:
            members[_NOTE_MEMBER] = json.dumps(note).encode()
        for name, data in members.items():
            write_member(archive, f"archive/{name}", len(data), iter([memoryview(data)]))
        for number, (name, spec) in enumerate(content.specs.items()):
            write_member(archive, f"archive/data/{number}", spec.nbytes, content.chunks(name))


def _is_loadable(value: object) -> bool:
    """Whether ``torch.load(weights_only=True)`` accepts a value."""
    if isinstance(value, (bool, int, float, str, bytes, type(None))):
        return True
    file = io.BytesIO()
    torch.save(value, file)
    try:
        torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    except pickle.UnpicklingError:
        return False
    return True
