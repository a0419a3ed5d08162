"""Checkpoints in several files of one folder, with an index that says which tensor is in which.

The index is ``model.safetensors.index.json`` or ``pytorch_model.bin.index.json``, as transformers writes them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO

from funcnet.checkpoint._atomic import open_for_writing, replace_folder
from funcnet.checkpoint._checkpoint import Checkpoint, Spec, StoredTensor
from funcnet.checkpoint._content import Content
from funcnet.checkpoint._errors import CheckpointError, file_error, summarize_error, truncated_list
from funcnet.checkpoint._files import File
from funcnet.checkpoint._json_values import dict_of_unique_keys
from funcnet.checkpoint._structure import Structure

INDEX_SUFFIX = ".index.json"
_MAX_INDEX = 256 << 20
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def parse_shard_size(size: int | str) -> int:
    """The size of a shard in bytes.

    Args:
        size: a number, or one with a unit: "500MB", "2GB" (powers of ten), "2GiB" (powers of two).

    Raises:
        ValueError: if it is not a positive size.

    >>> parse_shard_size("2GB"), parse_shard_size("1.5 MiB")
    (2000000000, 1572864)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", str(size).strip().lower())
    if not match or match[2] not in _UNITS:
        raise ValueError(f"{size!r} is not a size. Write bytes, or a number with one of KB, MB, GB, KiB, MiB, GiB.")
    count = int(Decimal(match[1]) * _UNITS[match[2]])
    if count < 1:
        raise ValueError(f"a shard of {size!r} holds nothing.")
    return count


def read_weight_map(path: Path) -> dict[str, str]:
    """The table of an index: name of a tensor -> name of a file in the same folder.

    Raises:
        CheckpointError: if it is not an index, or names anything but files of its own folder. A link is followed only
            within the folder, or into the folder that the index itself is linked from, as a download cache has it.
    """
    if path.stat().st_size > _MAX_INDEX:
        raise file_error(path, f"has {path.stat().st_size:,} bytes, which no index has")
    try:
        index = json.loads(path.read_bytes().decode("utf-8"), object_pairs_hook=dict_of_unique_keys)
        weight_map = index["weight_map"]
        if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
            raise ValueError("weight_map is not an object of strings")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise file_error(path, f"is not an index of shards: {summarize_error(error)}") from None
    allowed_folders = {os.path.realpath(path.parent), os.path.dirname(os.path.realpath(path))}
    problems: list[str] = []
    for shard in sorted(set(weight_map.values())):
        if not is_plain_file_name(shard):
            problems.append(f"{shard!r:.80} is not a name of a file in the folder")
        elif os.path.dirname(os.path.realpath(path.parent / shard)) not in allowed_folders:
            problems.append(f"{shard!r} is a link out of the folder")
        elif not os.path.isfile(path.parent / shard):  # which a circle of links is not either
            problems.append(f"{shard!r} is missing")
    if problems:
        raise CheckpointError(f"the index {str(path)!r} lists files that cannot be read:{truncated_list(problems)}")
    return weight_map


def is_plain_file_name(name: str) -> bool:
    """Whether a text from a file can name a file of one folder, and nothing outside of it.

    >>> is_plain_file_name("model-1.safetensors"), is_plain_file_name("../secret"), is_plain_file_name("a" * 300)
    (True, False, False)
    """
    return name not in ("", ".", "..") and not set(name) & set("/\\\0") and len(os.fsencode(name)) <= 255


