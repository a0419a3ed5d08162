"""Trees, and whatever else gives bytes, to files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from funcnet._typing import TreeLike
from funcnet.checkpoint._atomic import replace_file
from funcnet.checkpoint._checkpoint import Checkpoint, Spec, unwritable_names
from funcnet.checkpoint._content import Content
from funcnet.checkpoint._dcp import METADATA, write_dcp
from funcnet.checkpoint._dtypes import DTYPES
from funcnet.checkpoint._errors import CheckpointError, file_error, truncated_list
from funcnet.checkpoint._files import iter_chunks, view_as_bytes
from funcnet.checkpoint._flat import flatten_all
from funcnet.checkpoint._load import SUFFIXES, find_entry, load
from funcnet.checkpoint._nodes import SourceNode
from funcnet.checkpoint._npz import write_npz
from funcnet.checkpoint._pickle import write_pickle
from funcnet.checkpoint._safetensors import write_safetensors
from funcnet.checkpoint._sharded import INDEX_SUFFIX, shard_bytes, weight_map, write_sharded
from funcnet.checkpoint._stream import NodeReader
from funcnet.tree import flatten
from funcnet.tree.internals import merge_params_and_buffers

_WRITERS = {"safetensors": write_safetensors, "pt": write_pickle, "npz": write_npz}
_IN_FOLDERS = {"safetensors": ("model", ".safetensors"), "pt": ("pytorch_model", ".bin")}


def save(
    path: str | os.PathLike[str],
    tree: TreeLike | tuple[TreeLike, TreeLike],
    *,
    aliases: Mapping[str, str] | None = None,
    shard_size: int | str | None = None,
    format: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a tree of tensors. The file is whole and on disk when this returns, and the old one until then.

    Names are the joined paths. A tensor that is there under several names (the same memory, seen the same way) is
    stored once, under the first of them; the others are ties and come back as such.

    Args:
        path: a file whose suffix says the format (.safetensors, .pt, .pth, .bin, .ckpt, .npz), or a folder.
        tree: nested dicts of tensors, a ``state_dict``, or the pair of params and buffers of a net, which is written
            as its ``state_dict``: ``funcnet.from_state_dict(net, load(path))`` gives it back. What is not a tensor, as
            an epoch, is kept as a value. A ``Checkpoint`` is written tensor by tensor, with its ties and all.
        aliases: further ties, as ``net.aliases`` has them: names that are not in the tree -> names that are.
        shard_size: bytes of one file of a folder, as ``"2GB"``; without it a folder gets one file.
        format: "safetensors", "pt", "npz" or "dcp" (a folder of torch.distributed.checkpoint), where the suffix does
            not say it; a folder gets "safetensors" unless told.
        metadata: remarks for formats that have a place for them.

    Raises:
        CheckpointError: if the format has no place for something in the tree; lists every path.

    >>> import tempfile
    >>> tree = {"embed": {"weight": torch.ones(4, 2)}}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(f"{folder}/model.safetensors", tree, aliases={"head.weight": "embed.weight"})
    ...     ckpt = load(f"{folder}/model.safetensors")
    >>> list(ckpt), ckpt.aliases
    (['embed.weight', 'head.weight'], {'head.weight': 'embed.weight'})
    """
    if isinstance(tree, tuple) and len(tree) == 2 and all(isinstance(half, Mapping) for half in tree):
        tree = flatten(merge_params_and_buffers(*tree))
    content, wrong = (_of_checkpoint(tree), []) if isinstance(tree, Checkpoint) else _of_tree(tree)
    ties = {alias: content.aliases.get(owner, owner) for alias, owner in (aliases or {}).items()}
    wrong += [
        f"{alias!r} is in the tree itself" for alias in ties if alias in content.specs or alias in content.aliases
    ]
    wrong += [
        f"{owner!r}, which {alias!r} is tied to, is not in the tree"
        for alias, owner in ties.items()
        if owner not in content.specs
    ]
    if wrong:
        raise CheckpointError(f"cannot save to {str(path)!r}:{truncated_list(wrong)}")
    content = replace(content, aliases={**content.aliases, **ties}, metadata={**content.metadata, **(metadata or {})})
    write(Path(path), content, shard_size=shard_size, format=format)


def _of_checkpoint(ckpt: Checkpoint) -> Content:
    stream = NodeReader(ckpt.entries)

    def chunks(name: str) -> Iterator[memoryview]:
        node = SourceNode(ckpt.entries[name].spec, name)
        stream.forget(node)
        yield from stream.bytes(node)

    return Content(ckpt.specs, chunks, ckpt.aliases, ckpt.extras, ckpt.metadata)


def _of_tree(tree: TreeLike | tuple[TreeLike, TreeLike]) -> tuple[Content, list[str]]:
    """What to write, and what of it cannot be written."""
    tensors, extras = flatten_all(tree)
    owners, aliases = _owners(tensors)

    def chunks(name: str) -> Iterator[memoryview]:
        plain = owners[name].detach().resolve_conj().resolve_neg().cpu().contiguous()
        yield from iter_chunks(view_as_bytes(plain))

    specs = {name: Spec(tuple(tensor.shape), tensor.dtype) for name, tensor in owners.items()}
    wrong = [f"{name!r}: {why}" for name, tensor in owners.items() if (why := _unfit(tensor))]
    return Content(specs, chunks, aliases, extras), wrong


