"""Files of torch (.pt, .pth, .bin, .ckpt) and plain pickles: a pickle, and storages whose elements tensors view.

The pickle is read without running anything it names. Names, shapes and ties come from it, and the place of each storage
from the archive around it; so tensors are read by byte range, as from any other format.

A file holds what was saved as it was. ``ABSENT``, which no other program knows, is left out of the pickle, and noted in
a member of the archive that torch does not read; so are the dicts and lists that the shards of a folder come from.
"""

from __future__ import annotations

import functools
import json
import zipfile
from typing import BinaryIO

from funcnet.checkpoint._checkpoint import Checkpoint
from funcnet.checkpoint._content import Content
from funcnet.checkpoint._errors import CheckpointError, file_error, summarize_error
from funcnet.checkpoint._files import File
from funcnet.checkpoint._flat import FlatCheckpoint, flatten_checkpoint
from funcnet.checkpoint._pickles._pickle_streams import load_stream, locate_in_file
from funcnet.checkpoint._pickles._stored_views import LocateStorage, make_entries
from funcnet.checkpoint._pickles._tensor_pickler import dump_content
from funcnet.checkpoint._pickles._torch_archives import TorchArchive, load_archive
from funcnet.checkpoint._structure import Structure, decode_structure, has_absent, iter_names
from funcnet.checkpoint._zip import ZipMember, read_stored, write_member

_NOTE_MEMBER = "funcnet.json"
_MAX_NOTE = 256 << 20


def read_archive(file: File) -> Checkpoint:
    """The checkpoint in one archive of ``torch.save``, or of ``torch.jit.save``.

    Raises:
        CheckpointError: if the file is damaged, or made to run code.
    """
    archive = load_archive(file)
    flat = _flatten(file, _choose_content(archive))
    if (note := archive.members.get(f"{archive.folder}{_NOTE_MEMBER}")) is not None:
        structure = _read_note(file, note)
        values = {name: value for name, value in flat.values.items() if name in {*iter_names(structure)}}
        flat = FlatCheckpoint(flat.tensors, values, structure)
    if archive.is_program:  # its objects are of classes that the program defines, and no other file can hold them
        flat = flat._replace(structure=None)
    return _make_checkpoint(file, "pt", flat, archive.locate)


def read_pickle_stream(file: File, *, is_legacy: bool) -> Checkpoint:
    """The checkpoint in a file of torch before 1.6, or in a plain pickle.

    Raises:
        CheckpointError: if the file is damaged, or made to run code.
    """
    stream = load_stream(file, is_legacy=is_legacy)
    locate = functools.partial(locate_in_file, file, stream)
    flat = _flatten(file, stream.saved)
    if not is_legacy and not flat.tensors:
        raise file_error(file.path, "is a plain pickle without tensors", "Save a dict of tensors.")
    return _make_checkpoint(file, "pt" if is_legacy else "pickle", flat, locate)


def _choose_content(archive: TorchArchive) -> object:
    """What an archive is about: what was saved; of a program whose weights were made constants, those."""
    if archive.constants and not flatten_checkpoint(archive.saved).tensors:
        return {"constants": archive.constants}
    return archive.saved


def _flatten(file: File, saved: object) -> FlatCheckpoint:
    try:
        return flatten_checkpoint(saved)
    except CheckpointError as error:
        raise CheckpointError(f"{str(file.path)!r} cannot be laid out flat: {error}") from None


def _make_checkpoint(file: File, format: str, flat: FlatCheckpoint, locate: LocateStorage) -> Checkpoint:
    found = make_entries(file, flat.tensors, locate)
    return Checkpoint(
        path=file.path,
        format=format,
        entries=found.entries,
        aliases=found.aliases,
        extras=flat.values,
        files=(file.path,),
        structure=flat.structure,
        forms=found.forms,
    )


def _read_note(file: File, member: ZipMember) -> Structure | None:
    """The structure in a member of the archive, which is there if the pickle alone does not tell it."""
    try:
        if member.size > _MAX_NOTE or not member.is_stored:
            raise ValueError(f"{member.size:,} bytes")
        return decode_structure(json.loads(read_stored(file, member)))
    except (ValueError, TypeError, RecursionError) as error:
        reason = f"has a member {_NOTE_MEMBER!r} that funcnet did not write: {summarize_error(error)}"
        raise file_error(file.path, reason) from None


def write_pickle(out: BinaryIO, content: Content, *, is_nested: bool = True) -> None:
    """Write one file as ``torch.save`` does, in which tied names are one tensor.

    Args:
        out: the file.
        content: what to write.
        is_nested: whether it is the tree that was saved, and not a flat dict of names, as in folders.

    Raises:
        CheckpointError: if a value is of a class that funcnet does not write; lists every path.
    """
    pickled = dump_content(content, is_nested=is_nested)
    note = content.encode_structure() if not is_nested or has_absent(content.structure) else None
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        members = {"data.pkl": pickled, "byteorder": b"little", "version": b"3\n"}
        if note is not None:
            members[_NOTE_MEMBER] = json.dumps(note).encode()
        for name, data in members.items():
            write_member(archive, f"archive/{name}", len(data), iter([memoryview(data)]))
        for number, (name, spec) in enumerate(content.specs.items()):
            write_member(archive, f"archive/data/{number}", spec.nbytes, content.chunks(name))
