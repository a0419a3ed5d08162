"""Zip archives, looked at before anything is unpacked. Both .pt and .npz are such archives."""

from __future__ import annotations

import struct
import zipfile
from dataclasses import dataclass

from funcnet.checkpoint._errors import CheckpointError, file_error, summarize_error, truncated_list
from funcnet.checkpoint._files import File, Window

LOCAL_HEADER = 30
BOMB = 100
"""Times its own size to which an archive may unpack; past that, and past ``HARMLESS`` bytes, it is refused."""
HARMLESS = 64 << 20


@dataclass(frozen=True)
class Member:
    """One file of an archive: its name, where its (packed) bytes lie, and how many there are."""

    name: str
    offset: int
    packed: int
    size: int

    @property
    def stored(self) -> bool:
        return self.packed == self.size


def read_members(file: File, offset: int = 0, length: int | None = None) -> dict[str, Member]:
    """The members of an archive by name.

    Raises:
        CheckpointError: if it is no archive, or members are encrypted, come twice, overlap, lie outside the archive or
            unpack to more than a checkpoint would.
    """
    window = Window(file, offset, length)
    try:
        with zipfile.ZipFile(window) as archive:
            infos = archive.infolist()
    except Exception as error:  # zipfile raises whatever the bytes lead it to
        raise file_error(
            file.path, f"is not a whole zip archive: {summarize_error(error)}", "Copy or save it again."
        ) from None
    wrong: list[str] = []
    found: dict[str, Member] = {}
    reached = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        begin = info.header_offset
        if begin < reached or begin + LOCAL_HEADER > window.length:
            wrong.append(f"{info.filename!r} overlaps another member or lies outside the archive")
            continue
        header = file.read(offset + begin, LOCAL_HEADER)
        names, extra = struct.unpack("<HH", header[26:30])
        start = begin + LOCAL_HEADER + names + extra
        reached = start + info.compress_size
        if reached > window.length or header[:4] != b"PK\x03\x04":
            wrong.append(f"{info.filename!r} lies outside the archive")
        if info.flag_bits & 1:
            wrong.append(f"{info.filename!r} is encrypted")
        if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
            wrong.append(f"{info.filename!r} has two sizes")
        if info.filename in found:
            wrong.append(f"{info.filename!r} is there twice")
        found[info.filename] = Member(info.filename, offset + start, info.compress_size, info.file_size)
    if wrong:
        raise CheckpointError(f"{str(file.path)!r} is not a sound archive:{truncated_list(wrong)}")
    total = sum(member.size for member in found.values())
    if total > max(HARMLESS, BOMB * window.length):
        raise file_error(
            file.path,
            f"has {window.length:,} bytes and unpacks to {total:,}, as a zip bomb does",
            "If you trust it, unpack it yourself and save it uncompressed.",
        )
    return found