def _owners(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    owners: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[Any, str] = {}
    for name, tensor in tensors.items():
        view: Any = id(tensor)
        if tensor.layout is torch.strided and tensor.numel() and not tensor.is_meta:
            flags = (tensor.dtype, tensor.is_conj(), tensor.is_neg())
            view = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), *flags)
        if view in first:
            aliases[name] = first[view]
        else:
            first[view] = name
            owners[name] = tensor
    return owners, aliases


def _unfit(tensor: Tensor) -> str | None:
    if tensor.is_meta:
        return "is on the meta device and has no data"
    if tensor.layout is not torch.strided or tensor.is_nested or tensor.is_quantized:
        return f"is {tensor.layout}, nested or quantized: only plain dense tensors are saved"
    if tensor.dtype not in DTYPES.values():
        return f"has the dtype {tensor.dtype}, which is none of {', '.join(DTYPES)}"
    return None


def write(path: Path, content: Content, *, shard_size: int | str | None = None, format: str | None = None) -> None:
    """Write any content to a file or folder, whole or not at all.

    Raises:
        CheckpointError: if path and format do not go together, or the format has no place for something.
    """
    named, in_folder = destination(path, shard_size, format)
    wrong = unwritable_names([*content.specs, *content.aliases, *content.extras])
    if wrong:
        raise CheckpointError(f"these names are no text:{truncated_list(wrong)}")
    twice = sorted(set(content.extras) & {*content.specs, *content.aliases})
    if twice:
        raise CheckpointError(
            f"these names stand for a tensor and for a value; rename one of each:{truncated_list(twice)}"
        )
    if not in_folder:
        _check_no_shard(path)
        with replace_file(path) as out:
            _WRITERS[named](out, content)
        return
    if named == "dcp":
        write_dcp(path, content, _old_files(path, [METADATA]))
        return
    stem, suffix = _IN_FOLDERS[named]
    entries = [f"{stem}{suffix}", f"{stem}{suffix}.index.json"]
    size = None if shard_size is None else shard_bytes(shard_size)
    write_sharded(path, content, size, (stem, suffix), _WRITERS[named], _old_files(path, entries))


def destination(path: Path, shard_size: int | str | None, format: str | None) -> tuple[str, bool]:
    """The format that will be written, and whether it is a folder.

    Raises:
        CheckpointError: if path, format and shard size do not go together.
    """
    if format not in (None, "dcp", *_WRITERS):
        raise CheckpointError(f"{format!r} is not a format. There are: dcp, {', '.join(_WRITERS)}.")
    if shard_size is not None:
        try:
            shard_bytes(shard_size)
        except ValueError as error:
            raise CheckpointError(str(error)) from None
    if "\0" in str(path):
        raise file_error(path, "is no path: it has a zero in it")
    suffix = SUFFIXES.get(path.suffix)
    in_folder = path.is_dir() or suffix is None
    if not in_folder:
        if format not in (None, suffix):
            raise file_error(path, f"is to be {format}, and its suffix says {suffix}", "Change one of them.")
        if shard_size is not None:
            raise file_error(
                path, "is one file, and shards need a folder", "Give a folder, or leave the shard size out."
            )
        return str(suffix), False
    if path.exists() and not path.is_dir():
        raise file_error(path, "is a file whose suffix says no format", "Use .safetensors, .pt, .npz, or a folder.")
    if path.suffix in _OF_FILES and not path.exists():  # a folder may be called model-1.5, but hardly model.h5
        raise file_error(
            path, f"is to be a {path.suffix} file, which funcnet does not write", "Use .safetensors, .pt or .npz."
        )
    if format == "npz" or (format == "dcp" and shard_size is not None):
        raise file_error(path, f"is a folder, and {format} is not written in shards", "Leave the shard size out.")
    return format or "safetensors", True


_OF_FILES = {".gguf", ".h5", ".hdf5", ".json", ".msgpack", ".npy", ".onnx", ".pickle", ".pkl", ".tar", ".zip"}


def _check_no_shard(path: Path) -> None:
    """Refuse to write over one shard of several, whose index would then be wrong.

    Raises:
        CheckpointError: if an index beside the file lists it.
    """
    if not path.exists():
        return
    for index in sorted(path.parent.glob(f"*{INDEX_SUFFIX}")):
        listed: set[str] = set()
        with contextlib.suppress(CheckpointError, OSError):  # an index that is damaged is not damaged by this
            listed = set(weight_map(index).values())
        if path.name in listed:
            raise file_error(path, f"is a shard of {index.name!r}, which would be wrong", "Write to another name.")


def check_text_destination(path: Path) -> None:
    """Refuse to write a text over a checkpoint, or where one would be looked for.

    Raises:
        CheckpointError: if the name is one of a checkpoint's.
    """
    if path.suffix in (*SUFFIXES, ".distcp") or path.name == METADATA or path.name.endswith(INDEX_SUFFIX):
        raise file_error(path, "has the name of a checkpoint, and a text is to be written", "Use .json or .toml.")


def _old_files(path: Path, entries: list[str]) -> list[str]:
    """The files of the checkpoint in a folder, which is to be replaced by one with one of these entries."""
    if not path.is_dir():
        return []
    held = [name for name in os.listdir(path) if Path(name).suffix in SUFFIXES or name == METADATA]
    held += [name for name in os.listdir(path) if name.endswith(".index.json")]
    if not [name for name in held if not name.startswith(".") or name == METADATA]:
        return []
    entry = find_entry(path)
    if entry not in entries:
        raise file_error(
            path, f"holds another checkpoint, {entry!r}", "Write to a folder of its own, or remove that one."
        )
    try:
        return [file.name for file in load(path).files]
    except CheckpointError:
        return [entry]  # it is damaged, and is replaced as far as it is known
