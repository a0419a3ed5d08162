"""What folders of torch.distributed.checkpoint are made of: files of pieces, and the metadata that place them."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from funcnet._torch import dcp_storage_info
from funcnet._typing import Shape
from funcnet.checkpoint._atomic import open_for_writing
from funcnet.checkpoint._checkpoint import Spec
from funcnet.checkpoint._pickles._tensor_pickler import dump_value
from funcnet.checkpoint._structure import Structure, iter_paths
from funcnet.checkpoint._zip import write_member

NOTE_ATTRIBUTE = "funcnet"  # of the record of the metadata, which torch reads without a look at it
PLACEMENTS_ATTRIBUTE = "funcnet_placements"


class StoredPiece(NamedTuple):
    """A box of a tensor, or a value, in a file of the folder.

    Args:
        name: of the tensor or value.
        offsets, sizes: where the box begins along each axis, and its sizes; None for a value.
        file: name of the file.
        begin, length: its bytes there.
    """

    name: str
    offsets: Shape | None
    sizes: Shape | None
    file: str
    begin: int
    length: int


def write_piece_file(path: Path, file: str, pieces: Iterable[tuple[str, Shape | None, Any]]) -> list[StoredPiece]:
    """Write tensors and values one after the other to a new file.

    Args:
        path: where the file is written.
        file: the name that the metadata have for it.
        pieces: for each its name, where it begins in the whole tensor (None for a value), and itself.
    """
    stored = []
    with open_for_writing(path) as out:
        for name, offsets, value in pieces:
            begin = out.tell()
            if isinstance(value, Tensor):
                _write_tensor(value, out)
            else:
                out.write(_archive_value(value))
            sizes = None if offsets is None else tuple(value.shape)
            stored.append(StoredPiece(name, offsets, sizes, file, begin, out.tell() - begin))
    return stored


def _write_tensor(value: Tensor, out: BinaryIO) -> None:
    """Write a tensor as ``torch.save`` does; on a full disk the error says so, as that of every writer does."""
    try:
        torch.save(value, out)
    except RuntimeError as error:  # torch reports the archive that is not finished, and the reason is in the context
        reason: BaseException | None = error
        while reason is not None and not isinstance(reason, OSError):
            reason = reason.__context__
        raise (reason or error) from None


def _archive_value(value: object) -> bytes:
    """A value that is no tensor, as ``torch.save`` writes it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in {"data.pkl": dump_value(value), "byteorder": b"little", "version": b"3\n"}.items():
            write_member(archive, f"archive/{name}", len(data), iter([memoryview(data)]))
    return buffer.getvalue()


def encode_dcp_metadata(
    specs: Mapping[str, Spec],
    pieces: Iterable[StoredPiece],
    structure: Structure | None,
    note: Any,
    placements: Mapping[str, Any] | None = None,
) -> bytes:
    """The bytes of the file that makes a folder a checkpoint.

    Args:
        specs: shapes and dtypes of the whole tensors by name.
        pieces: what is stored; those of one name and of names that are tied may be at one place.
        structure: the containers that the names come from.
        note: the same as funcnet reads it, where the names do not tell it.
        placements: how the tensors lay on the ranks that saved them, by name.
    """
    from torch.distributed.checkpoint.metadata import (
        BytesStorageMetadata,
        ChunkStorageMetadata,
        Metadata,
        MetadataIndex,
        TensorProperties,
        TensorStorageMetadata,
    )

    descriptions: dict[str, Any] = {}
    storage_data: dict[Any, Any] = {}
    infos: dict[tuple[str, int], Any] = {}
    for piece in pieces:
        info = infos.setdefault(
            (piece.file, piece.begin), dcp_storage_info(piece.file, piece.begin, piece.length)
        )  # one record for one place, as ties have it
        if piece.offsets is None or piece.sizes is None:
            descriptions[piece.name] = BytesStorageMetadata()
            storage_data[MetadataIndex(piece.name)] = info
            continue
        spec = specs[piece.name]
        if piece.name not in descriptions:
            size = torch.Size(spec.shape)
            descriptions[piece.name] = TensorStorageMetadata(TensorProperties(spec.dtype), size, [])
        chunks = descriptions[piece.name].chunks
        storage_data[MetadataIndex(piece.name, torch.Size(piece.offsets), len(chunks))] = info
        chunks.append(ChunkStorageMetadata(torch.Size(piece.offsets), torch.Size(piece.sizes)))
    planned = {name: (name,) for name in descriptions} | dict(iter_paths(structure))
    metadata = Metadata(descriptions, planned, storage_data)
    if note is not None:
        setattr(metadata, NOTE_ATTRIBUTE, json.dumps(note))
    if placements:
        setattr(metadata, PLACEMENTS_ATTRIBUTE, json.dumps(dict(placements)))
    return pickle.dumps(metadata)
