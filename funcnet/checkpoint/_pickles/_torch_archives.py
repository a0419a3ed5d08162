"""Archives of ``torch.save`` and ``torch.jit.save``: a pickle, and one member for each storage that it names."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import IO, Any

from funcnet.checkpoint._errors import file_error, summarize_error, truncated_list
from funcnet.checkpoint._files import File
from funcnet.checkpoint._pickles._inert_unpickler import InertUnpickler
from funcnet.checkpoint._pickles._known_calls import storage_class_name
from funcnet.checkpoint._pickles._pickled_tensors import PickledStorage
from funcnet.checkpoint._pickles._stored_views import StoredBytes
from funcnet.checkpoint._zip import ZipMember, read_members, read_stored

_CODE_FOLDER = "code/"  # of the programs in a TorchScript archive
_CONSTANTS = "constants"


@dataclass(frozen=True)
class TorchArchive:
    """What an archive holds.

    Attributes:
        file: the file that it lies in.
        members: the members by name.
        saved: what was saved, with descriptions in place of tensors.
        constants: the constants of a TorchScript program.
        folder: the names of all members begin so.
    """

    file: File
    members: dict[str, ZipMember]
    saved: Any
    constants: Any
    folder: str

    @property
    def is_program(self) -> bool:
        """Whether it is a program of TorchScript."""
        return any(name.startswith(f"{self.folder}{_CODE_FOLDER}") for name in self.members)

    def locate(self, storage: PickledStorage) -> StoredBytes | None:
        """Where the bytes of a storage lie."""
        member = self.members.get(f"{self.folder}{storage.key}")
        return None if member is None else StoredBytes(self.file, member.offset, member.size, member.checksum)


def load_archive(file: File, offset: int = 0, length: int | None = None) -> TorchArchive:
    """The object that was saved in an archive, with descriptions of its tensors. Nothing that it names is run.

    Args:
        file: the file.
        offset, length: the part of the file that is the archive.

    Raises:
        CheckpointError: if the archive is damaged, or made to run code.
    """
    members = read_members(file, offset, length)
    pickle_names = [name for name in members if name.rpartition("/")[2].lower() == "data.pkl" and name.count("/") < 2]
    if not pickle_names:
        raise file_error(file.path, "has no member 'data.pkl', as every archive of torch.save has")
    folder = pickle_names[0][: -len("data.pkl")]
    packed = [
        name
        for name, member in members.items()
        if not member.is_stored and not name.startswith(f"{folder}{_CODE_FOLDER}")
    ]
    if packed:
        raise file_error(file.path, f"has compressed members, which torch.save does not write:{truncated_list(packed)}")
    order = members.get(f"{folder}byteorder")
    if order is not None and (order.size != 6 or file.read(order.offset, 6) != b"little"):
        raise file_error(
            file.path, "has the bytes of numbers in another order than little-endian", "Save it again on this machine."
        )
    saved = load_pickle(file, io.BytesIO(read_stored(file, members[pickle_names[0]])), "data/")
    constants = None
    if (member := members.get(f"{folder}{_CONSTANTS}.pkl")) is not None:
        constants = load_pickle(file, io.BytesIO(read_stored(file, member)), f"{_CONSTANTS}/")
    return TorchArchive(file, members, saved, constants, folder)


class StorageTable:
    """The storages that a pickle names, one object for each.

    Args:
        prefix: what stands before their keys.
    """

    def __init__(self, prefix: str = "") -> None:
        self.storages: dict[str, PickledStorage] = {}
        self._prefix = prefix

    def load(self, pid: Any) -> Any:
        """The storage of a persistent id, as torch.save writes it.

        Raises:
            ValueError: if it is another kind of id.
        """
        if isinstance(pid, tuple) and len(pid) == 4 and pid[0] == "module":
            return pid[1]  # a class, with the source code that torch once kept beside it
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            raise ValueError(f"a persistent id that torch.save does not write: {str(pid)[:80]}")
        _, kind, key, _, count = pid[:5]
        if not isinstance(key, str) or type(count) is not int or count < 0:
            raise ValueError(f"the storage {str(key)[:40]!r} of {str(count)[:40]} elements")
        class_name = storage_class_name(kind)
        storage = self.storages.setdefault(key, PickledStorage(class_name, self._prefix + key, count))
        if len(pid) > 5 and pid[5] is not None:  # a part of a storage, in files of torch before 0.4
            part_key, start, part_count = pid[5]
            part = PickledStorage(class_name, storage.key, int(part_count), start=int(start))
            return self.storages.setdefault(f"{key} {part_key}", part)
        return storage


def load_pickle(file: File, stream: IO[bytes], prefix: str = "") -> Any:
    """What one pickle holds. The stream is left at its end."""
    return _load_inert(file, InertUnpickler(stream, StorageTable(prefix).load))


def _load_inert(file: File, unpickler: InertUnpickler) -> Any:
    try:
        return unpickler.load()
    except Exception as error:  # the unpickler raises anything, depending on the bytes
        reason = summarize_error(error)
        raise file_error(file.path, f"holds a pickle that funcnet does not read: {reason}") from None
