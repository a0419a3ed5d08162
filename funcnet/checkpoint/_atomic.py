"""Files and folders that are whole or not there: written under another name, synced, and renamed.

A process that dies leaves a hidden ``.NAME.*.partial`` beside the target, which the next save of the same name removes
once nobody holds the lock on it. The target itself is the old one until the moment it is the new one.
"""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

try:
    import fcntl
except ImportError:  # Windows has no such locks; leftovers stay
    fcntl = None  # type: ignore[assignment]

_MARK = ".partial"
_STEADY = 32 << 20


class _Steady(io.FileIO):
    """A file whose bytes go to the disk while more are written, so that the sync at the end is short."""

    def __init__(self, file: Path | int) -> None:
        super().__init__(file, "wb")
        self._pending = 0

    def write(self, data: Any) -> int:
        count = super().write(data)
        self._pending += count
        if self._pending >= _STEADY and hasattr(os, "posix_fadvise"):
            # On pages that are dirty, as these are, the advice means: write them.
            os.posix_fadvise(self.fileno(), self.tell() - self._pending, self._pending, os.POSIX_FADV_DONTNEED)
            self._pending = 0
        return count


def writing(file: Path | int) -> BinaryIO:
    """A new or opened file to write to."""
    return io.BufferedWriter(_Steady(file))


@contextlib.contextmanager
def replace_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of ``path`` at the end of the block, or vanishes if the block fails.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replace_file(Path(folder, "a")) as out:
    ...         _ = out.write(b"whole")
    ...     Path(folder, "a").read_bytes()
    b'whole'
    """
    _remove_leftovers(path.parent, _start(path))
    partial = _partial(path)
    descriptor = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with writing(descriptor) as out:
            _lock(out.fileno())
            yield out
            out.flush()
            os.fsync(out.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    sync_folder(path.parent)


@contextlib.contextmanager
def replace_folder(path: Path, entry: str, old: list[str]) -> Iterator[Callable[[str], tuple[Path, str]]]:
    """A folder to write files to that are all there at the end of the block, or none of them.

    Where there is no folder yet, it appears whole. Where there is one, its other files stay; the new ones come under
    names that are free, and ``entry``, which says what belongs to the checkpoint, changes last.

    Args:
        path: the folder.
        entry: name of the file that makes the others a checkpoint (an index, or the only file).
        old: names of the files of the checkpoint that is replaced; removed when it has been.

    Yields:
        A function from a name to the path to write it at and the name it will have, which is another one if that name
        is in use.
    """
    if path.is_dir():
        yield from _into(path, entry, old)
        return
    _remove_leftovers(path.parent, _start(path))
    partial = _partial(path)
    partial.mkdir(parents=True)
    lock = os.open(partial, os.O_RDONLY)
    try:
        _lock(lock)
        yield lambda name: (partial / name, name)
        _sync_files([partial / name for name in os.listdir(partial)])
        sync_folder(partial)
        os.rename(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        os.close(lock)
    sync_folder(path.parent)


def _into(path: Path, entry: str, old: list[str]) -> Iterator[Callable[[str], tuple[Path, str]]]:
    _remove_leftovers(path, ".")
    token = secrets.token_hex(4)
    written: dict[str, Path] = {}
    locks: list[int] = []

    def place(name: str) -> tuple[Path, str]:
        final = name if name == entry or not (path / name).exists() else _tagged(name, token)
        partial = _partial(path / final)
        locks.append(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666))
        written[final] = partial
        _lock(locks[-1])
        return partial, final

    try:
        yield place
        _sync_files(list(written.values()))
        for final in sorted(written, key=lambda name: name == entry):
            os.replace(written[final], path / final)
            sync_folder(path)  # the names of the parts before the entry that lists them
    except BaseException:
        if entry not in written or written[entry].exists():  # once the entry has its name, the new one is there
            for final, partial in written.items():
                with contextlib.suppress(OSError):
                    (partial if partial.exists() else path / final).unlink()
        raise
    finally:
        for lock in locks:
            os.close(lock)
    for name in set(old) - set(written):
        with contextlib.suppress(OSError):
            (path / name).unlink()


def _tagged(name: str, token: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}-{token}.{suffix}" if dot else f"{name}-{token}"


def _start(path: Path) -> str:
    return f".{path.name[:200]}."


def _partial(path: Path) -> Path:
    return path.with_name(f"{_start(path)}{secrets.token_hex(6)}{_MARK}")


def _remove_leftovers(folder: Path, start: str) -> None:
    """Remove what writers that are no longer alive have left of files whose names begin so."""
    if fcntl is None or not folder.is_dir():
        return
    for name in os.listdir(folder):
        if name.startswith(start) and name.endswith(_MARK):
            leftover = folder / name
            with contextlib.suppress(OSError):
                descriptor = os.open(leftover, os.O_RDONLY)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
                finally:
                    os.close(descriptor)


def _lock(descriptor: int) -> None:
    if fcntl is not None:
        with contextlib.suppress(OSError):  # some network file systems have none
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _sync_files(paths: list[Path]) -> None:
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Have the names in a folder on disk, as far as the system can."""
    with contextlib.suppress(OSError):  # not every system lets a folder be opened
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
