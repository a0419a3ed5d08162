"""Trees of tensors, and any other content, to files and folders."""

from __future__ import annotations

import contextlib
import copy
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from torch import Tensor

from funcnet._errors import TreeError
from funcnet._typing import TreeLike
from funcnet.checkpoint._atomic import replace_file
from funcnet.checkpoint._checkpoint import Checkpoint, Spec, unwritable_names
from funcnet.checkpoint._content import Content
from funcnet.checkpoint._dcp import METADATA_FILE, write_dcp
from funcnet.checkpoint._errors import CheckpointError, file_error, truncated_list
from funcnet.checkpoint._files import iter_chunks, view_as_bytes
from funcnet.checkpoint._flat import flatten_checkpoint
from funcnet.checkpoint._live_tensors import find_ties, split_tensor, to_plain_cpu, why_unwritable
from funcnet.checkpoint._load import FORMAT_OF_SUFFIX, find_main_file, load
from funcnet.checkpoint._node_reader import NodeReader
from funcnet.checkpoint._nodes import SourceNode
from funcnet.checkpoint._npz import write_npz
from funcnet.checkpoint._pickle import write_pickle
from funcnet.checkpoint._safetensors import write_safetensors
from funcnet.checkpoint._sharded import INDEX_SUFFIX, parse_shard_size, read_weight_map, write_sharded
from funcnet.checkpoint._structure import add_name
from funcnet.tree import flatten
from funcnet.tree.internals import merge_params_and_buffers