def read_sharded(path: Path, read_shard: Callable[[File], Checkpoint]) -> Checkpoint:
    """The checkpoint of an index.

    Args:
        path: the index.
        read_shard: returns the checkpoint in one file.

    Raises:
        CheckpointError: if index and shards do not agree; lists the names.
    """
    shard_of = read_weight_map(path)
    shards = {shard: read_shard(File(path.parent / shard)) for shard in dict.fromkeys(shard_of.values())}
    entries: dict[str, StoredTensor] = {}
    aliases: dict[str, str] = {}
    extras: dict[str, Any] = {}
    metadata: dict[str, str] = {}
    forms: dict[str, object] = {}
    structure: Structure | None = None
    problems = [f"{name!r} is not in {shard}" for name, shard in shard_of.items() if name not in shards[shard]]
    for shard, ckpt in shards.items():
        problems += [
            f"{name!r} is in {shard}, and the index says {shard_of.get(name, 'nothing of it')}"
            for name in ckpt.entries
            if shard_of.get(name) != shard
        ]
        problems += [f"{alias!r} is in two shards" for alias in ckpt.aliases if alias in aliases]
        aliases |= ckpt.aliases
        extras |= ckpt.extras
        metadata |= ckpt.metadata
        forms |= ckpt.forms
        structure = structure or ckpt.structure
    if problems:
        raise CheckpointError(f"the index {str(path)!r} and its shards do not agree:{truncated_list(problems)}")
    for name, shard in shard_of.items():
        if name not in aliases:
            entries[name] = shards[shard].entries[name]
    formats = {ckpt.format for ckpt in shards.values()}
    return Checkpoint(
        path=path,
        format=formats.pop() if len(formats) == 1 else "mixed",
        entries=entries,
        aliases=aliases,
        extras=extras,
        metadata=metadata,
        files=(path, *(path.parent / shard for shard in shards)),
        structure=structure,
        forms=forms,
    )


def divide_into_shards(specs: Mapping[str, Spec], size: int) -> list[list[str]]:
    """Names in order, in groups of at most ``size`` bytes; a larger tensor has a group of its own.

    >>> import torch
    >>> specs = {name: Spec((count,), torch.uint8) for name, count in {"a": 4, "b": 4, "c": 9, "d": 1}.items()}
    >>> divide_into_shards(specs, 8)
    [['a', 'b'], ['c'], ['d']]
    """
    groups: list[list[str]] = [[]]
    group_bytes = 0
    for name, spec in specs.items():
        if groups[-1] and group_bytes + spec.nbytes > size:
            groups.append([])
            group_bytes = 0
        groups[-1].append(name)
        group_bytes += spec.nbytes
    return groups


def write_sharded(
    path: Path,
    content: Content,
    size: int | None,
    names: tuple[str, str],
    write_shard: Callable[[BinaryIO, Content], None],
    list_old_files: Callable[[], list[str]],
) -> None:
    """Write a folder: one file if everything fits into it, else shards and an index.

    Args:
        path: the folder.
        content: what to write.
        size: bytes of a shard; None for one file.
        names: stem and suffix of the files, as ("model", ".safetensors").
        write_shard: writes one file.
        list_old_files: returns the files of the checkpoint in the folder that this one replaces.
    """
    stem, suffix = names
    groups = divide_into_shards(content.specs, size) if size is not None else [list(content.specs)]
    is_single = len(groups) == 1
    main_file = f"{stem}{suffix}" if is_single else f"{stem}{suffix}{INDEX_SUFFIX}"
    with replace_folder(path, main_file, list_old_files) as reserve:
        shard_of: dict[str, str] = {}
        for number, group in enumerate(groups):
            wanted_name = main_file if is_single else f"{stem}-{number + 1:05}-of-{len(groups):05}{suffix}"
            target, name = reserve(wanted_name)
            with open_for_writing(target) as out:
                write_shard(out, content.take_shard(group, is_first=number == 0))
            shard_of |= dict.fromkeys(group, name)
        if not is_single:
            total = sum(spec.nbytes for spec in content.specs.values())
            index = {"metadata": {"total_size": total}, "weight_map": {name: shard_of[name] for name in content.specs}}
            text = json.dumps(index, indent=2, ensure_ascii=False) + "\n"
            reserve(main_file)[0].write_text(text, encoding="utf-8")
