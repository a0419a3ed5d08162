"""Pickles that lie in a file as they are: files of torch before 1.6, and those of ``pickle.dump``."""

from __future__ import annotations

import io
from typing import Any

from funcnet.checkpoint._errors import file_error, summarize_error
from funcnet.checkpoint._files import File, FileWindow
from funcnet.checkpoint._pickles._inert_unpickler import InertUnpickler
from funcnet.checkpoint._pickles._known_calls import KNOWN_CALLS
from funcnet.checkpoint._pickles._pickled_tensors import PickledStorage
from funcnet.checkpoint._pickles._stored_views import StoredBytes
from funcnet.checkpoint._pickles._torch_archives import StorageTable

LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""The first bytes of a file of torch before 1.6: the pickle of its magic number."""
_PICKLES_BEFORE = 3  # the magic number, a version, and the machine
_COUNT_BYTES = 8  # before each storage: how many elements it has


class BoundedReader(io.BufferedReader):
    """A reader that reserves no memory for more bytes than there are."""

    def __init__(self, raw: io.RawIOBase, size: int) -> None:
        super().__init__(raw)
        self._size = size

    def read(self, count: int | None = -1) -> bytes:
        """The next bytes: as many as are asked for, or all that there are."""
        remaining = max(0, self._size - self.tell())
        return super().read(remaining if count is None or count < 0 else min(count, remaining))


class PickleStream:
    """What the pickles of one stream hold, and where in it the bytes of storages lie.

    Attributes:
        saved: what was saved, with descriptions in place of tensors.
    """

    def __init__(self, stream: BoundedReader, *, is_legacy: bool) -> None:
        self._table = StorageTable()
        self._places: dict[str, tuple[int, int]] = {}  # key -> first byte and number of bytes
        for _ in range(_PICKLES_BEFORE if is_legacy else 0):
            InertUnpickler(stream).load()
        self.saved: Any = InertUnpickler(stream, self._table.load if is_legacy else None).load()
        if is_legacy:
            self._place_storages(stream, InertUnpickler(stream).load())

    def _place_storages(self, stream: BoundedReader, keys: Any) -> None:
        """The storages follow the pickles, in the order of these keys."""
        position = stream.tell()
        for key in keys:
            storage = self._table.storages[key]
            stream.seek(position)
            count = int.from_bytes(stream.read(_COUNT_BYTES), "little")
            size = count * storage.dtype.itemsize
            self._places[key] = position + _COUNT_BYTES, size
            position += _COUNT_BYTES + size

    def locate(self, storage: PickledStorage) -> tuple[int, int] | None:
        """The first byte of a storage in the stream, and how many there are."""
        if storage.key not in self._places:
            return None
        offset, size = self._places[storage.key]
        skipped = storage.start * storage.dtype.itemsize
        return offset + skipped, size - skipped


def load_stream(file: File, *, is_legacy: bool) -> PickleStream:
    """What a file of pickles holds. Nothing that it names is run.

    Raises:
        CheckpointError: if it is damaged, or made to run code.
    """
    try:
        return PickleStream(BoundedReader(FileWindow(file), file.size), is_legacy=is_legacy)
    except Exception as error:  # the unpickler raises anything, depending on the bytes
        reason = summarize_error(error)
        raise file_error(file.path, f"holds a pickle that funcnet does not read: {reason}") from None


def locate_in_file(file: File, stream: PickleStream, storage: PickledStorage) -> StoredBytes | None:
    """Where the bytes of a storage lie in the file of the stream."""
    place = stream.locate(storage)
    return None if place is None or place[0] + place[1] > file.size else StoredBytes(file, *place)


def _load_storage_from_bytes(data: Any) -> PickledStorage:
    """The storage that a plain pickle of a tensor holds: a file of torch before 1.6, within the pickle."""
    if not isinstance(data, bytes) or not data.startswith(LEGACY_MAGIC):
        raise ValueError("a storage in bytes that torch did not write")
    stream = PickleStream(BoundedReader(io.BytesIO(data), len(data)), is_legacy=True)  # type: ignore[arg-type]
    storage = stream.saved
    if not isinstance(storage, PickledStorage) or (place := stream.locate(storage)) is None:
        raise ValueError("bytes that hold no storage")
    begin, size = place
    return PickledStorage(storage.class_name, "", storage.count, data[begin : begin + size])


KNOWN_CALLS["torch.storage._load_from_bytes"] = _load_storage_from_bytes
