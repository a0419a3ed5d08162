"""Checkpoints that all ranks write together: a new folder each time, which is complete or not to be seen.

The folders are those of torch.distributed.checkpoint, so ``torch.distributed.checkpoint.load`` and
``funcnet.checkpoint.load`` read them. torch itself saves over an old folder piece by piece: if a rank dies meanwhile,
old and new rows are mixed there, and read without a word. Here every file goes into a hidden folder, whose name changes
when all ranks are done.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Placement, Replicate, Shard

from funcnet import checkpoint
from funcnet._errors import bullet_list
from funcnet._typing import Shape, Tree, TreeLike
from funcnet.checkpoint import CheckpointError, Spec
from funcnet.checkpoint.internals import (
    METADATA_FILE,
    PLACEMENTS_ATTRIBUTE,
    Content,
    StoredTensor,
    check_writable,
    encode_dcp_metadata,
    flatten_checkpoint,
    replace_folder,
    sync_files,
    write_piece_file,
)
from funcnet.distributed._placement_plan import Plan, read_plan
from funcnet.distributed._shard import refuse_partial
from funcnet.ranks.internals import TensorPlacement, find_piece, place_local, read_placement
from funcnet.tree import unflatten

_FOLDER_NAME = re.compile(r"step-(\d+)")


class PendingSave:
    """A checkpoint that is being written while the program goes on.

    >>> PendingSave(lambda: Path("step_3")).wait()
    PosixPath('step_3')
    """

    def __init__(self, write: Callable[[], Path]) -> None:
        self._write = write
        self._path: Path | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._path = self._write()
        except BaseException as error:  # which wait raises
            self._error = error

    def wait(self) -> Path:
        """The folder, when it is complete.

        Raises:
            CheckpointError: if it could not be written; says which rank failed and why.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._path is not None
        return self._path


def save(folder: str | os.PathLike[str], tree: TreeLike, *, step: int | None = None) -> Path:
    """Write a tree that lies on many ranks to a new folder in ``folder``; all ranks call it together.

    The new folder is ``folder/step-00000007``. It is there when all of it is on disk, whichever rank is killed at
    whatever moment. No checkpoint is ever written over.

    Args:
        folder: where the checkpoints of a run are; it is made if need be. All ranks see the same file system.
        tree: nested dicts, as ``{"params": params, "optimizer": state, "step": 7}``. DTensors are stored in pieces by
            the ranks that hold them; plain tensors and other values are those of the first rank.
        step: the number of the checkpoint; by default one more than the newest has.

    Returns:
        The new folder.

    Raises:
        CheckpointError: if there is a checkpoint of this number, or a rank could not write; says which, and why.

    >>> import tempfile
    >>> from funcnet.distributed import shard, world_mesh
    >>> with tempfile.TemporaryDirectory() as folder, world_mesh() as mesh:
    ...     path = save(folder, {"params": shard({"w": torch.arange(3)}, mesh), "epoch": 1}, step=7)
    ...     path.name, load(folder), checkpoint.load(path)["params.w"]
    ('step-00000007', {'params': {'w': tensor([0, 1, 2])}, 'epoch': 1}, tensor([0, 1, 2]))
    """
    return _write_together(Path(folder), _Pieces(tree, copies=False), step, None)


def save_async(folder: str | os.PathLike[str], tree: TreeLike, *, step: int | None = None) -> PendingSave:
    """:func:`save` in a thread of its own, of the tree as it is now; ``wait()`` returns the folder when it is there.

    The tensors are copied to memory of the CPU first. Wait before the process group is destroyed.

    >>> import tempfile
    >>> from funcnet.distributed import world_mesh
    >>> with tempfile.TemporaryDirectory() as folder, world_mesh() as mesh:
    ...     pending = save_async(folder, {"w": torch.ones(2)})
    ...     pending.wait().name
    'step-00000000'
    """
    pieces = _Pieces(tree, copies=True)
    group = dist.new_group(backend="gloo") if dist.is_initialized() else None  # the ranks' other talk goes on meanwhile
    return PendingSave(lambda: _write_together(Path(folder), pieces, step, group))


