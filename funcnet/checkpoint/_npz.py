""".npz files: an archive with one .npy per array, as numpy and JAX programs write them.

numpy itself is not needed. It has no bfloat16 and no float8: such arrays are saved as raw bytes (``V2``, ``V1``), and
funcnet adds notes that say what they are, in a place where other programs see no array. Without notes, ``V2`` is read
as bfloat16, as JAX writes it, and ``V1`` is refused, because it could be any float8.
"""

from __future__ import annotations

import ast
import json
import zipfile
from collections.abc import Iterator
from typing import Any, BinaryIO

import torch
from torch import Tensor

from funcnet.checkpoint._checkpoint import Checkpoint, Spec, StoredTensor
from funcnet.checkpoint._content import Content
from funcnet.checkpoint._dtypes import NUMPY_DTYPES, dtype_from_name, dtype_name
from funcnet.checkpoint._errors import CheckpointError, file_error, summarize_error, truncated_list
from funcnet.checkpoint._files import File, FileWindow, Span, view_as_bytes
from funcnet.checkpoint._json_values import decode_value, encode_values
from funcnet.checkpoint._stored_shapes import check_shape
from funcnet.checkpoint._structure import decode_structure
from funcnet.checkpoint._zip import ZipMember, read_members, read_note, write_member, write_note

_MAGIC = b"\x93NUMPY"
_MAX_HEADER = 10_000
_MAX_MEMBER_NAME = 0xFFFF  # bytes of the name of a member
_DESCRIPTIONS = {dtype: ("|" if name[1:] == "1" else "<") + name for name, dtype in NUMPY_DTYPES.items()}


def read_npz(file: File) -> Checkpoint:
    """The checkpoint in one archive of arrays.

    Raises:
        CheckpointError: if the archive or an array in it is damaged, or holds Python objects; lists every array.
    """
    members = read_members(file)
    notes = _read_notes(file)
    entries: dict[str, StoredTensor] = {}
    problems: list[str] = []
    for member_name, member in members.items():
        if not member_name.endswith(".npy"):
            problems.append(f"{member_name!r} is not an array")
            continue
        name = member_name.removesuffix(".npy")
        try:
            entries[name] = _read_entry(file, member, notes.get("dtypes", {}).get(name))
        except Exception as error:  # unpacking may raise anything, depending on the bytes
            problems.append(f"{name!r}: {error if isinstance(error, ValueError) else summarize_error(error)}")
    aliases = notes.get("aliases", {})
    problems += [f"the tie {alias!r} to {owner!r}" for alias, owner in aliases.items() if owner not in entries]
    if problems:
        raise CheckpointError(f"{str(file.path)!r} holds what funcnet cannot read:{truncated_list(problems)}")
    extras = {name: decode_value(value) for name, value in notes.get("values", {}).items()}
    metadata, structure = notes.get("metadata", {}), notes.get("structure")
    return Checkpoint(file.path, "npz", entries, aliases, extras, metadata, (file.path,), structure)


def _read_notes(file: File) -> dict[str, Any]:
    try:
        data = read_note(file)
        if data is None:
            return {}
        notes = json.loads(data.decode())
        if not isinstance(notes, dict):
            raise ValueError("not an object")
        structure = decode_structure(notes.pop("structure", None))
        if not all(isinstance(section, dict) for section in notes.values()):
            raise ValueError("not an object of objects")
        for section in ("aliases", "dtypes", "metadata"):
            if not all(isinstance(value, str) for value in notes.get(section, {}).values()):
                raise ValueError(f"{section} that are not strings")
        return {**notes, "structure": structure}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        reason = f"has notes that funcnet did not write: {summarize_error(error)}"
        raise file_error(file.path, reason) from None


def _unpack_start(file: File, member: ZipMember, count: int) -> bytes:
    """The first bytes of a member, at most ``count``."""
    if member.is_stored:
        return file.read(member.offset, min(count, member.size))
    with zipfile.ZipFile(FileWindow(file)) as archive, archive.open(member.name) as packed:
        return packed.read(count)


def _read_entry(file: File, member: ZipMember, noted_dtype: str | None) -> StoredTensor:
    """The tensor of one array, from the header of its .npy file."""
    start = _unpack_start(file, member, 12)
    if start[:6] != _MAGIC or len(start) < 12 or start[6] not in (1, 2, 3):
        raise ValueError("does not begin as an array of numpy does")
    header_begin = 12 if start[6] > 1 else 10  # from version 2 of the format on, the length has four bytes, not two
    length = int.from_bytes(start[8:header_begin], "little")
    data_begin = header_begin + length
    if length > _MAX_HEADER or data_begin > member.size:
        raise ValueError(f"says its header has {length:,} bytes")
    header = _unpack_start(file, member, data_begin)[header_begin:]
    try:
        description = ast.literal_eval(header.decode("utf-8" if start[6] == 3 else "latin-1").strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f"has a header that is not as numpy writes it: {summarize_error(error)}") from None
    if not isinstance(description, dict) or set(description) != {"descr", "fortran_order", "shape"}:
        raise ValueError("is not described by exactly descr, fortran_order and shape")
    dtype, is_big_endian = _parse_dtype(description["descr"], noted_dtype)
    spec = Spec(check_shape(description["shape"], dtype.itemsize), dtype)
    if data_begin + spec.nbytes != member.size:
        raise ValueError(f"has {member.size - data_begin:,} bytes, and its header says {spec.nbytes:,}")
    is_column_major = description["fortran_order"] is True and len(spec.shape) > 1
    if member.is_stored and not is_big_endian and not is_column_major:
        return StoredTensor(spec, Span(file, member.offset + data_begin, member.checksum))
    return StoredTensor(
        spec, reader=lambda: _read_array(file, member, data_begin, spec, is_big_endian, is_column_major)
    )


