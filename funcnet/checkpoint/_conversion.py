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
from funcnet.checkpoint._load import select_part
from funcnet.checkpoint._node_reader import NodeReader
from funcnet.checkpoint._nodes import SourceNode
from funcnet.checkpoint._plan import Plan, cast_rules, plan
from funcnet.checkpoint._restructure import restructure
from funcnet.checkpoint._save import check_text_destination, resolve_destination, write_content
from funcnet.checkpoint._sources import Paths, describe_paths, label_paths, load_several, split_content
from funcnet.checkpoint.rules import Rule
from funcnet.checkpoint.rules import inverse as inverse_of
from funcnet.checkpoint.rules._toml import read_rules

_Rules: TypeAlias = "Sequence[Rule] | str | os.PathLike[str]"


def convert(
    src: Paths,
    dst: Paths,
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
    and untouched until then; it may be ``src``. Of several targets each is.

    Args:
        src: the checkpoint there is; see :func:`funcnet.checkpoint.load`. Or several: a dict of paths, whose keys
            come before the names, or a list, whose indices do, as in ``"1.layers.0.wq.weight"``.
        dst: the file or folder to write; see :func:`funcnet.checkpoint.save`. Or several, each of which gets the names
            that begin with its key or index.
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
    >>> from funcnet.checkpoint import Rename, Transpose, load, save
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
    src: Paths,
    dst: Paths,
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

    >>> import tempfile, torch
    >>> from funcnet import checkpoint
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     checkpoint.save(f"{folder}/old.pt", {"w": torch.ones(2, 3)})
    ...     _, planned = plan_conversion(f"{folder}/old.pt", f"{folder}/new.npz", [checkpoint.Transpose("w")])
    >>> planned.proof.bijection
    True
    """
    return prepare_conversion(src, dst, rules, ConvertOptions(**options))


def prepare_conversion(src: Paths, dst: Paths, rules: _Rules, options: ConvertOptions) -> tuple[Checkpoint, Plan]:
    """The source of a conversion, opened, and the proved plan."""
    for path in (label_paths(dst) or {"": Path(dst)}).values():  # type: ignore[arg-type]
        resolve_destination(path, options.shard_size, options.format)
    ckpt = select_part(load_several(src, options.part), None, options.select)
    steps = read_rules(rules)
    if options.inverse:
        steps = inverse_of(steps)
    proved = plan(ckpt.specs, steps, ckpt.aliases)
    if options.dtype is not None:
        steps += tuple(cast_rules(proved.specs, options.dtype, options.lossy))
        proved = plan(ckpt.specs, steps, ckpt.aliases)
    return ckpt, proved


def run_conversion(
    src: Paths,
    dst: Paths,
    rules: _Rules,
    options: ConvertOptions,
    certificate: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Certificate:
    """:func:`convert`, with its options as a record."""
    ckpt, proved = prepare_conversion(src, dst, rules, options)
    if certificate is not None:
        if callable(options.select):
            raise CheckpointError(
                "a certificate cannot record a function that selects. Give a pattern or a list of them."
            )
        _check_certificate_path(Path(certificate), dst, rules)
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
    extras = ckpt.extras
    for rule in proved.rules:
        extras = rule.convert_values(extras)
    structure = ckpt.structure
    if not has_names_of_source:
        structure = restructure(ckpt.structure, [*proved.specs, *proved.aliases, *extras])
    forms = _forms_that_stay(ckpt, proved)
    content = Content(proved.specs, chunks, proved.aliases, extras, ckpt.metadata, structure, forms)
    labelled = label_paths(dst)
    parts = [(Path(dst), content)] if labelled is None else list(split_content(content, labelled))  # type: ignore[arg-type]
    for path, part in parts:
        write_content(path, part, shard_size=options.shard_size, format=options.format)
    targets = [resolve_destination(path, options.shard_size, options.format) for path, _ in parts]
    formats = [target_format for target_format, _ in targets]
    are_objects_kept = has_names_of_source and all(target == ("pt", False) for target in targets)
    record = Certificate(
        plan=proved,
        source=ConversionSide(describe_paths(src), ckpt.format, ckpt.specs, ckpt.aliases),
        target=ConversionSide(describe_paths(dst), "+".join(dict.fromkeys(formats)), proved.specs, proved.aliases),
        hashes=digests,
        options=replace(options, select=None) if callable(options.select) else options,
        dissolved={} if are_objects_kept else {path: obj.type_name for path, obj in ckpt.objects.items()},
    )
    if certificate is not None:
        record.save(certificate)
    return record


def _forms_that_stay(ckpt: Checkpoint, proved: Plan) -> dict[str, object]:
    """What a .pt file has in place of plain tensors, by the new names of those that are otherwise as they were."""
    forms = {
        name: ckpt.forms[node.name]
        for name, node in proved.targets.items()
        if isinstance(node, SourceNode) and node.name in ckpt.forms
    }
    for alias, owner in proved.aliases.items():
        if isinstance(proved.targets[owner], SourceNode) and alias in ckpt.forms:
            forms[alias] = ckpt.forms[alias]
    return forms


def _check_certificate_path(certificate: Path, dst: Paths, rules: object) -> None:
    """Refuse, before anything is written, a path for the certificate that is in use or cannot be written to."""
    check_text_destination(certificate)
    targets = list((label_paths(dst) or {"": Path(dst)}).values())  # type: ignore[arg-type]
    used_paths = [*targets, *([Path(rules)] if isinstance(rules, (str, os.PathLike)) else [])]
    if os.path.realpath(certificate) in map(os.path.realpath, used_paths):
        raise file_error(certificate, "is to be the certificate, and is another file of this conversion", "Use .json.")
    if certificate.is_dir():
        raise file_error(certificate, "is a folder, and the certificate is a file")
    if not certificate.parent.is_dir() and os.path.realpath(certificate.parent) not in map(os.path.realpath, targets):
        raise file_error(certificate, "is to be the certificate, and its folder is not there")