def load(folder: str | os.PathLike[str], mesh: DeviceMesh | None = None, plan: Plan | None = None) -> Tree:
    """What was saved, from the newest complete checkpoint of a folder, on any number of ranks.

    Args:
        folder: where checkpoints are, or one of them: also one that torch.distributed.checkpoint wrote.
        mesh: the ranks; each reads the pieces that it holds then. Without it, tensors are plain and whole.
        plan: how the leaves lie on the mesh, as for :func:`shard`; by default as they lay when they were saved, along
            the same axes. Tensors that were plain stay plain.

    Raises:
        CheckpointError: if there is no complete checkpoint, or it is damaged.

    >>> import tempfile
    >>> from funcnet.distributed import world_mesh
    >>> with tempfile.TemporaryDirectory() as folder, world_mesh() as mesh:
    ...     path = save(folder, {"w": torch.ones(2)}, step=1)
    ...     load(folder), load(path)
    ({'w': tensor([1., 1.])}, {'w': tensor([1., 1.])})
    """
    path = _find_newest(Path(folder))
    ckpt = checkpoint.load(path)
    if mesh is None:
        return ckpt.tree()
    note = ckpt.metadata.get(PLACEMENTS_ATTRIBUTE)
    saved_axes: dict[str, list[int | None]] = {} if note is None else json.loads(note)
    names = [name for name in ckpt.entries if note is None or name in saved_axes]
    if plan is None and note is not None:
        placements = {name: _place_again(mesh, saved_axes[name]) for name in names}
    else:
        empty = {
            name: torch.empty(ckpt.specs[name].shape, dtype=ckpt.specs[name].dtype, device="meta") for name in names
        }
        placements = read_plan(unflatten(empty), mesh, plan)
    entries = {
        name: StoredTensor(entry.spec, reader=_make_piece_reader(entry, mesh, placements.get(name)))
        for name, entry in ckpt.entries.items()
    }
    return replace(ckpt, entries=entries).tree()


def _make_piece_reader(
    entry: StoredTensor, mesh: DeviceMesh, placements: tuple[Placement, ...] | None
) -> Callable[[], Tensor]:
    """A function that reads what this rank holds of a tensor, and places it."""
    device = torch.device(mesh.device_type)
    if placements is None:
        return lambda: entry.read().to(device)

    def read_piece() -> Tensor:
        placement = TensorPlacement(mesh, placements, torch.Size(entry.spec.shape))
        return place_local(entry.read_box(*find_piece(placement)).to(device), placement)

    return read_piece


def _place_again(mesh: DeviceMesh, axes: list[int | None]) -> tuple[Placement, ...]:
    """The placements of a tensor that lay along these axes on the axes of another mesh."""
    if len(axes) == mesh.ndim:
        return tuple(Replicate() if axis is None else Shard(axis) for axis in axes)
    cut = next((axis for axis in reversed(axes) if axis is not None), None)
    return (*(Replicate(),) * (mesh.ndim - 1), Replicate() if cut is None else Shard(cut))


def _find_newest(folder: Path) -> Path:
    if (folder / METADATA_FILE).exists():
        return folder
    numbered = _list_checkpoints(folder)
    if not numbered:
        raise CheckpointError(
            f"{str(folder)!r} holds no complete checkpoint: expected a folder step-NUMBER with {METADATA_FILE!r} in it."
        )
    return numbered[max(numbered)]


def _list_checkpoints(folder: Path) -> dict[int, Path]:
    """The complete checkpoints by number."""
    names = os.listdir(folder) if folder.is_dir() else []
    matches = [(int(match[1]), folder / name) for name in names if (match := _FOLDER_NAME.fullmatch(name))]
    return {number: path for number, path in matches if (path / METADATA_FILE).exists()}


# --- writing ---


