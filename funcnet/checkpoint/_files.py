"""Open files, byte ranges of them, and the memory of tensors as bytes."""

from __future__ import annotations

import ctypes
import io
import os
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from funcnet._typing import Shape
from funcnet.checkpoint._errors import file_error

CHUNK = 512 << 10
"""Bytes that are read, hashed and written at a time: as many as stay in a processor's own cache."""


class File:
    """A file that stays open while anything reads from it, even when a new file has taken its name.

    Raises:
        CheckpointError: if it is a pipe or a device, which might be waited for or read forever.
        OSError: if it cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if "\0" in str(path):
            raise file_error(path, "is no path: it has a zero in it")
        self._file = open(path, "rb", buffering=0, opener=_open_without_waiting)  # noqa: SIM115  closed in __del__
        self._lock = threading.Lock()
        status = os.fstat(self._file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise file_error(path, "is no plain file", "Save what it gives to a file first.")
        self.size = status.st_size

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill ``view`` with the bytes from ``offset`` on.

        Raises:
            CheckpointError: if the file ends before ``view`` is full.
        """
        done = 0
        with self._lock:
            self._file.seek(offset)
            while done < len(view):
                count = self._file.readinto(view[done:])
                if not count:
                    raise file_error(
                        self.path, f"ends at byte {offset + done}, and {len(view) - done} more were to come"
                    )
                done += count

    def read(self, offset: int, count: int) -> bytes:
        """The ``count`` bytes from ``offset`` on; the caller has checked that this much memory is available."""
        data = bytearray(count)
        self.read_into(offset, memoryview(data))
        return bytes(data)


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


@dataclass(frozen=True)
class Span:
    """The place in a file where the bytes of a tensor lie in one piece, row-major and little-endian."""

    file: File
    offset: int


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
    span.file.read_into(span.offset, view_as_bytes(tensor))
    return tensor


def iter_chunks(data: memoryview) -> Iterator[memoryview]:
    """The bytes in pieces of at most ``CHUNK``."""
    for start in range(0, len(data), CHUNK):
        yield data[start : start + CHUNK]
