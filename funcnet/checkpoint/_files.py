"""Open files, byte ranges of them, and the memory of tensors as bytes."""

from __future__ import annotations

import ctypes
import io
import os
import stat
import threading
import weakref
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from funcnet._typing import Shape
from funcnet.checkpoint._errors import file_error

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

CHUNK = 512 << 10
"""Bytes that are read, hashed and written at a time: as many as stay in a processor's own cache."""


class File:
    """A file that is read as it was when it was opened, also when a new file has taken its name.

    A checkpoint may have more files than a process can have open. So those that have not been used for long are closed,
    and opened again when they are needed.

    Raises:
        CheckpointError: if it is a pipe or a device, which might be waited for or read forever.
        OSError: if it cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if "\0" in str(path):
            raise file_error(path, "is no path: it has a zero in it")
        self._opened_path = os.path.abspath(path)
        self._lock = threading.Lock()
        self._file: io.FileIO | None = open(path, "rb", buffering=0, opener=_open_without_waiting)  # noqa: SIM115  closed in __del__
        _OPEN_FILES.add(self)
        status = os.fstat(self._file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise file_error(path, "is no plain file", "Save what it gives to a file first.")
        self.size = status.st_size
        self._version = _version_of(status)

    def __del__(self) -> None:
        self.close()

    @property
    def is_open(self) -> bool:
        """Whether it is open now."""
        return self._file is not None

    def close(self) -> None:
        """Close it until it is used again."""
        if (file := getattr(self, "_file", None)) is not None:
            self._file = None
            file.close()

    def close_if_idle(self) -> bool:
        """Close it unless another thread is reading from it; returns whether it is closed."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            self.close()
        finally:
            self._lock.release()
        return True

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill ``view`` with the bytes from ``offset`` on.

        Raises:
            CheckpointError: if the file ends before ``view`` is full, or was written to since it was opened.
        """
        done = 0
        with self._lock:
            if self._file is None:
                self._file = open(self._opened_path, "rb", buffering=0, opener=_open_without_waiting)  # noqa: SIM115
                _OPEN_FILES.add(self)
            file = self._file
            file.seek(offset)
            while done < len(view):
                count = file.readinto(view[done:])
                if not count:
                    self._check_version(file)
                    raise file_error(
                        self.path, f"ends at byte {offset + done}, and {len(view) - done} more were to come"
                    )
                done += count
            self._check_version(file)

    def _check_version(self, file: io.FileIO) -> None:
        if _version_of(os.fstat(file.fileno())) != self._version:
            reason = "was written to, or replaced, since it was opened, so what is read may be of two files"
            raise file_error(self.path, reason, "Open it again once it is written.")

    def read(self, offset: int, count: int) -> bytes:
        """The ``count`` bytes from ``offset`` on; the caller has checked that this much memory is available."""
        data = bytearray(count)
        self.read_into(offset, memoryview(data))
        return bytes(data)


def _version_of(status: os.stat_result) -> tuple[int, ...]:
    """What tells a file from another one, and from itself after it was written to."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class _OpenFiles:
    """The files of this process that are open, the one that was opened last at the end."""

    def __init__(self) -> None:
        self._files: list[weakref.ref[File]] = []
        self._lock = threading.RLock()

    def add(self, file: File) -> None:
        """Note that a file was opened, and close the oldest ones if there are too many."""
        with self._lock:
            self._files.append(weakref.ref(file))
            if len(self._files) <= _max_open_files():
                return
            open_files = [other for ref in self._files if (other := ref()) is not None and other.is_open]
            excess = max(0, len(open_files) - _max_open_files() // 2)
            remaining = [
                other for index, other in enumerate(open_files) if index >= excess or not other.close_if_idle()
            ]
            self._files = [weakref.ref(other) for other in remaining]


_OPEN_FILES = _OpenFiles()


def _max_open_files() -> int:
    """Files to have open at a time: a quarter of what the system lets this process have."""
    if resource is None:
        return 64
    return max(8, min(1024, resource.getrlimit(resource.RLIMIT_NOFILE)[0]) // 4)


def _open_without_waiting(path: str, flags: int) -> int:
    """Open a file. Opening a pipe would wait for its other end; for plain files the flag makes no difference."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


class FileWindow(io.RawIOBase):
    """A part of a file as a file object of its own, for libraries that read from one."""

    def __init__(self, file: File, offset: int = 0, length: int | None = None) -> None:
        self.file, self.offset, self.position = file, offset, 0
        self.length = file.size - offset if length is None else length

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = 0) -> int:
        position = offset + (0, self.position, self.length)[whence]
        if position < 0:
            raise OSError("seek to before the start")
        self.position = position
        return position

    def readinto(self, buffer: Any) -> int:  # any object with a writable buffer, as io.RawIOBase has it
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self.length - self.position))
        self.file.read_into(self.offset + self.position, view[:count])
        self.position += count
        return count


class Checksum:
    """The CRC-32 that an archive has for a range of the bytes of a file. It is compared once, when they are first read.

    Args:
        file: the file.
        name: what the range is called in the archive.
        offset, size: the range.
        crc: the number that the archive has.
    """

    def __init__(self, file: File, name: str, offset: int, size: int, crc: int) -> None:
        self.file, self.name, self.offset, self.size, self.crc = file, name, offset, size, crc
        self._is_checked = False

    def check(self) -> None:
        """Read the range and compare, unless that was done before.

        Raises:
            CheckpointError: if the bytes are others than those that were written.
        """
        if not self._is_checked:
            crc, buffer = 0, memoryview(bytearray(min(CHUNK, self.size)))
            for start in range(0, self.size, CHUNK):
                piece = buffer[: min(CHUNK, self.size - start)]
                self.file.read_into(self.offset + start, piece)
                crc = zlib.crc32(piece, crc)
            if crc != self.crc:
                reason = f"is damaged: {self.name!r} has other bytes than were written, as its checksum says"
                raise file_error(self.file.path, reason, "Copy it again.")
            self._is_checked = True


@dataclass(frozen=True)
class Span:
    """The place in a file where the bytes of a tensor lie in one piece, row-major and little-endian.

    Attributes:
        file, offset: the file, and the first byte.
        checksum: of the bytes that these are a part of, if the file has one.
    """

    file: File
    offset: int
    checksum: Checksum | None = None

    def read_into(self, start: int, view: memoryview) -> None:
        """Fill ``view`` with the bytes from ``start`` on, counted from the beginning of the span.

        Raises:
            CheckpointError: if the file ends before, or its checksum says that it is damaged.
        """
        if self.checksum is not None:
            self.checksum.check()
        self.file.read_into(self.offset + start, view)


def view_as_bytes(tensor: Tensor) -> memoryview:
    """The memory of a contiguous CPU tensor as bytes, shared with it.

    >>> view_as_bytes(torch.tensor([1, 256], dtype=torch.int16)).tobytes()
    b'\\x01\\x00\\x00\\x01'
    """
    count = tensor.numel() * tensor.itemsize
    if not count:
        return memoryview(bytearray())
    array = (ctypes.c_ubyte * count).from_address(tensor.data_ptr())
    array.tensor = tensor  # type: ignore[attr-defined]  # the memory lives as long as the view of it
    return memoryview(array).cast("B")


def read_span(span: Span, shape: Shape, dtype: torch.dtype) -> Tensor:
    """The tensor whose bytes begin at a span."""
    tensor = torch.empty(shape, dtype=dtype)
    span.read_into(0, view_as_bytes(tensor))
    return tensor


def iter_chunks(data: memoryview) -> Iterator[memoryview]:
    """The bytes in pieces of at most ``CHUNK``."""
    for start in range(0, len(data), CHUNK):
        yield data[start : start + CHUNK]