class _Pieces:
    """What this rank writes of a tree.

    Args:
        tree: the tree.
        copies: whether the tensors are copied now.
    """

    def __init__(self, tree: TreeLike, copies: bool) -> None:
        tensors, values, structure = flatten_checkpoint(tree)
        refuse_partial(tensors)
        check_writable(values)
        placements = {name: read_placement(tensor) for name, tensor in tensors.items()}
        self.specs = {name: Spec(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
        self.content = Content(self.specs, lambda name: iter(()), extras=values, structure=structure)
        self.axes = {
            name: [one.dim if isinstance(one, Shard) else None for one in placement.placements]
            for name, placement in placements.items()
            if placement is not None
        }
        self._own: list[tuple[str, Shape | None, Any]] = []
        for name, tensor in tensors.items():
            placement = placements[name]
            if placement is not None and _is_first_holder(placement):
                offsets, sizes = find_piece(placement)
                if all(sizes) or not any(offsets):
                    self._own.append((name, offsets, _take_values(tensor.to_local(), copies)))
            elif placement is None and _rank() == 0:
                self._own.append((name, (0,) * tensor.dim(), _take_values(tensor, copies)))
        if _rank() == 0:
            self._own += [(name, None, value) for name, value in values.items()]

    def __iter__(self) -> Iterator[tuple[str, Shape | None, Any]]:
        return ((name, offsets, _to_cpu(value)) for name, offsets, value in self._own)


def _take_values(tensor: Tensor, copies: bool) -> Tensor:
    values = tensor.detach()
    return values.to("cpu", copy=True) if copies else values


def _to_cpu(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    values = value.resolve_conj().resolve_neg().cpu()
    return values.clone(
        memory_format=torch.contiguous_format
    )  # of its own numbers alone, as torch.save writes storages


def _is_first_holder(placement: TensorPlacement) -> bool:
    """Whether this rank is the first of those that hold the same piece."""
    coordinate = placement.mesh.get_coordinate()
    return coordinate is not None and not any(
        position and one.is_replicate() for position, one in zip(coordinate, placement.placements, strict=True)
    )


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _write_together(folder: Path, pieces: _Pieces, step: int | None, group: Any) -> Path:
    """Write the pieces of all ranks to a hidden folder, and give it its name when all are there."""
    with contextlib.ExitStack() as stack:
        target, problem, partial = folder, "", folder
        if _rank() == 0:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                numbered = _list_checkpoints(folder)
                number = max(numbered, default=-1) + 1 if step is None else step
                target = folder / f"step-{number:08d}"
                if target.exists():
                    raise CheckpointError(f"{str(target)!r} is there already, and no checkpoint is written over.")
                reserve = stack.enter_context(replace_folder(target, METADATA_FILE, list))
                partial = reserve(METADATA_FILE)[0].parent
            except (OSError, CheckpointError) as error:
                problem = str(error)
        target, partial, problem = _share((target, partial, problem), group)[0]
        if problem:
            raise CheckpointError(problem)
        file = f"__{_rank()}_0.distcp"
        stored, failure = [], ""
        try:
            stored = write_piece_file(partial / file, file, pieces)
            sync_files([partial / file])
        except Exception:
            failure = traceback.format_exc()
        results = _share((stored, failure), group)
        failures = [f"rank {rank}: {text}" for rank, (_, text) in enumerate(results) if text]
        if failures:
            raise CheckpointError(f"no checkpoint was written, because a rank failed:{bullet_list(failures)}")
        if _rank() == 0:
            try:
                all_pieces = [piece for stored, _ in results for piece in stored]
                note = pieces.content.encode_structure()
                metadata = encode_dcp_metadata(pieces.specs, all_pieces, pieces.content.structure, note, pieces.axes)
                (partial / METADATA_FILE).write_bytes(metadata)
                stack.close()  # which gives the folder its name
            except Exception:
                failure = traceback.format_exc()
    failure = _share(failure, group)[0]  # so that every rank finds the folder
    if failure:
        raise CheckpointError(f"no checkpoint was written, because rank 0 failed: {failure}")
    return target


def _share(value: Any, group: Any) -> list[Any]:
    """What all ranks say, in their order."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value, group=group)
    return values