_WRITERS = {"safetensors": write_safetensors, "pt": write_pickle, "npz": write_npz}
_STEM_AND_SUFFIX_IN_FOLDERS = {"safetensors": ("model", ".safetensors"), "pt": ("pytorch_model", ".bin")}
_SHARD_WRITERS: dict[str, Callable[[BinaryIO, Content], None]] = {
    "safetensors": write_safetensors,
    "pt": functools.partial(write_pickle, is_nested=False),
}
_FOREIGN_SUFFIXES = {".gguf", ".h5", ".hdf5", ".json", ".msgpack", ".npy", ".onnx", ".pickle", ".pkl", ".tar", ".zip"}


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

    ``load(path).tree()`` is what was saved: dicts with their keys in order, lists and tuples, ``ABSENT``, numbers and
    strings. A .pt file holds the tree as ``torch.load`` gives it; formats that know names alone get a note of it.

    Names are the joined paths. A tensor that is there under several names (the same memory, seen the same way) is
    stored once, under the first of them; the others are ties and come back as such. A tensor of a subclass that holds
    other tensors (``__tensor_flatten__``) is written as those, by its name and their own; a DTensor is gathered, for
    which every rank has to call this.

    Args:
        path: a file whose suffix says the format (.safetensors, .pt, .pth, .bin, .ckpt, .npz), or a folder.
        tree: nested dicts of tensors, a ``state_dict``, or the pair of params and buffers of a net, which is written
            as its ``state_dict``: ``funcnet.from_state_dict(net, load(path))`` gives it back. Values that are not
            tensors, as an epoch, are stored too. A ``Checkpoint`` is written tensor by tensor, with its ties and all.
        aliases: further ties, as ``net.aliases`` has them: names that are not in the tree -> names that are.
        shard_size: bytes of one file of a folder, as ``"2GB"``; without it a folder gets one file.
        format: "safetensors", "pt", "npz" or "dcp" (a folder of torch.distributed.checkpoint), where the suffix does
            not say it. A folder gets "safetensors" without it.
        metadata: remarks for formats that have a place for them.

    Raises:
        CheckpointError: if the format has no place for something in the tree; lists every path.

    >>> import tempfile
    >>> import torch
    >>> tree = {"embed": {"weight": torch.ones(4, 2)}}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(f"{folder}/model.safetensors", tree, aliases={"head.weight": "embed.weight"})
    ...     ckpt = load(f"{folder}/model.safetensors")
    >>> list(ckpt), ckpt.aliases
    (['embed.weight', 'head.weight'], {'head.weight': 'embed.weight'})
    """
    if tree is None or isinstance(tree, (Tensor, str, bytes, int, float, complex)):
        raise CheckpointError(f"cannot save to {str(path)!r}: a tree is nested dicts, and this is {tree!r:.60}.")
    if isinstance(tree, tuple) and len(tree) == 2 and all(isinstance(half, Mapping) for half in tree):
        try:
            tree = flatten(merge_params_and_buffers(*tree))
        except TreeError as error:
            advice = 'Name what is saved: {"params": ..., "optimizer": ...}.'
            raise CheckpointError(f"a pair of trees is params and buffers of a net: {error} {advice}") from None
    problems: list[str] = []
    if isinstance(tree, Checkpoint):
        content = _content_of_checkpoint(tree)
    else:
        content, problems = _content_of_tree(tree)
    ties = {alias: content.aliases.get(owner, owner) for alias, owner in (aliases or {}).items()}
    problems += [
        f"{alias!r} is in the tree itself" for alias in ties if alias in content.specs or alias in content.aliases
    ]
    problems += [
        f"{owner!r}, which {alias!r} is tied to, is not in the tree"
        for alias, owner in ties.items()
        if owner not in content.specs
    ]
    if problems:
        raise CheckpointError(f"cannot save to {str(path)!r}:{truncated_list(problems)}")
    content = replace(content, aliases={**content.aliases, **ties}, metadata={**content.metadata, **(metadata or {})})
    if content.structure is not None:
        for alias in ties:
            add_name(content.structure, alias)
    write_content(Path(path), content, shard_size=shard_size, format=format)


def _content_of_checkpoint(ckpt: Checkpoint) -> Content:
    reader = NodeReader(ckpt.entries)

    def chunks(name: str) -> Iterator[memoryview]:
        node = SourceNode(ckpt.entries[name].spec, name)
        reader.release_sources(except_for=node)
        yield from reader.iter_bytes(node)

    structure = copy.deepcopy(ckpt.structure)
    return Content(ckpt.specs, chunks, ckpt.aliases, ckpt.extras, ckpt.metadata, structure, ckpt.forms)


def _content_of_tree(tree: TreeLike | tuple[TreeLike, TreeLike]) -> tuple[Content, list[str]]:
    """The content of a tree, and the tensors of it that cannot be written, each with the reason."""
    tensors, extras, structure = flatten_checkpoint(tree, split_tensor)
    if not tensors and isinstance(tree, (list, tuple, set, frozenset)):
        raise CheckpointError(f"a tree is nested dicts, and this is a {type(tree).__name__} without a tensor in it.")
    reasons = {name: why for name, tensor in tensors.items() if (why := why_unwritable(tensor))}
    owners, aliases = find_ties(tensors)

    def chunks(name: str) -> Iterator[memoryview]:
        yield from iter_chunks(view_as_bytes(to_plain_cpu(owners[name])))

    specs = {
        name: Spec(() if name in reasons else tuple(tensor.shape), tensor.dtype) for name, tensor in owners.items()
    }
    problems = [f"{name!r}: {why}" for name, why in reasons.items()]
    return Content(specs, chunks, aliases, extras, structure=structure), problems


def write_content(
    path: Path, content: Content, *, shard_size: int | str | None = None, format: str | None = None
) -> None:
    """Write any content to a file or folder, whole or not at all.

    Raises:
        CheckpointError: if path and format do not go together, or the format has no place for something.
    """
    resolved_format, in_folder = resolve_destination(path, shard_size, format)
    problems = unwritable_names(content.names)
    if problems:
        raise CheckpointError(f"these names are no text:{truncated_list(problems)}")
    duplicates = sorted(set(content.extras) & {*content.specs, *content.aliases})
    if duplicates:
        raise CheckpointError(
            f"these names stand for a tensor and for a value; rename one of each:{truncated_list(duplicates)}"
        )
    if not in_folder:
        _check_is_no_shard(path)
        with replace_file(path) as out:
            _WRITERS[resolved_format](out, content)
        return
    if resolved_format == "dcp":
        write_dcp(path, content, functools.partial(_list_replaced_files, path, [METADATA_FILE]))
        return
    stem, suffix = _STEM_AND_SUFFIX_IN_FOLDERS[resolved_format]
    main_files = [f"{stem}{suffix}", f"{stem}{suffix}{INDEX_SUFFIX}"]
    list_old_files = functools.partial(_list_replaced_files, path, main_files)
    size = None if shard_size is None else parse_shard_size(shard_size)
    write_sharded(path, content, size, (stem, suffix), _SHARD_WRITERS[resolved_format], list_old_files)


def resolve_destination(path: Path, shard_size: int | str | None, format: str | None) -> tuple[str, bool]:
    """The format that will be written, and whether it is a folder.

    Raises:
        CheckpointError: if path, format and shard size do not go together.
    """
    if format not in (None, "dcp", *_WRITERS):
        raise CheckpointError(f"{format!r} is not a format. There are: dcp, {', '.join(_WRITERS)}.")
    if shard_size is not None:
        try:
            parse_shard_size(shard_size)
        except ValueError as error:
            raise CheckpointError(str(error)) from None
    if "\0" in str(path):
        raise file_error(path, "is no path: it has a zero in it")
    suffix_format = FORMAT_OF_SUFFIX.get(path.suffix)
    if suffix_format is not None and not path.is_dir():
        if format not in (None, suffix_format):
            raise file_error(path, f"is to be {format}, and its suffix says {suffix_format}", "Change one of them.")
        if shard_size is not None:
            advice = "Give a folder, or leave the shard size out."
            raise file_error(path, "is one file, and shards need a folder", advice)
        return suffix_format, False
    if path.exists() and not path.is_dir():
        raise file_error(path, "is a file whose suffix says no format", "Use .safetensors, .pt, .npz, or a folder.")
    if path.suffix in _FOREIGN_SUFFIXES and not path.exists():  # a folder may be called model-1.5, but hardly model.h5
        reason = f"is to be a {path.suffix} file, which funcnet does not write"
        raise file_error(path, reason, "Use .safetensors, .pt or .npz.")
    if format == "npz" or (format == "dcp" and shard_size is not None):
        raise file_error(path, f"is a folder, and {format} is not written in shards", "Leave the shard size out.")
    return format or "safetensors", True


def _check_is_no_shard(path: Path) -> None:
    """Refuse to write over one shard of several, whose index would then be wrong.

    Raises:
        CheckpointError: if an index next to the file lists it.
    """
    if not path.exists():
        return
    for index in sorted(path.parent.glob(f"*{INDEX_SUFFIX}")):
        shards: set[str] = set()
        with contextlib.suppress(
            CheckpointError, OSError
        ):  # an index that is already damaged is not a reason to refuse
            shards = set(read_weight_map(index).values())
        if path.name in shards:
            raise file_error(path, f"is a shard of {index.name!r}, which would be wrong", "Write to another name.")


def check_text_destination(path: Path) -> None:
    """Refuse to write a text to a path that has the name of a checkpoint, or where one would be looked for.

    Raises:
        CheckpointError: if it has.
    """
    if path.suffix in (*FORMAT_OF_SUFFIX, ".distcp") or path.name == METADATA_FILE or path.name.endswith(INDEX_SUFFIX):
        raise file_error(path, "has the name of a checkpoint, and a text is to be written", "Use .json or .toml.")


def _list_replaced_files(path: Path, main_files: list[str]) -> list[str]:
    """The files of the checkpoint in a folder, which will be replaced by a checkpoint with one of these main files.

    Raises:
        CheckpointError: if the folder has a checkpoint with a different main file.
    """
    if not path.is_dir():
        return []
    names = [name for name in os.listdir(path) if Path(name).suffix in FORMAT_OF_SUFFIX or name == METADATA_FILE]
    names += [name for name in os.listdir(path) if name.endswith(INDEX_SUFFIX)]
    if not [name for name in names if not name.startswith(".") or name == METADATA_FILE]:
        return []
    main_file = find_main_file(path)
    if main_file not in main_files:
        advice = "Write to a folder of its own, or remove that one."
        raise file_error(path, f"holds another checkpoint, {main_file!r}", advice)
    try:
        return [file.name for file in load(path).files]
    except CheckpointError:
        return [main_file]  # the old checkpoint is damaged, and nothing more of it is known
