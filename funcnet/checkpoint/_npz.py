""".npz files: an archive with one .npy per array, as numpy and JAX programs write them.

numpy itself is not needed. It has no bfloat16 and no float8: such arrays are saved as raw bytes (``V2``, ``V1``), and
funcnet adds a member ``funcnet.json`` that says what they are. Without one, ``V2`` is read as bfloat16, as JAX writes
it, and ``V1`` is refused, for it could be any float8.
"""

from __future__ import annotations

import ast
import json
import zipfile
from collections.abc import Iterator
from typing import Any, BinaryIO

import torch
from torch import Tensor

from funcnet.checkpoint._checkpoint import Checkpoint, Entry, Spec, check_shape
from funcnet.checkpoint._content import Content, values_as_json
from funcnet.checkpoint._dtypes import NUMPY, dtype_from_name, dtype_name
from funcnet.checkpoint._errors import CheckpointError, file_error, summarize_error, truncated_list
from funcnet.checkpoint._files import File, Span, Window, view_as_bytes
from funcnet.checkpoint._flat import from_plain
from funcnet.checkpoint._pickle import write_member
from funcnet.checkpoint._zip import Member, read_members

NOTES = "funcnet.json"
_MAGIC = b"\x93NUMPY"
_LONGEST_HEADER = 10_000
_LONGEST_NOTES = 256 << 20
_DESCRIPTIONS = {dtype: ("|" if name[1:] == "1" else "<") + name for name, dtype in NUMPY.items()}
_LONGEST_NAME = 0xFFFF  # bytes of the name of a member


def read_npz(file: File) -> Checkpoint:
    """The checkpoint in one archive of arrays.

    Raises:
        CheckpointError: if the archive or an array in it is damaged, or holds Python objects; lists every array.
    """
    members = read_members(file)
    notes = _read_notes(file, members.pop(NOTES, None))
    entries: dict[str, Entry] = {}
    wrong: list[str] = []
    for name, member in members.items():
        if not name.endswith(".npy"):
            wrong.append(f"{name!r} is not an array")
            continue
        name = name.removesuffix(".npy")
        try:
            entries[name] = _entry(file, member, notes.get("dtypes", {}).get(name))
        except Exception as error:  # bytes may lead the unpacking anywhere
            wrong.append(f"{name!r}: {error if isinstance(error, ValueError) else summarize_error(error)}")
    aliases = notes.get("aliases", {})
    wrong += [f"the tie {alias!r} to {owner!r}" for alias, owner in aliases.items() if owner not in entries]
    if wrong:
        raise CheckpointError(f"{str(file.path)!r} holds what funcnet cannot read:{truncated_list(wrong)}")
    values = {name: from_plain(value) for name, value in notes.get("values", {}).items()}
    return Checkpoint(file.path, "npz", entries, aliases, values, notes.get("metadata", {}), (file.path,))


def _read_notes(file: File, member: Member | None) -> dict[str, Any]:
    if member is None:
        return {}
    try:
        if member.size > _LONGEST_NOTES:
            raise ValueError(f"{member.size:,} bytes")
        notes = json.loads(_unpacked(file, member, member.size).decode())
        if not isinstance(notes, dict) or not all(isinstance(part, dict) for part in notes.values()):
            raise ValueError("not an object of objects")
        for part in ("aliases", "dtypes", "metadata"):
            if not all(isinstance(value, str) for value in notes.get(part, {}).values()):
                raise ValueError(f"{part} that are not strings")
        return notes
    except Exception as error:  # as above
        raise file_error(file.path, f"has a {NOTES} that funcnet did not write: {summarize_error(error)}") from None


def _unpacked(file: File, member: Member, count: int) -> bytes:
    """The first bytes of a member."""
    if member.stored:
        return file.read(member.offset, min(count, member.size))
    with zipfile.ZipFile(Window(file)) as archive, archive.open(member.name) as packed:
        return packed.read(count)