def _parse_dtype(description: object, noted_dtype: str | None) -> tuple[torch.dtype, bool]:
    """The dtype of an array, and whether its bytes are big-endian."""
    if not isinstance(description, str) or description[:1] not in tuple("<>|=") or "O" in description:
        raise ValueError(f"has the dtype {str(description)[:60]!r}: records and Python objects are not read")
    order, name = description[0], description[1:]
    if name in NUMPY_DTYPES:
        return NUMPY_DTYPES[name], order == ">" and name[1:] != "1"
    if name.startswith("V") and noted_dtype is not None:
        dtype = dtype_from_name(noted_dtype)
        if name == f"V{dtype.itemsize}":
            return dtype, False
    elif name == "V2":
        return torch.bfloat16, False
    raise ValueError(f"has the dtype {description!r}, and nothing says what these bytes are")


def _read_array(
    file: File, member: ZipMember, data_begin: int, spec: Spec, is_big_endian: bool, is_column_major: bool
) -> Tensor:
    """An array that does not lie in the file as torch stores it."""
    shape = spec.shape[::-1] if is_column_major else spec.shape
    tensor = torch.empty(shape, dtype=spec.dtype)
    memory = view_as_bytes(tensor)
    if member.is_stored:
        Span(file, member.offset + data_begin, member.checksum).read_into(0, memory)
    else:
        with zipfile.ZipFile(FileWindow(file)) as archive, archive.open(member.name) as packed:
            packed.read(data_begin)
            done = 0
            while done < len(memory):
                count = packed.readinto(memory[done:])  # type: ignore[attr-defined]
                if not count:
                    raise file_error(file.path, f"has an array {member.name!r} that ends too early")
                done += count
    if is_big_endian:
        itemsize = spec.dtype.itemsize // (2 if spec.dtype.is_complex else 1)  # of complex numbers each part is turned
        rows = tensor.reshape(-1).view(torch.uint8).view(-1, itemsize)
        rows.copy_(rows.flip(1))
    return tensor.permute(*reversed(range(len(shape)))).contiguous() if is_column_major else tensor


def write_npz(out: BinaryIO, content: Content) -> None:
    """Write one archive, uncompressed, that ``numpy.load`` reads.

    Raises:
        CheckpointError: if JSON cannot hold a value, or an archive cannot hold a name.
    """
    notes: dict[str, Any] = {
        "aliases": dict(content.aliases),
        "dtypes": {
            name: dtype_name(spec.dtype) for name, spec in content.specs.items() if spec.dtype not in _DESCRIPTIONS
        },
        "values": encode_values(content.extras),
        "metadata": dict(content.metadata),
    }
    if (structure := content.encode_structure()) is not None:
        notes["structure"] = structure
    members = {name: f"{name}.npy" for name in content.specs}
    unfit_names = [
        f"{name!r:.200}"
        for name, member in members.items()
        if zipfile.ZipInfo(member).filename != member or len(member.encode()) > _MAX_MEMBER_NAME
    ]
    if unfit_names:
        raise CheckpointError(f"an archive cannot hold these names; rename them:{truncated_list(unfit_names)}")
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, spec in content.specs.items():
            header = _make_header(spec)
            size = len(header) + spec.nbytes
            write_member(archive, members[name], size, _prepend_header(header, content.chunks(name)))
        if any(notes.values()):
            write_note(archive, json.dumps(notes).encode())


def _make_header(spec: Spec) -> bytes:
    """The start of a .npy file, up to its data."""
    description = _DESCRIPTIONS.get(spec.dtype, f"|V{spec.dtype.itemsize}")
    text = f"{{'descr': '{description}', 'fortran_order': False, 'shape': {spec.shape}, }}"
    padding = -(len(_MAGIC) + 4 + len(text) + 1) % 64
    body = (text + " " * padding + "\n").encode()
    return _MAGIC + b"\x01\x00" + len(body).to_bytes(2, "little") + body


def _prepend_header(header: bytes, chunks: Iterator[memoryview]) -> Iterator[memoryview]:
    yield memoryview(header)
    yield from chunks
