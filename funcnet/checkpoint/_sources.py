"""Several files as one checkpoint: the ranks of tensor parallelism, or a model and its adapter.

Each file has a label, which is the first key of its names: those of a dict, or "0", "1", "2" of a list.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from funcnet.checkpoint._checkpoint import Checkpoint
from funcnet.checkpoint._content import Content
from funcnet.checkpoint._errors import CheckpointError, truncated_list
from funcnet.checkpoint._load import load
from funcnet.checkpoint._structure import find_part, rename_in_objects

PathLike: TypeAlias = "str | os.PathLike[str]"
Paths: TypeAlias = "PathLike | Sequence[PathLike] | Mapping[str, PathLike]"
"""One path, or several: a list, or a dict by label."""


def label_paths(paths: Paths) -> dict[str, Path] | None:
    """The paths by label; None for a single path.

    Raises:
        CheckpointError: if there is none, or a label is no key.

    >>> list(label_paths(["rank0.pt", "rank1.pt"]))
    ['0', '1']
    """
    if isinstance(paths, (str, os.PathLike)):
        return None
    items = paths.items() if isinstance(paths, Mapping) else ((str(index), path) for index, path in enumerate(paths))
    labelled = {label: Path(path) for label, path in items}
    wrong = [repr(label) for label in labelled if not isinstance(label, str) or not label or "." in label]
    if wrong or not labelled:
        what = f"{', '.join(wrong)}: labels of files are words without dots" if wrong else "there is no file"
        raise CheckpointError(f"{what}. Give a path, a list of paths, or a dict of them.")
    return labelled


def describe_paths(paths: Paths) -> str | dict[str, str]:
    """The absolute paths, for a certificate."""
    labelled = label_paths(paths)
    if labelled is None:
        return os.path.abspath(paths)  # type: ignore[arg-type]
    return {label: os.path.abspath(path) for label, path in labelled.items()}


def load_several(paths: Paths, part: str | None = None) -> Checkpoint:
    """The checkpoint at a path, or that of all paths together, with the labels before the names.

    Args:
        paths: the paths.
        part: the part of each file to take.

    Raises:
        CheckpointError: as :func:`funcnet.checkpoint.load` does.
    """
    labelled = label_paths(paths)
    if labelled is None:
        return load(paths, part)  # type: ignore[arg-type]
    checkpoints = {label: load(path, part) for label, path in labelled.items()}
    structures = {
        label: rename_in_objects(ckpt.structure or dict.fromkeys([*ckpt, *ckpt.extras]), f"{label}.{{}}".format)
        for label, ckpt in checkpoints.items()
    }
    first = next(iter(checkpoints.values()))
    return Checkpoint(
        path=first.path,
        format="+".join(dict.fromkeys(ckpt.format for ckpt in checkpoints.values())),
        entries={
            f"{label}.{name}": entry for label, ckpt in checkpoints.items() for name, entry in ckpt.entries.items()
        },
        aliases={
            f"{label}.{alias}": f"{label}.{owner}"
            for label, ckpt in checkpoints.items()
            for alias, owner in ckpt.aliases.items()
        },
        extras={f"{label}.{name}": value for label, ckpt in checkpoints.items() for name, value in ckpt.extras.items()},
        metadata={key: value for ckpt in checkpoints.values() for key, value in ckpt.metadata.items()},
        files=tuple(file for ckpt in checkpoints.values() for file in ckpt.files),
        structure=structures,
        forms={f"{label}.{name}": form for label, ckpt in checkpoints.items() for name, form in ckpt.forms.items()},
    )


def _chunks_of_label(content: Content, label: str) -> Callable[[str], Iterator[memoryview]]:
    return lambda name: content.chunks(f"{label}.{name}")


def split_content(content: Content, paths: Mapping[str, Path]) -> Iterator[tuple[Path, Content]]:
    """The content of each of several files, with the names that its label begins.

    Raises:
        CheckpointError: lists names that begin with no label, and ties between two files.
    """
    label_of = {name: name.partition(".")[0] for name in content.names}
    problems = [repr(name) for name, label in label_of.items() if label not in paths]
    problems += [
        f"{alias!r} is tied to {owner!r}, in another file"
        for alias, owner in content.aliases.items()
        if label_of[alias] != label_of[owner]
    ]
    if problems:
        labels = ", ".join(map(repr, paths))
        raise CheckpointError(
            f"the targets are labelled {labels}, and these names belong to none of them:{truncated_list(problems)}"
        )
    for label, path in paths.items():
        start = len(label) + 1
        yield (
            path,
            replace(
                content,
                specs={name[start:]: spec for name, spec in content.specs.items() if label_of[name] == label},
                chunks=_chunks_of_label(content, label),
                aliases={
                    alias[start:]: owner[start:] for alias, owner in content.aliases.items() if label_of[alias] == label
                },
                extras={name[start:]: value for name, value in content.extras.items() if label_of[name] == label},
                structure=find_part(content.structure, label),
                forms={name[start:]: form for name, form in content.forms.items() if label_of[name] == label},
            ),
        )
