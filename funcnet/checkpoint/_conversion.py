"""Converts a checkpoint into a new one, tensor by tensor."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from funcnet._typing import Selector
from funcnet.checkpoint._certificate import Certificate, ConversionSide, TensorDigests, compute_digests
from funcnet.checkpoint._checkpoint import Checkpoint
from funcnet.checkpoint._content import Content
from funcnet.checkpoint._convert_options import ConvertOptions
from funcnet.checkpoint._errors import CheckpointError, file_error
from funcnet.checkpoint._load import load, select_part
from funcnet.checkpoint._node_reader import NodeReader
from funcnet.checkpoint._plan import Plan, cast_rules, plan
from funcnet.checkpoint._save import check_text_destination, resolve_destination, write_content
from funcnet.checkpoint.rules import Rule
from funcnet.checkpoint.rules import inverse as inverse_of
from funcnet.checkpoint.rules._toml import read_toml

_Path: TypeAlias = "str | os.PathLike[str]"
_Rules: TypeAlias = "Sequence[Rule] | str | os.PathLike[str]"


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
        shard_size, format: as those of :func:`funcnet.checkpoint.save`.
        certificate: where to write the certificate as JSON.
        progress: called with the bytes done and the bytes to do.

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
    options = ConvertOptions(inverse, part, select, dtype, lossy, shard_size, format)
    return run_conversion(src, dst, rules, options, certificate, progress)


def plan_conversion(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    rules: Sequence[Rule] | str | os.PathLike[str] = (),
    **options: Any,
) -> tuple[Checkpoint, Plan]:
    """What :func:`convert` would do: the source, opened, and the proved plan. Nothing is read or written.

    Args:
        src, dst, rules: as those of :func:`convert`.
        options: the keyword arguments of :func:`convert` that say what to convert to what: ``inverse``, ``part``,
            ``select``, ``dtype``, ``lossy``, ``shard_size`` and ``format``.

    Raises:
        As :func:`convert`.
    """
    return prepare_conversion(src, dst, rules, ConvertOptions(**options))


def prepare_conversion(src: _Path, dst: _Path, rules: _Rules, options: ConvertOptions) -> tuple[Checkpoint, Plan]:
    """The source of a conversion, opened, and the proved plan."""
    resolve_destination(Path(dst), options.shard_size, options.format)
    ckpt = select_part(load(src), options.part, options.select)
    steps = read_toml(rules) if isinstance(rules, (str, os.PathLike)) else tuple(rules)
    if options.inverse:
        steps = inverse_of(steps)
    proved = plan(ckpt.specs, steps, ckpt.aliases)
    if options.dtype is not None:
        steps += tuple(cast_rules(proved.specs, options.dtype, options.lossy))
        proved = plan(ckpt.specs, steps, ckpt.aliases)
    return ckpt, proved


def run_conversion(
    src: _Path,
    dst: _Path,
    rules: _Rules,
    options: ConvertOptions,
    certificate: _Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Certificate:
    """:func:`convert`, with its options as a record."""
    ckpt, proved = prepare_conversion(src, dst, rules, options)
    if certificate is not None:
        if callable(options.select):
            raise CheckpointError(
                "a certificate cannot record a function that selects. Give a pattern or a list of them."
            )
        _check_certificate_path(Path(certificate), Path(dst), rules)
    hashing = certificate is not None
    reader = NodeReader(ckpt.entries, hashing, proved.largest_group)
    for claim in proved.claims:
        reader.check_claim(claim)
    target_digests: dict[str, str] = {}
    total, done = proved.target_bytes, 0

    def chunks(name: str) -> Iterator[memoryview]:
        nonlocal done
        node = proved.targets[name]
        reader.release_sources(except_for=node)
        for piece in reader.iter_bytes_and_hash(node, target_digests, name):
            done += len(piece)
            yield piece
            if progress is not None:
                progress(done, total)

    @functools.cache
    def digests() -> TensorDigests:
        return TensorDigests(reader.source_digests(), target_digests) if hashing else compute_digests(ckpt, proved)

    has_names_of_source = {*proved.specs, *proved.aliases} == {*ckpt}
    structure = ckpt.structure if has_names_of_source else None
    content = Content(proved.specs, chunks, proved.aliases, ckpt.extras, ckpt.metadata, structure)
    write_content(Path(dst), content, shard_size=options.shard_size, format=options.format)
    target_format, _ = resolve_destination(Path(dst), options.shard_size, options.format)
    record = Certificate(
        plan=proved,
        source=ConversionSide(os.path.abspath(src), ckpt.format, ckpt.specs, ckpt.aliases),
        target=ConversionSide(os.path.abspath(dst), target_format, proved.specs, proved.aliases),
        hashes=digests,
        options=replace(options, select=None) if callable(options.select) else options,
    )
    if certificate is not None:
        record.save(certificate)
    return record


def _check_certificate_path(certificate: Path, dst: Path, rules: object) -> None:
    """Refuse, before anything is written, a path for the certificate that is in use or cannot be written to."""
    check_text_destination(certificate)
    used_paths = [dst, *([Path(rules)] if isinstance(rules, (str, os.PathLike)) else [])]
    if os.path.realpath(certificate) in map(os.path.realpath, used_paths):
        raise file_error(certificate, "is to be the certificate, and is another file of this conversion", "Use .json.")
    if certificate.is_dir():
        raise file_error(certificate, "is a folder, and the certificate is a file")
    if not certificate.parent.is_dir() and os.path.realpath(certificate.parent) != os.path.realpath(dst):
        raise file_error(certificate, "is to be the certificate, and its folder is not there")
