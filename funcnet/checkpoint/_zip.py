"""Zip archives, examined before anything is unpacked. Both .pt and .npz files are such archives."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from funcnet.checkpoint._errors import CheckpointError, file_error, summarize_error, truncated_list
from funcnet.checkpoint._files import Checksum, File, FileWindow

_LOCAL_HEADER = 30  # bytes of a member's own header, before its name
_ALIGNMENT = 64
_ZIP64 = 1 << 30  # members from this size on have 64-bit sizes in their header
_UTF8_FLAG = 0x800
_SIZES_FOLLOW = 0x8  # the flag of a member whose checksum and sizes come after its bytes
_IN_EXTRA = 0xFFFFFFFF  # in the place of a size that takes 64 bits
_NOTE_MARK = "notes of funcnet:"
_MAX_NOTE = 256 << 20
_MAX_COMMENT = 200  # bytes at the end of an archive in which the comment about a note is
_END_RECORD = 18  # bytes of the record at the end, after its first four and before the comment
_MAX_RATIO = 100
"""Times its own size to which an archive may unpack; past that, and past ``_HARMLESS`` bytes, it is refused."""
_HARMLESS = 64 << 20


@dataclass(frozen=True)
class ZipMember:
    """One file of an archive: its name, where its (packed) bytes lie, how many bytes it has, and their checksum.

    A checksum of zero is none: torch writes that where it was told to compute none. Packed bytes have none here:
    unpacking them compares it.
    """

    name: str
    offset: int
    packed: int
    size: int
    checksum: Checksum | None = None

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
        local_name = file.read(offset + begin + _LOCAL_HEADER, min(name_length, window.length - begin - _LOCAL_HEADER))
        start = begin + _LOCAL_HEADER + name_length + extra_length
        end = start + info.compress_size
        if end > window.length or header[:4] != b"PK\x03\x04":
            problems.append(f"{info.filename!r} lies outside the archive")
        if info.flag_bits & 1:
            problems.append(f"{info.filename!r} is encrypted")
        if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
            problems.append(f"{info.filename!r} has two sizes")
        problems += [f"{info.filename!r} {what}" for what in _describe_misfits(info, header, local_name)]
        if info.filename in members:
            problems.append(f"{info.filename!r} is there twice")
        checksum = None
        if info.CRC and info.compress_type == zipfile.ZIP_STORED:
            checksum = Checksum(file, info.filename, offset + start, info.file_size, info.CRC)
        members[info.filename] = ZipMember(info.filename, offset + start, info.compress_size, info.file_size, checksum)
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


def read_stored(file: File, member: ZipMember) -> bytes:
    """The bytes of a member that is not compressed.

    Raises:
        CheckpointError: if its checksum says that it is damaged.
    """
    if member.checksum is not None:
        member.checksum.check()
    return file.read(member.offset, member.size)


def write_note(archive: zipfile.ZipFile, data: bytes) -> None:
    """Put bytes between the last member and the directory, where no reader of archives sees them.

    The comment of the archive says where they are.
    """
    assert archive.fp is not None
    if not archive.fp.tell():
        archive.fp.write(b"PK\x05\x06")  # an archive without members still begins as one
    offset = archive.fp.tell()
    archive.fp.write(data)
    archive.start_dir = archive.fp.tell()
    archive.comment = f"{_NOTE_MARK} {offset} {len(data)} {zlib.crc32(data)}".encode()


def read_note(file: File) -> bytes | None:
    """The bytes of :func:`write_note`; None if there are none.

    Raises:
        ValueError: if the comment of the archive leads to something else.
    """
    count = min(file.size, _MAX_COMMENT)
    _, mark, end = file.read(file.size - count, count).rpartition(b"PK\x05\x06")
    comment = end[_END_RECORD:]
    if mark and len(comment) != int.from_bytes(end[_END_RECORD - 2 : _END_RECORD], "little"):
        raise ValueError("a comment that is cut off")
    if not mark or not comment.startswith(f"{_NOTE_MARK} ".encode()):
        return None
    offset, size, crc = map(int, comment.decode().removeprefix(_NOTE_MARK).split())
    if offset < 0 or not 0 <= size <= _MAX_NOTE or offset + size > file.size:
        raise ValueError(f"{size:,} bytes at byte {offset:,}")
    data = file.read(offset, size)
    if zlib.crc32(data) != crc:
        raise ValueError("other bytes than were written, as its checksum says")
    return data


def _describe_misfits(info: zipfile.ZipInfo, header: bytes, local_name: bytes) -> Iterator[str]:
    """Where the header of a member is not as the directory of the archive has it."""
    flags, method, crc, packed, size = struct.unpack("<HH4xLLL", header[6:26])
    name = info.orig_filename.encode("utf-8" if info.flag_bits & _UTF8_FLAG else "cp437", "replace")
    if local_name != name:
        yield f"is called {local_name[:80]!r} in its own header"
    if method != info.compress_type:
        yield "is packed in another way than its own header says"
    if not flags & _SIZES_FOLLOW and crc != info.CRC:
        yield "has another checksum in its own header"
    sizes_differ = (packed, size) != (info.compress_size, info.file_size) and _IN_EXTRA not in (packed, size)
    if not flags & _SIZES_FOLLOW and sizes_differ:
        yield "has other sizes in its own header"


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
