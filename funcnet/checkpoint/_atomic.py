"""Files and folders that are complete or absent: written under another name, synced, and renamed.

A process that dies leaves a hidden ``.NAME.*.partial`` beside the target, which the next save of the same name removes
once nobody holds the lock on it. Until the rename, the target itself is the old one.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

try:
    import fcntl
except ImportError:  # Windows has no such locks; files of dead processes stay there
    fcntl = None  # type: ignore[assignment]

_PARTIAL_SUFFIX = ".partial"
_FLUSH_BYTES = 32 << 20


class _EagerlyFlushedFile(io.FileIO):
    """A file whose bytes go to the disk while more are written, so that the sync at the end is short."""

    def __init__(self, file: Path | int) -> None:
        super().__init__(file, "wb")
        self._pending = 0

    def write(self, data: Any) -> int:  # any object with a buffer, as io.FileIO has it
        count = super().write(data)
        self._pending += count
        if self._pending >= _FLUSH_BYTES and hasattr(os, "posix_fadvise"):
            # These pages are dirty, and for dirty pages the advice makes the system write them.
            os.posix_fadvise(self.fileno(), self.tell() - self._pending, self._pending, os.POSIX_FADV_DONTNEED)
            self._pending = 0
        return count


def open_for_writing(file: Path | int) -> BinaryIO:
    """A file to write to, from a path or from the descriptor of an open file."""
    return io.BufferedWriter(_EagerlyFlushedFile(file))


@contextlib.contextmanager
def replace_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of ``path`` at the end of the block, or vanishes if the block fails.

    Where ``path`` is a link, the file that it leads to is replaced, and the link stays.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replace_file(Path(folder, "a")) as out:
    ...         _ = out.write(b"whole")
    ...     Path(folder, "a").read_bytes()
    b'whole'
    """
    path = _follow_link(path)
    _remove_leftovers(path.parent, _partial_prefix(path))
    partial = _make_partial_path(path)
    try:  # from before the file is there: a signal may raise as soon as it is
        descriptor = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_BINARY", 0), 0o666)
        with open_for_writing(descriptor) as out:
            _try_to_lock(out.fileno())
            yield out
            out.flush()
            os.fsync(out.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    _sync_folder(path.parent)


@contextlib.contextmanager
def replace_folder(
    path: Path, main_file: str, list_old_files: Callable[[], list[str]]
) -> Iterator[Callable[[str], tuple[Path, str]]]:
    """A folder to write files to that are all there at the end of the block, or none of them.

    A folder that does not exist yet appears with all its files at once. In an existing one the files of others stay.
    The new files come under names that are free, and ``main_file``, which says what belongs to the checkpoint, changes
    last. While a folder that exists is written to, others who save to it wait.

    Args:
        path: the folder.
        main_file: name of the file that makes the others a checkpoint (an index, or the only file).
        list_old_files: returns the names of the files of the checkpoint that is replaced; they are removed after the
            replacement.

    Yields:
        A function from a name to the path to write it at and the name it will have, which is another one if that name
        is in use.
    """
    path = _follow_link(path)
    if path.is_dir():
        with _hold_folder(path):
            yield from _replace_files_in(path, main_file, list_old_files())
        return
    _remove_leftovers(path.parent, _partial_prefix(path))
    partial = _make_partial_path(path)
    locks: list[int] = []
    try:
        partial.mkdir(parents=True)
        locks.append(os.open(partial, os.O_RDONLY))
        _try_to_lock(locks[-1])
        yield lambda name: (partial / name, name)
        sync_files([partial / name for name in os.listdir(partial)])
        _sync_folder(partial)
        os.rename(partial, path)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise OSError(error.errno, "another process has written to it meanwhile; save again", str(path)) from None
        raise
    finally:
        for lock in locks:
            os.close(lock)
    _sync_folder(path.parent)


def _replace_files_in(path: Path, main_file: str, old_files: list[str]) -> Iterator[Callable[[str], tuple[Path, str]]]:
    """:func:`replace_folder` for a folder that exists."""
    _remove_leftovers(path, ".")
    token = secrets.token_hex(4)
    partials: dict[str, Path] = {}  # final name -> path of the file while it is written
    locks: list[int] = []
    is_written = False

    def reserve(name: str) -> tuple[Path, str]:
        final_name = name if name == main_file or not (path / name).exists() else _insert_token(name, token)
        partial = _make_partial_path(path / final_name)
        partials[final_name] = partial
        locks.append(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666))
        _try_to_lock(locks[-1])
        return partial, final_name

    try:
        yield reserve
        sync_files(list(partials.values()))
        is_written = True
        for final_name in sorted(partials, key=lambda name: name == main_file):
            os.replace(partials[final_name], path / final_name)
            _sync_folder(path)  # so that the names of the shards are on disk before the index that lists them
    except BaseException:
        # Once the main file has its final name, the new checkpoint is there and must stay.
        if not is_written or main_file not in partials or partials[main_file].exists():
            for final_name, partial in partials.items():
                with contextlib.suppress(OSError):
                    (partial if partial.exists() else path / final_name).unlink()
        raise
    finally:
        for lock in locks:
            os.close(lock)
    for name in set(old_files) - set(partials):
        with contextlib.suppress(OSError):
            (path / name).unlink()


def _follow_link(path: Path) -> Path:
    """The path that a link leads to; any other path as it is."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


@contextlib.contextmanager
def _hold_folder(path: Path) -> Iterator[None]:
    """Wait until nobody else replaces files in a folder, and keep others waiting for the time of the block."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _insert_token(name: str, token: str) -> str:
    """The name of a file with a token before its suffix."""
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}-{token}.{suffix}" if dot else f"{name}-{token}"


def _partial_prefix(path: Path) -> str:
    return f".{path.name[:200]}."


def _make_partial_path(path: Path) -> Path:
    return path.with_name(f"{_partial_prefix(path)}{secrets.token_hex(6)}{_PARTIAL_SUFFIX}")


def _remove_leftovers(folder: Path, prefix: str) -> None:
    """Remove the partial files whose names begin with a prefix and whose writers are no longer alive."""
    if fcntl is None or not folder.is_dir():
        return
    for name in os.listdir(folder):
        if name.startswith(prefix) and name.endswith(_PARTIAL_SUFFIX):
            leftover = folder / name
            with contextlib.suppress(OSError):
                descriptor = os.open(leftover, os.O_RDONLY)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
                finally:
                    os.close(descriptor)


def _try_to_lock(descriptor: int) -> None:
    """Lock a file that is written, so that other processes see that its writer is alive."""
    if fcntl is not None:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def sync_files(paths: list[Path]) -> None:
    """Force the content of files to the disk."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _sync_folder(path: Path) -> None:
    """Force the names in a folder to the disk, as far as the system can."""
    with contextlib.suppress(OSError):  # some systems do not let a folder be opened
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
