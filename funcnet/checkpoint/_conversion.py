"""One checkpoint to another, tensor by tensor."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from funcnet._typing import Selector
from funcnet.checkpoint._certificate import Certificate, Digests, Side, compute_digests
from funcnet.checkpoint._checkpoint import Checkpoint
from funcnet.checkpoint._content import Content
from funcnet.checkpoint._errors import CheckpointError, file_error
from funcnet.checkpoint._load import load, select_part
from funcnet.checkpoint._plan import Plan, cast_rules, plan
from funcnet.checkpoint._save import check_text_destination, destination, write
from funcnet.checkpoint._stream import NodeReader
from funcnet.checkpoint.rules import Rule
from funcnet.checkpoint.rules import inverse as inverse_of
from funcnet.checkpoint.rules._toml import read_toml


def plan_conversion(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    rules: Sequence[Rule] | str | os.PathLike[str] = (),
    *,
    inverse: bool = False,
    part: str | None = None,
    select: Selector | None = None,
    dtype: str | None = None,
    lossy: bool = False,
    shard_size: int | str | None = None,
    format: str | None = None,
) -> tuple[Checkpoint, Plan]:
    """What :func:`convert` would do: the source, opened, and the proved plan. Nothing is read or written.

    Args, Raises: as of :func:`convert`.
    """
    destination(Path(dst), shard_size, format)
    ckpt = select_part(load(src), part, select)
    steps = read_toml(rules) if isinstance(rules, (str, os.PathLike)) else tuple(rules)
    if inverse:
        steps = inverse_of(steps)
    made = plan(ckpt.specs, steps, ckpt.aliases)
    if dtype is not None:
        steps += tuple(cast_rules(made.specs, dtype, lossy))
        made = plan(ckpt.specs, steps, ckpt.aliases)
    return ckpt, made


def convert(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    rules: Sequence[Rule] | str | os.PathLike[str] = (),
    *,
    inverse: bool = False,
    part: str | None = None,
    select: Selector | None = None,
    dtype: str | None = None,
    lossy: bool = False,
    shard_size: int | str | None = None,
    format: str | None = None,
    certificate: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Certificate:
    """Convert a checkpoint: any format to any, with rules for names and tensors.

    The plan is proved before a tensor is read; then tensors go through one by one. ``dst`` is whole when this returns,
    and untouched until then; it may be ``src``.

    Args:
        src: the checkpoint there is; see :func:`funcnet.checkpoint.load`.
        dst: the file or folder to write; see :func:`funcnet.checkpoint.save`.
        rules: applied one after the other; or the path of a TOML file of rules.
        inverse: go the other way: apply the inverse of each rule, last to first.
        part: the part of a training checkpoint to take, as ``"model"``.
        select: which tensors to take, by their names in the source; see :func:`funcnet.tree.select`.
        dtype: cast floating tensors, after the rules.
        lossy: whether that cast may change values.
        shard_size, format: as of ``save``.
        certificate: where to write the certificate as JSON.
        progress: told the bytes done and to do.

    Returns:
        The certificate: rules, names, shapes, and hashes of every tensor on both sides.

    Raises:
        RuleError: if a rule does not fit or the plan loses something; names the tensors at fault.
        CheckpointError: if the source is damaged, or not what a rule takes it to be.
        OSError: if a file cannot be read or written.

    >>> import tempfile
    >>> import torch
    >>> from funcnet.checkpoint import Rename, Transpose, save
    >>> rules = [Rename("fc.kernel", "fc.weight"), Transpose("fc.weight")]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(f"{folder}/jax.npz", {"fc": {"kernel": torch.ones(3, 2)}})
    ...     done = convert(f"{folder}/jax.npz", f"{folder}/torch.safetensors", rules)
    ...     load(f"{folder}/torch.safetensors").specs
    {'fc.weight': Spec(shape=(2, 3), dtype=torch.float32)}
    """
    ckpt, made = plan_conversion(
        src,
        dst,
        rules,
        inverse=inverse,
        part=part,
        select=select,
        dtype=dtype,
        lossy=lossy,
        shard_size=shard_size,
        format=format,
    )
    if callable(select) and certificate is not None:
        raise CheckpointError("a certificate cannot record a function that selects. Give a pattern or a list of them.")
    if certificate is not None:
        _check_place(Path(certificate), Path(dst), rules)
    hashing = certificate is not None
    stream = NodeReader(ckpt.entries, hashing, made.largest_group)
    for claim in made.claims:
        stream.check(claim)
    digests: dict[str, str] = {}
    total, done = made.target_bytes, 0

    def chunks(name: str) -> Iterator[memoryview]:
        nonlocal done
        node = made.targets[name]
        stream.forget(node)
        for piece in stream.hashed(node, digests, name):
            done += len(piece)
            yield piece
            if progress is not None:
                progress(done, total)

    content = Content(made.specs, chunks, made.aliases, ckpt.extras, ckpt.metadata)
    write(Path(dst), content, shard_size=shard_size, format=format)
    named, _ = destination(Path(dst), shard_size, format)
    record = Certificate(
        plan=made,
        source=Side(os.path.abspath(src), ckpt.format, ckpt.specs, ckpt.aliases),
        target=Side(os.path.abspath(dst), named, made.specs, made.aliases),
        hashes=functools.cache(lambda: Digests(stream.digests(), digests) if hashing else compute_digests(ckpt, made)),
        part=part,
        select=select if not callable(select) else None,
    )
    if certificate is not None:
        record.save(certificate)
    return record


def _check_place(certificate: Path, dst: Path, rules: object) -> None:
    """Refuse a place for a certificate before anything is written: one that is taken, or cannot be written to."""
    check_text_destination(certificate)
    used = [dst, *([Path(rules)] if isinstance(rules, (str, os.PathLike)) else [])]
    if os.path.realpath(certificate) in map(os.path.realpath, used):
        raise file_error(certificate, "is to be the certificate, and is another file of this conversion", "Use .json.")
    if certificate.is_dir():
        raise file_error(certificate, "is a folder, and the certificate is a file")
    if not certificate.parent.is_dir() and os.path.realpath(certificate.parent) != os.path.realpath(dst):
        raise file_error(certificate, "is to be the certificate, and its folder is not there")