def _entry(file: File, member: Member, noted: str | None) -> Entry:
    start = _unpacked(file, member, 12)
    if start[:6] != _MAGIC or len(start) < 12 or start[6] not in (1, 2, 3):
        raise ValueError("does not begin as an array of numpy does")
    wide = start[6] > 1
    length = int.from_bytes(start[8 : 12 if wide else 10], "little")
    begin = (12 if wide else 10) + length
    if length > _LONGEST_HEADER or begin > member.size:
        raise ValueError(f"says its header has {length:,} bytes")
    header = _unpacked(file, member, begin)[12 if wide else 10 :]
    try:
        described = ast.literal_eval(header.decode("utf-8" if start[6] == 3 else "latin-1").strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f"has a header that is not as numpy writes it: {summarize_error(error)}") from None
    if not isinstance(described, dict) or set(described) != {"descr", "fortran_order", "shape"}:
        raise ValueError("is not described by exactly descr, fortran_order and shape")
    dtype, swapped = _dtype(described["descr"], noted)
    spec = Spec(check_shape(described["shape"], dtype.itemsize), dtype)
    if begin + spec.nbytes != member.size:
        raise ValueError(f"has {member.size - begin:,} bytes, and its header says {spec.nbytes:,}")
    fortran = described["fortran_order"] is True and len(spec.shape) > 1
    if member.stored and not swapped and not fortran:
        return Entry(spec, Span(file, member.offset + begin))
    return Entry(spec, reader=lambda: _read(file, member, begin, spec, swapped, fortran))


def _dtype(description: Any, noted: str | None) -> tuple[torch.dtype, bool]:
    """The dtype of an array, and whether its bytes are the other way round."""
    if not isinstance(description, str) or description[:1] not in tuple("<>|=") or "O" in description:
        raise ValueError(f"has the dtype {str(description)[:60]!r}: records and Python objects are not read")
    order, name = description[0], description[1:]
    if name in NUMPY:
        return NUMPY[name], order == ">" and name[1:] != "1"
    if name.startswith("V") and noted is not None:
        dtype = dtype_from_name(noted)
        if name == f"V{dtype.itemsize}":
            return dtype, False
    elif name == "V2":
        return torch.bfloat16, False
    raise ValueError(f"has the dtype {description!r}, and nothing says what these bytes are")


def _read(file: File, member: Member, begin: int, spec: Spec, swapped: bool, fortran: bool) -> Tensor:
    """An array that does not lie in the file as torch holds it."""
    shape = spec.shape[::-1] if fortran else spec.shape
    tensor = torch.empty(shape, dtype=spec.dtype)
    memory = view_as_bytes(tensor)
    if member.stored:
        file.read_into(member.offset + begin, memory)
    else:
        with zipfile.ZipFile(Window(file)) as archive, archive.open(member.name) as packed:
            packed.read(begin)
            done = 0
            while done < len(memory):
                count = packed.readinto(memory[done:])  # type: ignore[attr-defined]
                if not count:
                    raise file_error(file.path, f"has an array {member.name!r} that ends too early")
                done += count
    if swapped:
        unit = spec.dtype.itemsize // (2 if spec.dtype.is_complex else 1)
        flat = tensor.reshape(-1).view(torch.uint8).view(-1, unit)
        flat.copy_(flat.flip(1))
    return tensor.permute(*reversed(range(len(shape)))).contiguous() if fortran else tensor


def write_npz(out: BinaryIO, content: Content) -> None:
    """Write one archive, uncompressed, that ``numpy.load`` reads.

    Raises:
        CheckpointError: if a value is nothing that text can hold.
    """
    notes: dict[str, Any] = {
        "aliases": dict(content.aliases),
        "dtypes": {
            name: dtype_name(spec.dtype) for name, spec in content.specs.items() if spec.dtype not in _DESCRIPTIONS
        },
        "values": values_as_json(content.extras),
        "metadata": dict(content.metadata),
    }
    members = {name: f"{name}.npy" for name in content.specs}
    unfit = [
        f"{name!r:.200}"
        for name, member in members.items()
        if zipfile.ZipInfo(member).filename != member or len(member.encode()) > _LONGEST_NAME
    ]
    if unfit:
        raise CheckpointError(f"an archive cannot hold these names; rename them:{truncated_list(unfit)}")
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, spec in content.specs.items():
            header = _header(spec)
            write_member(archive, f"{name}.npy", len(header) + spec.nbytes, _after(header, content.chunks(name)))
        if any(notes.values()):
            data = json.dumps(notes).encode()
            write_member(archive, NOTES, len(data), iter([memoryview(data)]))


def _header(spec: Spec) -> bytes:
    description = _DESCRIPTIONS.get(spec.dtype, f"|V{spec.dtype.itemsize}")
    text = f"{{'descr': '{description}', 'fortran_order': False, 'shape': {spec.shape}, }}"
    padding = -(len(_MAGIC) + 4 + len(text) + 1) % 64
    body = (text + " " * padding + "\n").encode()
    return _MAGIC + b"\x01\x00" + len(body).to_bytes(2, "little") + body


def _after(header: bytes, chunks: Iterator[memoryview]) -> Iterator[memoryview]:
    yield memoryview(header)
    yield from chunks
