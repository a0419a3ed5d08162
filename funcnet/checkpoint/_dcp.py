"""Folders of torch.distributed.checkpoint: tensors in chunks over files, and a pickle ``.metadata`` that places them.

That pickle is outside what ``weights_only`` can read. It is read by an unpickler that knows the dozen names of records
such a file is made of, makes plain records of them, and refuses every other name: no class of torch is called.
"""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import torch
from torch import Tensor

from funcnet._torch import dcp_storage_info
from funcnet._typing import Shape
from funcnet.checkpoint._atomic import replace_folder, writing
from funcnet.checkpoint._checkpoint import Checkpoint, Entry, Spec, check_shape
from funcnet.checkpoint._content import Content
from funcnet.checkpoint._dtypes import DTYPES
from funcnet.checkpoint._errors import CheckpointError, file_error, summarize_error, truncated_list
from funcnet.checkpoint._files import File, view_as_bytes
from funcnet.checkpoint._flat import flatten_all
from funcnet.checkpoint._pickle import load_blob, make_entries
from funcnet.checkpoint._sharded import file_name
from funcnet.checkpoint._zip import read_members

METADATA = ".metadata"
_LONGEST_METADATA = 256 << 20
_RECORDS = {
    "torch.distributed.checkpoint.metadata": (
        *("Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "TensorProperties", "ChunkStorageMetadata"),
        *("MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING"),
    ),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch.serialization": ("_get_layout",),
    "pathlib": ("PosixPath", "WindowsPath", "Path", "PurePosixPath"),
    "pathlib._local": ("PosixPath", "WindowsPath", "Path", "PurePosixPath"),
}


class _Record:
    """What stands for every class in the pickle: arguments and attributes, and nothing that runs."""

    def __init__(self, *args: Any) -> None:
        self.args = args

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update({str(key): value for key, value in state.items()})
        else:
            self.state = state

    def __hash__(self) -> int:  # they are keys of dicts, and no two need be equal
        return id(self)


class _Unpickler(pickle._Unpickler):  # in Python: the C one can be led to reserve memory
    def find_class(self, module: str, name: str) -> Any:
        if name in _RECORDS.get(module, ()):
            return _Record
        if module == "torch" and name == "Size":
            return tuple
        if module == "torch" and isinstance(getattr(torch, name, None), (torch.dtype, torch.layout)):
            return getattr(torch, name)
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        raise pickle.UnpicklingError(f"names {module}.{name}, which is no part of such a file")

    def load_bytearray8(self) -> None:
        raise pickle.UnpicklingError("holds a bytearray, which is no part of such a file")

    dispatch: ClassVar[Any] = {**pickle._Unpickler.dispatch, pickle.BYTEARRAY8[0]: load_bytearray8}


def read_dcp(path: Path) -> Checkpoint:
    """The checkpoint of a folder.

    Raises:
        CheckpointError: if the metadata are damaged, name what they should not, or do not fit the files beside them.
    """
    metadata = _metadata(path)
    files: dict[str, File] = {}
    entries: dict[str, Entry] = {}
    aliases: dict[str, str] = {}
    owners: dict[Any, str] = {}
    extras: dict[str, Any] = {}
    wrong: list[str] = []
    try:
        placed = _placed(metadata)
        described = dict(metadata.state_dict_metadata)
    except (AttributeError, TypeError, ValueError) as error:
        raise file_error(
            path / METADATA, f"is not the metadata of a distributed checkpoint: {summarize_error(error)}"
        ) from None
    for name, record in described.items():
        try:
            if not isinstance(name, str):
                raise ValueError("is not a name")
            if not hasattr(record, "size"):
                (info,) = placed.get(name, {}).values()
                extras[name] = _value(*_place(path, files, info), name)
            else:
                spec, pieces = _described(path, files, placed.get(name, {}), record)
                owner = owners.setdefault((spec, tuple(pieces)) if pieces else name, name)
                if owner == name:
                    entries[name] = _entry(spec, pieces)
                else:
                    aliases[name] = owner
        except (ValueError, AttributeError, TypeError) as error:  # noqa: PERF203  all at once
            wrong.append(f"{name!r}: {error}")
    if wrong:
        raise CheckpointError(f"{str(path)!r} is not a sound distributed checkpoint:{truncated_list(wrong)}")
    return Checkpoint(
        path, "dcp", entries, aliases, extras, files=(path / METADATA, *(path / relative for relative in files))
    )


def _metadata(path: Path) -> Any:
    file = File(path / METADATA)
    if file.size > _LONGEST_METADATA:
        raise file_error(file.path, f"has {file.size:,} bytes, which no metadata have")
    try:
        return _Unpickler(io.BytesIO(file.read(0, file.size))).load()
    except Exception as error:  # whatever the bytes lead it to
        raise file_error(
            file.path, f"is not the metadata of a distributed checkpoint: {summarize_error(error)}"
        ) from None


def _placed(metadata: Any) -> dict[str, dict[Any, Any]]:
    """For each name: offset of a chunk in the tensor (None for a value) -> where it is stored."""
    found: dict[str, dict[Any, Any]] = {}
    for index, info in metadata.storage_data.items():
        offset = getattr(index, "offset", None)
        found.setdefault(index.fqn, {})[None if offset is None else tuple(offset)] = info
    return found


def _place(path: Path, files: dict[str, File], info: Any) -> tuple[File, int, int]:
    """The file, first byte and length of what is stored, checked."""
    relative = info.relative_path
    if not isinstance(relative, str) or not file_name(relative):
        raise ValueError(f"lies in {str(relative)[:80]!r}, which is not a file of the folder")
    if os.path.dirname(os.path.realpath(path / relative)) != os.path.realpath(path):
        raise ValueError(f"lies in {relative!r}, which is a link out of the folder")
    if getattr(info, "transform_descriptors", None):
        raise ValueError("is compressed or transformed, which funcnet does not read")
    if relative not in files:
        if not os.path.isfile(path / relative):
            raise ValueError(f"lies in {relative!r}, which is missing")
        files[relative] = File(path / relative)
    file, offset, length = files[relative], info.offset, info.length
    if type(offset) is not int or type(length) is not int or offset < 0 or length < 0 or offset + length > file.size:
        raise ValueError(f"lies at bytes {offset} to {offset} + {length} of {relative!r}, which has {file.size:,}")
    return file, offset, length


def _value(file: File, offset: int, length: int, name: str) -> Any:
    tensors, values = flatten_all({name: load_blob(file, offset, length)})
    if tensors:
        raise ValueError("is a value that holds tensors")
    return values[name] if list(values) == [name] else values


def _described(
    path: Path, files: dict[str, File], placed: dict[Any, Any], record: Any
) -> tuple[Spec, list[tuple[Shape, Shape, tuple[File, int, int]]]]:
    """A tensor, and its chunks: where each is in the tensor, its sizes, and where it is stored."""
    dtype = record.properties.state[0]
    if dtype not in DTYPES.values():
        raise ValueError(f"has the dtype {dtype}, which is none of {', '.join(DTYPES)}")
    spec = Spec(check_shape(tuple(record.size), dtype.itemsize), dtype)
    pieces = []
    for chunk in record.chunks:
        offsets = check_shape(tuple(chunk.offsets))
        if offsets not in placed:
            raise ValueError(f"has no stored chunk at {offsets}")
        pieces.append((offsets, check_shape(tuple(chunk.sizes)), _place(path, files, placed[offsets])))
    _check_cover(spec, pieces)
    if spec.nbytes > sum(length for _, _, (_, _, length) in pieces):
        raise ValueError(f"has fewer bytes than {dtype} of shape {list(spec.shape)} takes")
    return spec, pieces


def _entry(spec: Spec, pieces: list[tuple[Shape, Shape, tuple[File, int, int]]]) -> Entry:
    dtype = spec.dtype

    def stored(sizes: tuple[int, ...], place: tuple[File, int, int]) -> Entry:
        file, offset, length = place
        blob = load_blob(file, offset, length)
        if not isinstance(blob, Tensor) or tuple(blob.shape) != sizes or blob.dtype is not dtype:
            raise file_error(file.path, f"holds another tensor at byte {offset} than the metadata say")
        return make_entries(file, {"chunk": blob}, read_members(file, offset, length), offset)[0]["chunk"]

    if len(pieces) == 1:
        return Entry(spec, reader=lambda: stored(*pieces[0][1:]).read())

    def read() -> Tensor:
        whole = torch.empty(spec.shape, dtype=dtype)
        for offsets, sizes, place in pieces:
            region = tuple(slice(start, start + size) for start, size in zip(offsets, sizes, strict=True))
            whole[region] = stored(sizes, place).read()
        return whole

    return Entry(spec, reader=read)


def _check_cover(spec: Spec, pieces: list[Any]) -> None:
    """Refuse chunks that overlap, leave holes or reach out of the tensor."""
    total = 0
    for offsets, sizes, _ in pieces:
        if len(offsets) != len(spec.shape) or len(sizes) != len(spec.shape):
            raise ValueError("has chunks with another number of axes")
        if any(start + size > full for start, size, full in zip(offsets, sizes, spec.shape, strict=True)):
            raise ValueError(f"has a chunk at {offsets} that reaches out of shape {list(spec.shape)}")
        total += Spec(sizes, torch.uint8).nbytes
    if total != Spec(spec.shape, torch.uint8).nbytes:
        raise ValueError("has chunks that overlap or leave holes")
    boxes = sorted((offsets, sizes) for offsets, sizes, _ in pieces if 0 not in sizes)
    for number, (start, size) in enumerate(boxes):
        for other_start, other_size in boxes[number + 1 :]:
            if other_start and other_start[0] >= start[0] + size[0]:
                break
            if all(a < b + m and b < a + n for a, n, b, m in zip(start, size, other_start, other_size, strict=True)):
                raise ValueError(f"has chunks at {start} and {other_start} that overlap")


def write_dcp(path: Path, content: Content, old: list[str]) -> None:
    """Write a folder that ``torch.distributed.checkpoint`` loads, one tensor in memory at a time.

    A tied tensor is there under each of its names, and all say that it is stored at one place: so other tools find it,
    it is on disk once, and reading it here gives the tie back.
    """
    from torch.distributed.checkpoint.metadata import (
        BytesStorageMetadata,
        ChunkStorageMetadata,
        Metadata,
        MetadataIndex,
        TensorProperties,
        TensorStorageMetadata,
    )

    described: dict[str, Any] = {}
    stored: dict[Any, Any] = {}
    names = [*content.specs, *content.aliases, *content.extras]
    with replace_folder(path, METADATA, old) as place:
        target, data_name = place("__0_0.distcp")
        with writing(target) as out:
            places: dict[str, Any] = {}
            for name in names:
                begin = out.tell()
                if name in content.extras:
                    _store(content.extras[name], out)
                    described[name], index = BytesStorageMetadata(), MetadataIndex(name)
                else:
                    owner = content.aliases.get(name, name)
                    spec = content.specs[owner]
                    if name == owner:
                        _store(_assembled(spec, content, owner), out)
                    size, origin = torch.Size(spec.shape), torch.Size([0] * len(spec.shape))
                    described[name] = TensorStorageMetadata(
                        TensorProperties(spec.dtype), size, [ChunkStorageMetadata(origin, size)]
                    )
                    index = MetadataIndex(name, origin, 0)
                owner = content.aliases.get(name, name)
                places.setdefault(owner, dcp_storage_info(data_name, begin, out.tell() - begin))
                stored[index] = places[owner]
        planned = {name: (name,) for name in names}
        place(METADATA)[0].write_bytes(pickle.dumps(Metadata(described, planned, stored)))


def _store(value: Any, out: BinaryIO) -> None:
    """Write a value as ``torch.save`` does; where the disk is full, the error says so, as every writer's does."""
    try:
        torch.save(value, out)
    except RuntimeError as error:  # of the archive, which is not finished; the reason is what it came after
        reason: BaseException | None = error
        while reason is not None and not isinstance(reason, OSError):
            reason = reason.__context__
        raise (reason or error) from None


def _assembled(spec: Spec, content: Content, name: str) -> Tensor:
    tensor = torch.empty(spec.shape, dtype=spec.dtype)
    memory, done = view_as_bytes(tensor), 0
    for chunk in content.chunks(name):
        memory[done : done + len(chunk)] = chunk
        done += len(chunk)
    return tensor
