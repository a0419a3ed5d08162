"""Records of conversions that anybody can check later, without trust in whoever converted."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from funcnet._typing import Selector
from funcnet.checkpoint._atomic import replace_file
from funcnet.checkpoint._checkpoint import Checkpoint, Spec
from funcnet.checkpoint._convert_options import ConvertOptions
from funcnet.checkpoint._dtypes import dtype_from_name, dtype_name
from funcnet.checkpoint._errors import CheckpointError, RuleError, file_error, summarize_error
from funcnet.checkpoint._files import File
from funcnet.checkpoint._json_values import dict_of_unique_keys
from funcnet.checkpoint._load import select_part
from funcnet.checkpoint._node_reader import NodeReader
from funcnet.checkpoint._plan import Plan, plan
from funcnet.checkpoint._proof import METHOD
from funcnet.checkpoint._sources import Paths, load_several
from funcnet.checkpoint._stored_shapes import check_shape
from funcnet.checkpoint.rules import to_plain
from funcnet.checkpoint.rules._toml import from_plain
from funcnet.tree import select

VERSION = 1
_MAX_BYTES = 512 << 20


@dataclass(frozen=True)
class ConversionSide:
    """The source or the target of a conversion: where it is, and every tensor by name with shape and dtype.

    Several files have their paths by label.
    """

    path: str | dict[str, str]
    format: str
    specs: dict[str, Spec]
    aliases: dict[str, str]


@dataclass(frozen=True)
class TensorDigests:
    """SHA-256 of the bytes of every tensor by name, row-major and little-endian, on both sides."""

    source: dict[str, str]
    target: dict[str, str]


@dataclass(frozen=True, eq=False)
class Certificate:
    """The record of a conversion. Made by :func:`funcnet.checkpoint.convert`, checked by :func:`verify`.

    Attributes:
        plan: the rules and their result, proved.
        source, target: both sides.
        hashes: returns the hashes. They are known if ``convert`` was asked for a certificate. If not, they are computed
            now, from the files that were read, which are still open, though other files may have taken their names.
        options: the options of the conversion. A certificate read from a file has those that were recorded: ``part``
            and ``select``. The others show in the rules and in the target.
        recorded_proof: the proof in the words of the file this was read from; ``to_json`` words it anew.
        dissolved: objects of the source, by path, of which the target has the tensors alone: path -> class.

    >>> import tempfile, torch
    >>> from funcnet import checkpoint
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     checkpoint.save(f"{folder}/old.pt", {"w": torch.ones(2, 3)})
    ...     rules = [checkpoint.Rename("w", "weight")]
    ...     done = checkpoint.convert(f"{folder}/old.pt", f"{folder}/new.npz", rules)
    >>> isinstance(done, Certificate), done.plan.proof.bijection
    (True, True)
    """

    plan: Plan
    source: ConversionSide
    target: ConversionSide
    hashes: Callable[[], TensorDigests]
    options: ConvertOptions = field(default_factory=ConvertOptions)
    recorded_proof: object = None
    dissolved: dict[str, str] = field(default_factory=dict)

    @property
    def part(self) -> str | None:
        """The part of the source that was converted."""
        return self.options.part

    @property
    def select(self) -> Selector | None:
        """The selector of the tensors that were converted."""
        return self.options.select

    def to_json(self) -> dict[str, Any]:
        """The certificate as plain values."""
        digests = self.hashes()
        return {
            "certificate": VERSION,
            "rules": to_plain(self.plan.rules),
            "proof": _describe_proof(self.plan),
            "part": self.part,
            "select": self.select,
            "source": _side_to_json(self.source, digests.source),
            "target": _side_to_json(self.target, digests.target),
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON, whole or not at all."""
        with replace_file(Path(path)) as out:
            out.write((json.dumps(self.to_json(), indent=1) + "\n").encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Certificate:
        """Read one, and prove its plan again.

        Raises:
            CheckpointError: if it is not a certificate.
            RuleError: if its rules are not a bijection of the tensors it lists.
        """
        try:
            file = File(path)
            if file.size > _MAX_BYTES:
                raise ValueError(f"{file.size:,} bytes")
            values = json.loads(file.read(0, file.size).decode(), object_pairs_hook=dict_of_unique_keys)
            if values["certificate"] != VERSION or values["certificate"] is True:
                raise ValueError(f"version {values['certificate']}, and this is for version {VERSION}")
            source, source_digests = _side_from_json(values["source"])
            target, target_digests = _side_from_json(values["target"])
            rules = from_plain(values["rules"])
            options, recorded_proof = ConvertOptions(part=values["part"], select=values["select"]), values["proof"]
            if not isinstance(options.part, (str, type(None))):
                raise ValueError(f"the part {options.part!r:.80}")
            if options.select is not None:
                select(options.select)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise file_error(path, f"is no certificate of a conversion: {summarize_error(error)}") from None
        proved = plan(source.specs, rules, source.aliases)
        digests = TensorDigests(source_digests, target_digests)
        return cls(proved, source, target, lambda: digests, options, recorded_proof)


def _describe_proof(proved: Plan) -> dict[str, Any]:
    proof = proved.proof
    return {
        "method": METHOD,
        "elements": proof.elements,
        "bijection": proof.bijection,
        "lost": list(proof.lost),
        "rounded": list(proof.rounded),
        "checked": [claim.what for claim in proved.claims],
        **({"computed": list(proof.computed)} if proof.computed else {}),
    }


def _side_to_json(side: ConversionSide, digests: Mapping[str, str]) -> dict[str, Any]:
    tensors = {
        name: {"shape": list(spec.shape), "dtype": dtype_name(spec.dtype), "sha256": digests[name]}
        for name, spec in side.specs.items()
    }
    return {"path": side.path, "format": side.format, "tensors": tensors, "aliases": side.aliases}


def _side_from_json(values: Mapping[str, Any]) -> tuple[ConversionSide, dict[str, str]]:
    """One side of a certificate, and the digests of its tensors."""
    tensors = values["tensors"]
    specs = {
        name: Spec(check_shape(tensor["shape"]), dtype_from_name(tensor["dtype"])) for name, tensor in tensors.items()
    }
    digests = {name: str(tensor["sha256"]) for name, tensor in tensors.items()}
    aliases = dict(values["aliases"])
    if not all(isinstance(name, str) for pair in aliases.items() for name in pair):
        raise ValueError("ties between values that are not names")
    path = values["path"]
    paths = {str(label): str(one) for label, one in path.items()} if isinstance(path, dict) else str(path)
    return ConversionSide(paths, str(values["format"]), specs, aliases), digests


def compute_digests(ckpt: Checkpoint, proved: Plan, progress: Callable[[int], None] | None = None) -> TensorDigests:
    """Hashes of the source and of the targets of a plan, which are computed and not written.

    Args:
        ckpt: the source.
        proved: the plan.
        progress: called with the number of bytes of each piece.
    """
    reader = NodeReader(ckpt.entries, True, proved.largest_group)
    digests: dict[str, str] = {}
    for name, node in proved.targets.items():
        reader.release_sources(except_for=node)
        for piece in reader.iter_bytes_and_hash(node, digests, name):
            if progress is not None:
                progress(len(piece))
    reader.release_sources()
    return TensorDigests(reader.source_digests(), digests)


def verify(
    certificate: str | os.PathLike[str],
    *,
    source: Paths | None = None,
    target: Paths | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Check a certificate: prove its plan again, carry it out on the source, and hash both sides.

    Args:
        certificate: the JSON file.
        source, target: where both sides are now, if not where they were.
        progress: called with the bytes done and the bytes to do.

    Returns:
        The differences from what the certificate says; an empty list if it holds.

    Raises:
        CheckpointError: if the certificate or a side cannot be read.
        OSError: if a file is not there.

    >>> import tempfile, torch
    >>> from funcnet import checkpoint
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     checkpoint.save(f"{folder}/old.pt", {"w": torch.ones(2, 3)})
    ...     rules, certificate = [checkpoint.Transpose("w")], f"{folder}/certificate.json"
    ...     done = checkpoint.convert(f"{folder}/old.pt", f"{folder}/new.npz", rules, certificate=certificate)
    ...     verify(certificate)
    []
    """
    try:
        record = Certificate.load(certificate)
    except RuleError as error:
        return [f"the rules do not prove: {error}"]
    source_ckpt = select_part(load_several(source or record.source.path, record.part), None, record.select)
    target_ckpt = load_several(target or record.target.path)
    problems = _side_problems("source", source_ckpt.specs, source_ckpt.aliases, record.source)
    problems += _side_problems("target", target_ckpt.specs, target_ckpt.aliases, record.target)
    problems += [
        f"the format of the {what} is {ckpt.format}, expected {side.format}"
        for what, ckpt, side in (("source", source_ckpt, record.source), ("target", target_ckpt, record.target))
        if ckpt.format != side.format
    ]
    problems += _proof_problems(record)
    problems += _side_problems("plan", record.plan.specs, record.plan.aliases, record.target)
    if problems:
        return problems
    for claim in record.plan.claims:
        try:
            NodeReader(source_ckpt.entries).check_claim(claim)
        except CheckpointError as error:  # noqa: PERF203  all problems are reported at once
            problems.append(str(error))
    total, done = record.plan.target_bytes, 0

    def report_bytes(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    expected, computed = record.hashes(), compute_digests(source_ckpt, record.plan, report_bytes)
    written = NodeReader(target_ckpt.entries, hashing=True).source_digests()
    for what, digests, recorded in (
        ("source", computed.source, expected.source),
        ("what the rules make of the source", computed.target, expected.target),
        ("target", written, expected.target),
    ):
        problems += [
            f"{what}: the bytes of {name!r} are others" for name in recorded if digests[name] != recorded[name]
        ]
    return problems


def _proof_problems(record: Certificate) -> list[str]:
    """Statements of a certificate about its proof that the new proof does not confirm."""
    proof, recorded = _describe_proof(record.plan), record.recorded_proof
    if not isinstance(recorded, dict):
        return ["it says nothing of a proof"]
    return [
        f"proof: {name} is {proof.get(name)!r:.200}, and the certificate says {recorded.get(name)!r:.200}"
        for name in {**proof, **recorded}
        if name not in proof or name not in recorded or json.dumps(proof[name]) != json.dumps(recorded[name])
    ]


def _side_problems(
    what: str, specs: Mapping[str, Spec], aliases: Mapping[str, str], expected: ConversionSide
) -> list[str]:
    """How tensors and ties differ from those that a certificate lists for a side."""
    problems = [f"{what}: {name!r} is missing" for name in expected.specs if name not in specs]
    problems += [f"{what}: {name!r} is new" for name in specs if name not in expected.specs]
    problems += [
        f"{what}: {name!r} is {specs[name]}, expected {spec}"
        for name, spec in expected.specs.items()
        if name in specs and specs[name] != spec
    ]
    problems += ["the ties of the " + what + " are others"] * (dict(aliases) != dict(expected.aliases))
    return problems
