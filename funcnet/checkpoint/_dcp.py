"""Folders of torch.distributed.checkpoint: tensors in chunks over files, and a pickle ``.metadata`` that places them.

That pickle is outside of what ``weights_only`` can read. It is read by an unpickler that knows the dozen names of
records such a file is made of, makes plain records of them, and refuses every other name: no class of torch is called.
"""

from __future__ import annotations

import io
import json
import math
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from funcnet._typing import Shape
from funcnet.checkpoint._atomic import replace_folder
from funcnet.checkpoint._checkpoint import Checkpoint, Spec, StoredTensor
from funcnet.checkpoint._content import Content
from funcnet.checkpoint._dcp_pieces import (
    NOTE_ATTRIBUTE,
    PLACEMENTS_ATTRIBUTE,
    encode_dcp_metadata,
    write_piece_file,
)
from funcnet.checkpoint._dtypes import DTYPES
from funcnet.checkpoint._errors import CheckpointError, file_error, summarize_error, truncated_list
from funcnet.checkpoint._files import File, view_as_bytes
from funcnet.checkpoint._flat import flatten_checkpoint
from funcnet.checkpoint._pickles._pickled_tensors import PickledTensor
from funcnet.checkpoint._pickles._stored_views import make_entries
from funcnet.checkpoint._pickles._tensor_pickler import check_writable
from funcnet.checkpoint._pickles._torch_archives import load_archive
from funcnet.checkpoint._sharded import is_plain_file_name
from funcnet.checkpoint._stored_shapes import check_shape
from funcnet.checkpoint._structure import Structure, decode_structure, structure_of_paths

