"""Opens checkpoints. The format of a file or folder follows from its contents."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from funcnet._typing import Selector
from funcnet.checkpoint._checkpoint import Checkpoint, select_names, unwritable_names
from funcnet.checkpoint._dcp import METADATA_FILE, read_dcp
from funcnet.checkpoint._errors import CheckpointError, file_error, truncated_list
from funcnet.checkpoint._exported_programs import is_exported_program, read_exported_program
from funcnet.checkpoint._files import File
from funcnet.checkpoint._foreign_formats import describe_archive, describe_folder, describe_start
from funcnet.checkpoint._npz import read_npz
from funcnet.checkpoint._pickle import read_archive, read_pickle_stream
from funcnet.checkpoint._pickles._pickle_streams import LEGACY_MAGIC
from funcnet.checkpoint._safetensors import read_safetensors
from funcnet.checkpoint._sharded import INDEX_SUFFIX, read_sharded
from funcnet.checkpoint._zip import read_members

FORMAT_OF_SUFFIX = {
    ".safetensors": "safetensors",
    ".pt": "pt",
    ".pth": "pt",
    ".bin": "pt",
    ".ckpt": "pt",
    ".npz": "npz",
}
_START = 512  # bytes by which the format of a file is told
_ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06")


def load(path: str | os.PathLike[str], part: str | None = None) -> Checkpoint:
    """Open a checkpoint: names, shapes and dtypes are known at once, tensors are read when asked for.

    The format is found by looking at the file: safetensors, ``torch.save`` (.pt, .pth, .bin), numpy's .npz, plain
    pickles, programs of ``torch.jit.save`` and ``torch.export.save`` (their weights), an index of shards, or a folder
    that holds one of them or is a distributed checkpoint. Other formats are told by name. Nothing that a file names
    is run: an object of another class than the plain ones is an :class:`Opaque`, and the tensors in it are read.

    Args:
        path: a file, an index of shards, or a folder.
        part: where in a training checkpoint the tensors are, as ``"model"``; its name is left out of the names.

    Raises:
        CheckpointError: if it is none of these, or damaged; says where.
        OSError: if it cannot be opened.

    >>> import tempfile
    >>> import torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save({"model": {"fc.weight": torch.ones(2, 3)}, "epoch": 7}, f"{folder}/last.pt")
    ...     ckpt = load(f"{folder}/last.pt", part="model")
    >>> ckpt.specs
    {'fc.weight': Spec(shape=(2, 3), dtype=torch.float32)}
    >>> ckpt["fc.weight"].sum()
    tensor(6.)
    """
    ckpt = _read_path(Path(path)).without_misfit()
    problems = unwritable_names([*ckpt, *ckpt.extras])
    if problems:
        raise CheckpointError(f"{str(path)!r} has names that are no text:{truncated_list(problems)}")
    return ckpt if part is None else ckpt.part(part)


def select_part(ckpt: Checkpoint, part: str | None, selector: Selector | None) -> Checkpoint:
    """The tensors of a checkpoint that a command or conversion is about.

    Args:
        ckpt: the whole checkpoint.
        part, selector: as ``part`` and ``select`` of :func:`funcnet.checkpoint.convert`.

    Raises:
        CheckpointError: if the checkpoint has no such part, a pattern matches nothing, or nothing is selected.
    """
    return select_parts([ckpt], part, selector)[0]


def select_parts(checkpoints: Sequence[Checkpoint], part: str | None, selector: Selector | None) -> list[Checkpoint]:
    """As :func:`select_part`, of checkpoints that are compared: it is enough if a name is in one of them."""
    if part is not None:
        checkpoints = [ckpt.part(part) for ckpt in checkpoints]
    if selector is None:
        return list(checkpoints)
    selections = select_names(checkpoints, selector)
    if any(map(len, checkpoints)) and not any(map(len, selections)):
        ckpt = next(ckpt for ckpt in checkpoints if len(ckpt))
        names = truncated_list([repr(name) for name in list(ckpt)[:5]])
        raise file_error(ckpt.path, f"has no tensor that {selector!r} selects", f"Its first names are:{names}")
    return selections


def _read_path(path: Path) -> Checkpoint:
    """The checkpoint in a file or folder."""
    if path.is_dir():
        main_file = find_main_file(path)
        return read_dcp(path) if main_file == METADATA_FILE else _read_path(path / main_file)
    file = File(path)
    if path.name.endswith(INDEX_SUFFIX):
        return read_sharded(path, _read_file)
    return _read_file(file)


def _read_file(file: File) -> Checkpoint:
    """The checkpoint in one file.

    Raises:
        CheckpointError: if its first bytes are those of no format, or it is damaged.
    """
    if not file.size:
        raise file_error(file.path, "is empty", "Copy or save it again.")
    start = file.read(0, min(file.size, _START))
    if start[:4] in _ZIP_MAGICS:
        return _read_zip(file)
    # The length of a header of safetensors may begin as a pickle does, which never reads as so small a number.
    has_header = start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= file.size - 8
    is_pickle = start[:1] == b"\x80" and start[1:2] <= b"\x05" and b"joblib" not in start and not has_header
    if is_pickle:
        return read_pickle_stream(file, is_legacy=start.startswith(LEGACY_MAGIC))
    if start[8:9] == b"{":
        return read_safetensors(file)
    if (foreign := describe_start(file.path, start)) is not None:
        raise file_error(file.path, f"is {foreign.name}, which funcnet does not read", foreign.advice)
    if file.path.suffix == ".safetensors":
        return read_safetensors(file)
    raise file_error(
        file.path,
        f"begins with {start[:16]!r}, as neither safetensors, torch.save nor .npz files do",
        "Save the tensors with torch.save or safetensors.",
    )


def _read_zip(file: File) -> Checkpoint:
    """The checkpoint in an archive, whose members tell the format."""
    members = read_members(file)
    if is_exported_program(members):
        return read_exported_program(file, members)
    if any(name.endswith("/data.pkl") or name == "data.pkl" for name in members):
        return read_archive(file)
    if (foreign := describe_archive(members)) is not None:
        raise file_error(file.path, f"is {foreign.name}, which funcnet does not read", foreign.advice)
    return read_npz(file)


def find_main_file(path: Path) -> str:
    """The name of the file of a folder that makes it a checkpoint: an index, or the only file.

    Raises:
        CheckpointError: if there is none, or there are several.
    """
    names = sorted(os.listdir(path))
    if METADATA_FILE in names:
        return METADATA_FILE
    indexes = [name for name in names if name.endswith(INDEX_SUFFIX)]
    files = [name for name in names if Path(name).suffix in FORMAT_OF_SUFFIX and not name.startswith(".")]
    candidates = indexes or files
    if len(candidates) == 1:
        return candidates[0]
    # transformers takes these names and no others, whatever else is in the folder, as training_args.bin.
    for name in ("model.safetensors", "pytorch_model.bin"):
        matches = [file for file in candidates if file in (name, f"{name}{INDEX_SUFFIX}")]
        if len(matches) == 1:
            return matches[0]
    if not candidates and (foreign := describe_folder(path)) is not None:
        raise file_error(path, f"is {foreign.name}, which funcnet does not read", foreign.advice)
    if not candidates:
        listing = truncated_list(names) if names else " nothing"
        raise file_error(path, "is a folder without a checkpoint", f"It holds:{listing}")
    raise CheckpointError(
        f"{str(path)!r} holds several checkpoints; name the one that is meant:{truncated_list(candidates)}"
    )
