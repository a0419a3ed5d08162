"""The weights in the archives of ``torch.export.save`` (.pt2). The program itself is not read.

An archive of today has one member for each tensor, and tables that say which is which; before torch 2.8 it had one file
of torch.save in it.
"""

from __future__ import annotations

import json
from typing import Any

import torch

from funcnet.checkpoint._checkpoint import Checkpoint
from funcnet.checkpoint._errors import file_error, summarize_error
from funcnet.checkpoint._files import File
from funcnet.checkpoint._flat import flatten_checkpoint
from funcnet.checkpoint._pickles._pickled_tensors import PickledStorage, PickledTensor, TensorForm
from funcnet.checkpoint._pickles._stored_views import StoredBytes, make_entries
from funcnet.checkpoint._pickles._torch_archives import load_archive
from funcnet.checkpoint._zip import ZipMember, read_stored

_STATE_DICT = "serialized_state_dict.pt"  # before torch 2.8
_WEIGHTS = "data/weights/"
_CONFIG = "_weights_config.json"
_MAX_CONFIG = 256 << 20
_STRIDED = 7
_DTYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    10: torch.complex64,
    11: torch.complex128,
    12: torch.bool,
    13: torch.bfloat16,
    28: torch.uint16,
    29: torch.float8_e4m3fn,
    30: torch.float8_e5m2,
    31: torch.float8_e4m3fnuz,
    32: torch.float8_e5m2fnuz,
}
"""The numbers of dtypes in the tables. Source: torch/_export/serde/schema.py."""


def is_exported_program(members: dict[str, ZipMember]) -> bool:
    """Whether the members of an archive are those of an exported program."""
    return any(
        name.rpartition("/")[2] == _STATE_DICT or (f"/{_WEIGHTS}" in f"/{name}" and name.endswith(_CONFIG))
        for name in members
    )


def read_exported_program(file: File, members: dict[str, ZipMember]) -> Checkpoint:
    """The parameters and buffers of the program in an archive, by the names of its state_dict.

    Raises:
        CheckpointError: if it is damaged.
    """
    old = [member for name, member in members.items() if name.rpartition("/")[2] == _STATE_DICT]
    if old:
        archive = load_archive(file, old[0].offset, old[0].size)
        found = make_entries(file, flatten_checkpoint(archive.saved).tensors, archive.locate)
        return Checkpoint(file.path, "pt2", found.entries, found.aliases, files=(file.path,), forms=found.forms)
    tensors: dict[str, PickledTensor] = {}
    for name, member in members.items():
        folder, separator, last = name.rpartition(_WEIGHTS)
        if separator and last.endswith(_CONFIG):
            tensors |= _read_table(file, member, f"{folder}{separator}")
    found = make_entries(file, tensors, lambda storage: _locate(file, members, storage))
    return Checkpoint(file.path, "pt2", found.entries, found.aliases, files=(file.path,), forms=found.forms)


def _locate(file: File, members: dict[str, ZipMember], storage: PickledStorage) -> StoredBytes | None:
    member = members.get(storage.key)
    return None if member is None else StoredBytes(file, member.offset, member.size, member.checksum)


def _read_table(file: File, member: ZipMember, folder: str) -> dict[str, PickledTensor]:
    """The tensors of one table by name."""
    try:
        if member.size > _MAX_CONFIG or not member.is_stored:
            raise ValueError(f"a table of {member.size:,} bytes")
        table = json.loads(read_stored(file, member))["config"]
        return {name: _describe(entry, folder) for name, entry in table.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"has a table of weights that torch.export does not write: {summarize_error(error)}"
        raise file_error(file.path, reason) from None


def _describe(entry: Any, folder: str) -> PickledTensor:
    meta = entry["tensor_meta"]
    if entry["use_pickle"] or meta["layout"] != _STRIDED:
        raise ValueError("a weight that is pickled, or no plain dense tensor")
    dtype = _DTYPES[meta["dtype"]]
    shape, stride = (tuple(int(size["as_int"]) for size in meta[key]) for key in ("sizes", "strides"))
    offset = int(meta["storage_offset"]["as_int"])
    extent = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True)) + 1
    count = 0 if 0 in shape else max(0, extent) * dtype.itemsize
    storage = PickledStorage("UntypedStorage", f"{folder}{entry['path_name']}", count)
    form = TensorForm("parameter" if entry["is_param"] else "tensor", bool(meta["requires_grad"]))
    return PickledTensor(storage, offset, shape, stride, dtype, form)
