"""What a conversion has done, in a form that can be checked later without trust in who did it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from funcnet.checkpoint._atomic import replace_file
from funcnet.checkpoint._checkpoint import Checkpoint, Spec, check_shape
from funcnet.checkpoint._dtypes import dtype_from_name, dtype_name
from funcnet.checkpoint._errors import CheckpointError, RuleError, file_error, summarize_error
from funcnet.checkpoint._files import File
from funcnet.checkpoint._load import load, select_part
from funcnet.checkpoint._plan import Plan, plan
from funcnet.checkpoint._proof import METHOD
from funcnet.checkpoint._stream import NodeReader
from funcnet.checkpoint.rules import to_plain
from funcnet.checkpoint.rules._toml import from_plain
from funcnet.tree import select

VERSION = 1
_LONGEST = 512 << 20


@dataclass(frozen=True)
class Side:
    """One side of a conversion: where it is, and every tensor by name with shape and dtype."""

    path: str
    format: str
    specs: dict[str, Spec]
    aliases: dict[str, str]


@dataclass(frozen=True)
class Digests:
    """SHA-256 of the bytes of every tensor by name, row-major and little-endian, on both sides."""

    source: dict[str, str]
    target: dict[str, str]


@dataclass(frozen=True, eq=False)
class Certificate:
    """The record of a conversion. Made by :func:`funcnet.checkpoint.convert`, checked by :func:`verify`.

    Attributes:
        plan: the rules and what they come to, proved.
        source, target: both sides.
        hashes: gives the hashes. They are known if ``convert`` was asked for a certificate; else they are computed now,
            from the files that were read, which are still open, though others may have taken their names.
        part, select: what of the source was taken.
        said: the proof in the words of the file this was read from; ``to_json`` words it anew.
    """

    plan: Plan
    source: Side
    target: Side
    hashes: Callable[[], Digests]
    part: str | None = None
    select: Any = None
    said: Any = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        digests = self.hashes()
        return {
            "certificate": VERSION,
            "rules": to_plain(self.plan.rules),
            "proof": _proof(self.plan),
            "part": self.part,
            "select": self.select,
            "source": _side(self.source, digests.source),
            "target": _side(self.target, digests.target),
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON, whole or not at all."""
        with replace_file(Path(path)) as out:
            out.write((json.dumps(self.to_json(), indent=1) + "\n").encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Certificate:
        """Read one, and prove its plan again.

        Raises:
            CheckpointError: if it is no certificate.
            RuleError: if its rules are no bijection of the tensors it lists.
        """
        try:
            file = File(path)
            if file.size > _LONGEST:
                raise ValueError(f"{file.size:,} bytes")
            found = json.loads(file.read(0, file.size).decode(), object_pairs_hook=_unique)
            if found["certificate"] != VERSION or found["certificate"] is True:
                raise ValueError(f"version {found['certificate']}, and this is for version {VERSION}")
            source, before = _read_side(found["source"])
            target, after = _read_side(found["target"])
            rules = from_plain(found["rules"])
            part, selector, said = found["part"], found["select"], found["proof"]
            if not isinstance(part, (str, type(None))):
                raise ValueError(f"the part {part!r:.80}")
            if selector is not None:
                select(selector)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise file_error(path, f"is no certificate of a conversion: {summarize_error(error)}") from None
        proved = plan(source.specs, rules, source.aliases)
        return cls(proved, source, target, lambda: Digests(before, after), part, selector, said)


def _proof(made: Plan) -> dict[str, Any]:
    proof = made.proof
    return {
        "method": METHOD,
        "elements": proof.elements,
        "bijection": proof.bijection,
        "lost": list(proof.lost),
        "rounded": list(proof.rounded),
        "checked": [claim.what for claim in made.claims],
    }


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found


def _side(side: Side, digests: Mapping[str, str]) -> dict[str, Any]:
    tensors = {
        name: {"shape": list(spec.shape), "dtype": dtype_name(spec.dtype), "sha256": digests[name]}
        for name, spec in side.specs.items()
    }
    return {"path": side.path, "format": side.format, "tensors": tensors, "aliases": side.aliases}


def _read_side(side: Any) -> tuple[Side, dict[str, str]]:
    tensors = side["tensors"]
    specs = {
        name: Spec(check_shape(tensor["shape"]), dtype_from_name(tensor["dtype"])) for name, tensor in tensors.items()
    }
    digests = {name: str(tensor["sha256"]) for name, tensor in tensors.items()}
    aliases = dict(side["aliases"])
    if not all(isinstance(name, str) for pair in aliases.items() for name in pair):
        raise ValueError("ties of what are no names")
    return Side(str(side["path"]), str(side["format"]), specs, aliases), digests


def compute_digests(ckpt: Checkpoint, made: Plan, progress: Callable[[int], None] | None = None) -> Digests:
    """Hashes of a source and of what a plan makes of it, without writing it."""
    stream = NodeReader(ckpt.entries, True, made.largest_group)
    digests: dict[str, str] = {}
    for name, node in made.targets.items():
        stream.forget(node)
        for chunk in stream.hashed(node, digests, name):
            if progress is not None:
                progress(len(chunk))
    stream.forget()
    return Digests(stream.digests(), digests)


def verify(
    certificate: str | os.PathLike[str],
    *,
    source: str | os.PathLike[str] | None = None,
    target: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Check a certificate: prove its plan again, carry it out on the source, and hash both sides.

    Args:
        certificate: the JSON file.
        source, target: where both sides are now, if not where they were.
        progress: told the bytes done and to do.

    Returns:
        What is different from what the certificate says; nothing if all is as it says.

    Raises:
        CheckpointError: if the certificate or a side cannot be read.
        OSError: if a file is not there.
    """
    try:
        record = Certificate.load(certificate)
    except RuleError as error:
        return [f"the rules do not prove: {error}"]
    before = select_part(load(source or record.source.path), record.part, record.select)
    after = load(target or record.target.path)
    wrong = _unlike("source", before.specs, before.aliases, record.source.specs, record.source.aliases)
    wrong += _unlike("target", after.specs, after.aliases, record.target.specs, record.target.aliases)
    wrong += [
        f"the format of the {what} is {ckpt.format}, expected {side.format}"
        for what, ckpt, side in (("source", before, record.source), ("target", after, record.target))
        if ckpt.format != side.format
    ]
    wrong += _unproved(record)
    wrong += _unlike("plan", record.plan.specs, record.plan.aliases, record.target.specs, record.target.aliases)
    if wrong:
        return wrong
    total, done = record.plan.target_bytes, 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    for claim in record.plan.claims:
        try:
            NodeReader(before.entries).check(claim)
        except CheckpointError as error:  # noqa: PERF203  all at once
            wrong.append(str(error))
    expected, made = record.hashes(), compute_digests(before, record.plan, advance)
    written = NodeReader(after.entries, hashing=True).digests()
    for what, found, said in (
        ("source", made.source, expected.source),
        ("what the rules make of the source", made.target, expected.target),
        ("target", written, expected.target),
    ):
        wrong += [f"{what}: the bytes of {name!r} are others" for name in said if found[name] != said[name]]
    return wrong


def _unproved(record: Certificate) -> list[str]:
    """What a certificate says of its proof and is not so."""
    made, said = _proof(record.plan), record.said
    if not isinstance(said, dict):
        return ["it says nothing of a proof"]
    return [
        f"proof: {name} is {made.get(name)!r:.200}, and the certificate says {said.get(name)!r:.200}"
        for name in {**made, **said}
        if name not in made or name not in said or json.dumps(made[name]) != json.dumps(said[name])
    ]


def _unlike(
    what: str,
    specs: Mapping[str, Spec],
    aliases: Mapping[str, str],
    expected: Mapping[str, Spec],
    expected_aliases: Mapping[str, str],
) -> list[str]:
    wrong = [f"{what}: {name!r} is missing" for name in expected if name not in specs]
    wrong += [f"{what}: {name!r} is new" for name in specs if name not in expected]
    wrong += [
        f"{what}: {name!r} is {specs[name]}, expected {spec}"
        for name, spec in expected.items()
        if name in specs and specs[name] != spec
    ]
    wrong += ["the ties of the " + what + " are others"] * (dict(aliases) != dict(expected_aliases))
    return wrong