METADATA_FILE = ".metadata"
_MAX_METADATA = 256 << 20
_RECORD_CLASSES = {
    "torch.distributed.checkpoint.metadata": (
        *("Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "TensorProperties", "ChunkStorageMetadata"),
        *("MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING"),
    ),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch.serialization": ("_get_layout",),
    "pathlib": ("PosixPath", "WindowsPath", "Path", "PurePosixPath"),
    "pathlib._local": ("PosixPath", "WindowsPath", "Path", "PurePosixPath"),
}


class _PlainRecord:
    """An object of any class in the pickle: its arguments and attributes, and nothing that runs."""

    def __init__(self, *args: Any) -> None:
        self.args = args

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.__dict__.update({str(key): value for key, value in state.items()})
        else:
            self.state = state

    def __hash__(self) -> int:  # records are keys of dicts, and no two of them have to be equal
        return id(self)


class _MetadataUnpickler(pickle._Unpickler):  # the one in Python: a file can lead the one in C to reserve much memory
    """An unpickler that makes plain records and knows no class but those of the metadata."""

    def find_class(self, module: str, name: str) -> Any:
        if name in _RECORD_CLASSES.get(module, ()):
            return _PlainRecord
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


class _FileRange(NamedTuple):
    """The bytes of one file in which a chunk or a value is stored."""

    file: File
    offset: int
    length: int


class _Chunk(NamedTuple):
    """A box of a tensor: where it begins along each axis, its sizes, and where it is stored."""

    offsets: Shape
    sizes: Shape
    stored: _FileRange


def read_dcp(path: Path) -> Checkpoint:
    """The checkpoint of a folder.

    Raises:
        CheckpointError: if the metadata are damaged, name what they should not, or do not fit the files next to them.
    """
    metadata = _read_metadata(path)
    files: dict[str, File] = {}
    entries: dict[str, StoredTensor] = {}
    aliases: dict[str, str] = {}
    owners: dict[object, str] = {}
    extras: dict[str, Any] = {}
    problems: list[str] = []
    try:
        storage_infos = _group_storage_infos(metadata)
        descriptions = dict(metadata.state_dict_metadata)
    except (AttributeError, TypeError, ValueError) as error:
        reason = f"is not the metadata of a distributed checkpoint: {summarize_error(error)}"
        raise file_error(path / METADATA_FILE, reason) from None
    for name, description in descriptions.items():
        try:
            if not isinstance(name, str):
                raise ValueError("is not a name")
            if not hasattr(description, "size"):
                (info,) = storage_infos.get(name, {}).values()
                extras[name] = _read_value(_locate_bytes(path, files, info), name)
            else:
                spec, chunks = _read_chunks(path, files, storage_infos.get(name, {}), description)
                owner = owners.setdefault((spec, tuple(chunks)) if chunks else name, name)
                if owner == name:
                    entries[name] = _make_entry(spec, chunks)
                else:
                    aliases[name] = owner
        except (ValueError, AttributeError, TypeError) as error:  # noqa: PERF203  all problems are reported at once
            problems.append(f"{name!r}: {error}")
    if problems:
        raise CheckpointError(f"{str(path)!r} is not a sound distributed checkpoint:{truncated_list(problems)}")
    all_files = (path / METADATA_FILE, *(path / relative for relative in files))
    structure = _read_structure(metadata, path)
    placements = getattr(metadata, PLACEMENTS_ATTRIBUTE, None)
    remarks = {PLACEMENTS_ATTRIBUTE: placements} if isinstance(placements, str) else {}
    return Checkpoint(path, "dcp", entries, aliases, extras, remarks, files=all_files, structure=structure)


def _read_structure(metadata: Any, path: Path) -> Structure | None:
    """The structure from funcnet's own note, or else from the paths of torch's planner, which knows dicts and lists."""
    note = getattr(metadata, NOTE_ATTRIBUTE, None)
    if note is None:
        planned = getattr(metadata, "planner_data", None)
        if not isinstance(planned, dict) or not all(isinstance(keys, tuple) for keys in planned.values()):
            return None
        return structure_of_paths(planned)
    try:
        return decode_structure(json.loads(note))
    except (ValueError, TypeError, RecursionError) as error:
        reason = f"has a note {NOTE_ATTRIBUTE!r} that funcnet did not write: {summarize_error(error)}"
        raise file_error(path / METADATA_FILE, reason) from None


def _read_metadata(path: Path) -> Any:
    """The metadata record of a folder."""
    file = File(path / METADATA_FILE)
    if file.size > _MAX_METADATA:
        raise file_error(file.path, f"has {file.size:,} bytes, which no metadata have")
    try:
        return _MetadataUnpickler(io.BytesIO(file.read(0, file.size))).load()
    except Exception as error:  # the unpickler raises anything, depending on the bytes
        reason = f"is not the metadata of a distributed checkpoint: {summarize_error(error)}"
        raise file_error(file.path, reason) from None


def _group_storage_infos(metadata: Any) -> dict[str, dict[Shape | None, Any]]:
    """For each name: offsets of a chunk in the tensor (None for a value) -> the record of where it is stored."""
    infos_by_name: dict[str, dict[Shape | None, Any]] = {}
    for index, info in metadata.storage_data.items():
        offsets = getattr(index, "offset", None)
        infos_by_name.setdefault(index.fqn, {})[None if offsets is None else tuple(offsets)] = info
    return infos_by_name


def _locate_bytes(path: Path, files: dict[str, File], info: Any) -> _FileRange:
    """The place that a record of the metadata names, checked; its file is added to ``files``."""
    relative = info.relative_path
    if not isinstance(relative, str) or not is_plain_file_name(relative):
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
    return _FileRange(file, offset, length)


def _read_value(stored: _FileRange, name: str) -> Any:
    """A value that is not a tensor."""
    tensors, values, _ = flatten_checkpoint({name: load_archive(*stored).saved})
    if tensors:
        raise ValueError("is a value that holds tensors")
    return values[name] if list(values) == [name] else values


def _read_chunks(
    path: Path, files: dict[str, File], infos: dict[Shape | None, Any], description: Any
) -> tuple[Spec, list[_Chunk]]:
    """Shape and dtype of a tensor, and its chunks, which are checked to cover it."""
    dtype = description.properties.state[0]
    if dtype not in DTYPES.values():
        raise ValueError(f"has the dtype {dtype}, which is none of {', '.join(DTYPES)}")
    spec = Spec(check_shape(tuple(description.size), dtype.itemsize), dtype)
    chunks: list[_Chunk] = []
    for chunk in description.chunks:
        offsets = check_shape(tuple(chunk.offsets))
        if offsets not in infos:
            raise ValueError(f"has no stored chunk at {offsets}")
        chunks.append(_Chunk(offsets, check_shape(tuple(chunk.sizes)), _locate_bytes(path, files, infos[offsets])))
    _check_cover(spec, chunks)
    if spec.nbytes > sum(chunk.stored.length for chunk in chunks):
        raise ValueError(f"has fewer bytes than {dtype} of shape {list(spec.shape)} takes")
    return spec, chunks


def _make_entry(spec: Spec, chunks: list[_Chunk]) -> StoredTensor:
    def read_box(offsets: Shape, sizes: Shape) -> Tensor:
        tensor = torch.empty(sizes, dtype=spec.dtype)
        for chunk in chunks:
            begins = [max(start, offset) for start, offset in zip(chunk.offsets, offsets, strict=True)]
            ends = [
                min(start + size, offset + length)
                for start, size, offset, length in zip(chunk.offsets, chunk.sizes, offsets, sizes, strict=True)
            ]
            if all(begin < end for begin, end in zip(begins, ends, strict=True)):
                tensor[_slices(begins, ends, offsets)] = _read_chunk(chunk, spec.dtype)[
                    _slices(begins, ends, chunk.offsets)
                ]
        return tensor

    def read_whole() -> Tensor:
        return _read_chunk(chunks[0], spec.dtype) if len(chunks) == 1 else read_box((0,) * len(spec.shape), spec.shape)

    return StoredTensor(spec, reader=read_whole, box_reader=read_box)


def _slices(begins: list[int], ends: list[int], offsets: Shape) -> tuple[slice, ...]:
    """The places from begin to end along each axis, in a box that begins at the offsets."""
    return tuple(slice(begin - at, end - at) for begin, end, at in zip(begins, ends, offsets, strict=True))


def _read_chunk(chunk: _Chunk, dtype: torch.dtype) -> Tensor:
    """The tensor in one chunk, checked against its description."""
    file, offset, length = chunk.stored
    archive = load_archive(file, offset, length)
    tensor = archive.saved
    if not isinstance(tensor, PickledTensor) or tensor.shape != chunk.sizes or tensor.dtype is not dtype:
        raise file_error(file.path, f"holds another tensor at byte {offset} than the metadata say")
    return make_entries(file, {"chunk": tensor}, archive.locate).entries["chunk"].read()


def _check_cover(spec: Spec, chunks: list[_Chunk]) -> None:
    """Refuse chunks that overlap, leave holes or reach out of the tensor."""
    elements = 0
    for offsets, sizes, _ in chunks:
        if len(offsets) != len(spec.shape) or len(sizes) != len(spec.shape):
            raise ValueError("has chunks with another number of axes")
        if any(start + size > full for start, size, full in zip(offsets, sizes, spec.shape, strict=True)):
            raise ValueError(f"has a chunk at {offsets} that reaches out of shape {list(spec.shape)}")
        elements += math.prod(sizes)
    if elements != math.prod(spec.shape):
        raise ValueError("has chunks that overlap or leave holes")
    boxes = sorted((chunk.offsets, chunk.sizes) for chunk in chunks if 0 not in chunk.sizes)
    for number, (start, size) in enumerate(boxes):
        for next_start, next_size in boxes[number + 1 :]:
            if next_start and next_start[0] >= start[0] + size[0]:
                break
            if all(a < b + m and b < a + n for a, n, b, m in zip(start, size, next_start, next_size, strict=True)):
                raise ValueError(f"has chunks at {start} and {next_start} that overlap")


def write_dcp(path: Path, content: Content, list_old_files: Callable[[], list[str]]) -> None:
    """Write a folder that ``torch.distributed.checkpoint`` loads, one tensor in memory at a time.

    A tied tensor is there under each of its names, and all of them say that it is stored at one place: so it is on disk
    once, other tools find it under every name, and reading the folder here gives the tie back.
    """
    check_writable(content.extras)
    with replace_folder(path, METADATA_FILE, list_old_files) as reserve:
        target, data_name = reserve("__0_0.distcp")
        stored = {piece.name: piece for piece in write_piece_file(target, data_name, _iter_pieces(content))}
        ties = [stored[owner]._replace(name=alias) for alias, owner in content.aliases.items()]
        pieces = {piece.name: piece for piece in [*stored.values(), *ties]}
        specs = {name: content.specs[content.aliases.get(name, name)] for name in pieces if name not in content.extras}
        ordered = [pieces[name] for name in content.names]
        metadata = encode_dcp_metadata(specs, ordered, content.structure, content.encode_structure())
        reserve(METADATA_FILE)[0].write_bytes(metadata)


def _iter_pieces(content: Content) -> Iterator[tuple[str, Shape | None, Any]]:
    for name, spec in content.specs.items():
        yield name, (0,) * len(spec.shape), _assemble_tensor(spec, content, name)
    for name, value in content.extras.items():
        yield name, None, value


def _assemble_tensor(spec: Spec, content: Content, name: str) -> Tensor:
    """A tensor of the content, in memory."""
    tensor = torch.empty(spec.shape, dtype=spec.dtype)
    memory, done = view_as_bytes(tensor), 0
    for chunk in content.chunks(name):
        memory[done : done + len(chunk)] = chunk
        done += len(chunk)
    return tensor
