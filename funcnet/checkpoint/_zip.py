"""Zip archives, examined before anything is unpacked. Both .pt and .npz files are such archives."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass

from funcnet.checkpoint._errors import CheckpointError, file_error, summarize_error, truncated_list
from funcnet.checkpoint._files import File, FileWindow

_LOCAL_HEADER = 30  # bytes of a member's own header, before its name
_ALIGNMENT = 64
_ZIP64 = 1 << 30  # members from this size on have 64-bit sizes in their header
_MAX_RATIO = 100
"""Times its own size to which an archive may unpack; past that, and past ``_HARMLESS`` bytes, it is refused."""
_HARMLESS = 64 << 20


@dataclass(frozen=True)
class ZipMember:
    """One file of an archive: its name, where its (packed) bytes lie, and how many bytes it has."""

    name: str
    offset: int
    packed: int
    size: int

    @property
    def is_stored(self) -> bool:
        """Whether its bytes lie in the archive as they are, without compression."""
        return self.packed == self.size


def read_members(file: File, offset: int = 0, length: int | None = None) -> dict[str, ZipMember]:
    """The members of an archive by name.

    Args:
        file: the file.
        offset, length: the part of the file that is the archive.

    Raises:
        CheckpointError: if it is not an archive, or members are encrypted, come twice, overlap, lie outside the archive
            or unpack to more than a checkpoint would.
    """
    window = FileWindow(file, offset, length)
    try:
        with zipfile.ZipFile(window) as archive:
            infos = archive.infolist()
    except Exception as error:  # zipfile raises anything, depending on the bytes
        raise file_error(
            file.path, f"is not a whole zip archive: {summarize_error(error)}", "Copy or save it again."
        ) from None
    problems: list[str] = []
    members: dict[str, ZipMember] = {}
    end = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        begin = info.header_offset
        if begin < end or begin + _LOCAL_HEADER > window.length:
            problems.append(f"{info.filename!r} overlaps another member or lies outside the archive")
            continue
        header = file.read(offset + begin, _LOCAL_HEADER)
        name_length, extra_length = struct.unpack("<HH", header[26:30])
        start = begin + _LOCAL_HEADER + name_length + extra_length
        end = start + info.compress_size
        if end > window.length or header[:4] != b"PK\x03\x04":
            problems.append(f"{info.filename!r} lies outside the archive")
        if info.flag_bits & 1:
            problems.append(f"{info.filename!r} is encrypted")
        if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
            problems.append(f"{info.filename!r} has two sizes")
        if info.filename in members:
            problems.append(f"{info.filename!r} is there twice")
        members[info.filename] = ZipMember(info.filename, offset + start, info.compress_size, info.file_size)
    if problems:
        raise CheckpointError(f"{str(file.path)!r} is not a sound archive:{truncated_list(problems)}")
    total = sum(member.size for member in members.values())
    if total > max(_HARMLESS, _MAX_RATIO * window.length):
        raise file_error(
            file.path,
            f"has {window.length:,} bytes and unpacks to {total:,}, as a zip bomb does",
            "If you trust it, unpack it yourself and save it uncompressed.",
        )
    return members


def write_member(archive: zipfile.ZipFile, name: str, size: int, chunks: Iterator[memoryview]) -> None:
    """Add a member without compression, its first byte at a multiple of 64 so that readers may map it."""
    is_large = size >= _ZIP64
    info = zipfile.ZipInfo(name)
    start = archive.fp.tell() + _LOCAL_HEADER + len(name.encode()) + 20 * is_large  # type: ignore[union-attr]
    padding = -(start + 4) % _ALIGNMENT
    info.extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding
    info.file_size = size
    with archive.open(info, "w", force_zip64=is_large) as member:
        for chunk in chunks:
            member.write(chunk)
