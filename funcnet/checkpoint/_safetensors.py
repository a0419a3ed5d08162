"""Safetensors files: eight bytes of length, a JSON header, and the bytes of the tensors one after the other.

The header is read by strict code of our own, so that a wrong file is refused with the reason, and before a byte of
memory is taken for a tensor. A tie is one tensor and a line ``alias: owner`` in ``__metadata__``, which is what
``safetensors.torch.save_model`` writes and ``load_model`` understands.

Source: the format's description at https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
from typing import Any, BinaryIO

import torch

from funcnet.checkpoint._checkpoint import Checkpoint, Entry, Spec, check_shape
from funcnet.checkpoint._content import Content, values_as_json
from funcnet.checkpoint._dtypes import SAFETENSORS
from funcnet.checkpoint._errors import CheckpointError, file_error, summarize_error, truncated_list
from funcnet.checkpoint._files import File, Span
from funcnet.checkpoint._flat import from_plain

LONGEST_HEADER = 100_000_000  # the limit of the reference implementation
NOTES = "funcnet"
RESERVED = frozenset({"format", NOTES})
_NAMES = {dtype: name for name, dtype in SAFETENSORS.items()}


def read_safetensors(file: File) -> Checkpoint:
    """The checkpoint in one file.

    Raises:
        CheckpointError: if anything in the file is not as the format says; lists every tensor that is wrong.
    """
    header, start = _header(file)
    metadata = _metadata(file, header.pop("__metadata__", {}))
    entries: dict[str, Entry] = {}
    spans: list[tuple[int, int, str]] = []
    wrong: list[str] = []
    for name, described in header.items():
        try:
            spec, begin, end = _described(described)
        except ValueError as error:
            wrong.append(f"{name!r}: {error}")
            continue
        spans.append((begin, end, name))
        entries[name] = Entry(spec, Span(file, start + begin))
    wrong += [] if wrong else _misplaced(spans, file.size - start)
    if wrong:
        raise CheckpointError(f"{str(file.path)!r} is not a sound safetensors file:{truncated_list(wrong)}")
    notes = _notes(file, metadata.pop(NOTES, "{}"), entries)
    aliases = {
        key: value for key, value in metadata.items() if value in entries and key not in entries and key not in RESERVED
    }
    return Checkpoint(
        path=file.path,
        format="safetensors",
        entries=entries,
        aliases=aliases,
        extras=notes,
        metadata={key: value for key, value in metadata.items() if key not in aliases},
        files=(file.path,),
    )


def _header(file: File) -> tuple[dict[str, Any], int]:
    """The parsed header, and where the tensors begin."""
    if file.size < 8:
        raise file_error(file.path, f"has {file.size} bytes, fewer than the length of a safetensors header takes")
    length = int.from_bytes(file.read(0, 8), "little")
    if length > LONGEST_HEADER:
        raise file_error(
            file.path, f"says its header has {length:,} bytes; {LONGEST_HEADER:,} are the most there may be"
        )
    if length > file.size - 8:
        raise file_error(
            file.path, f"says its header has {length:,} bytes, and {file.size - 8:,} are there", "Copy again."
        )
    try:
        header = json.loads(
            file.read(8, length).decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise file_error(
            file.path, f"has a header that is not JSON as safetensors has it: {summarize_error(error)}"
        ) from None
    if not isinstance(header, dict):
        raise file_error(file.path, "has a header that is not a JSON object")
    return header, 8 + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1}) if len(names) < 10_000 else []
        raise ValueError(f"a name is there twice: {', '.join(map(repr, twice[:5]))}")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _metadata(file: File, metadata: Any) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise file_error(file.path, "has a __metadata__ that is not an object of strings")
    return metadata


def _described(described: Any) -> tuple[Spec, int, int]:
    if not isinstance(described, dict) or set(described) != {"dtype", "shape", "data_offsets"}:
        raise ValueError("is not described by exactly dtype, shape and data_offsets")
    dtype = described["dtype"]
    if not isinstance(dtype, str) or dtype not in SAFETENSORS:
        raise ValueError(f"has the dtype {str(dtype)[:40]!r}, which is none of {', '.join(SAFETENSORS)}")
    spec = Spec(check_shape(described["shape"], SAFETENSORS[dtype].itemsize), SAFETENSORS[dtype])
    offsets = described["data_offsets"]
    if not isinstance(offsets, list) or len(offsets) != 2 or any(type(offset) is not int for offset in offsets):
        raise ValueError(f"has the data_offsets {str(offsets)[:80]}, which are not two numbers")
    begin, end = offsets
    if not 0 <= begin <= end:
        raise ValueError(f"has the data_offsets {offsets}, which are not in order")
    if end - begin != spec.nbytes:
        raise ValueError(f"has {end - begin:,} bytes, and {dtype} of shape {list(spec.shape)} takes {spec.nbytes:,}")
    return spec, begin, end


def _misplaced(spans: list[tuple[int, int, str]], available: int) -> list[str]:
    """Overlaps, holes and what lies outside the file, in the order of the bytes."""
    wrong: list[str] = []
    reached = 0
    for begin, end, name in sorted(spans):
        if begin < reached:
            wrong.append(f"{name!r} begins at byte {begin:,}, inside the tensor before it, which ends at {reached:,}")
        elif begin > reached:
            wrong.append(f"{name!r} begins at byte {begin:,}, and the tensor before it ends at {reached:,}")
        if end > available:
            wrong.append(f"{name!r} ends at byte {end:,}, and the file holds {available:,}")
        reached = max(reached, end)
    if not wrong and reached != available:
        wrong.append(f"the tensors end at byte {reached:,}, and the file goes on to {available:,}")
    return wrong


def _notes(file: File, text: str, entries: dict[str, Entry]) -> dict[str, Any]:
    """Funcnet's own remarks: which pairs of floats are complex128, and values that are no tensors."""
    try:
        notes = json.loads(text, object_pairs_hook=_unique)
        if not isinstance(notes, dict):
            raise ValueError("not an object")
        for name in notes.get("complex128", []):
            spec = entries[name].spec
            if spec.dtype is not torch.float64 or spec.shape[-1:] != (2,):
                raise ValueError(f"{name!r} cannot be complex128")
            entries[name] = Entry(Spec(spec.shape[:-1], torch.complex128), entries[name].span)
        return {name: from_plain(value) for name, value in notes.get("values", {}).items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise file_error(
            file.path, f"has a remark {NOTES!r} that funcnet did not write: {summarize_error(error)}"
        ) from None


def write_safetensors(out: BinaryIO, content: Content) -> None:
    """Write one file.

    Names keep their order in the header. The bytes lie by size of element, largest first, so that every tensor is
    aligned for readers that map the file.

    Raises:
        CheckpointError: if the format has no place for something; names it.
    """
    header: dict[str, Any] = {}
    metadata = _metadata_of(content)
    if metadata:
        header["__metadata__"] = metadata
    order = sorted(content.specs, key=lambda name: -content.specs[name].dtype.itemsize)
    offsets: dict[str, list[int]] = {}
    reached = 0
    for name in order:
        offsets[name] = [reached, reached + content.specs[name].nbytes]
        reached = offsets[name][1]
    for name, spec in content.specs.items():
        complex128 = spec.dtype is torch.complex128
        header[name] = {
            "dtype": "F64" if complex128 else _NAMES[spec.dtype],
            "shape": [*spec.shape, 2] if complex128 else list(spec.shape),
            "data_offsets": offsets[name],
        }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    if len(text) > LONGEST_HEADER:
        raise CheckpointError(f"a safetensors header may have {LONGEST_HEADER:,} bytes, and this has {len(text):,}.")
    out.write(len(text).to_bytes(8, "little"))
    out.write(text)
    for name in order:
        out.writelines(content.chunks(name))


def _metadata_of(content: Content) -> dict[str, str]:
    wrong = [f"{alias!r} is a name the format keeps for itself" for alias in content.aliases if alias in RESERVED]
    wrong += ["'__metadata__' is a name the format keeps for itself"] * ("__metadata__" in content.specs)
    wrong += [
        f"the remark {key!r} reads as a tie to the tensor {value!r}"
        for key, value in content.metadata.items()
        if value in content.specs and key not in content.specs and key not in RESERVED
    ]
    if wrong:
        raise CheckpointError(f"safetensors has no place for these; rename them:{truncated_list(wrong)}")
    notes: dict[str, Any] = {}
    pairs = [name for name, spec in content.specs.items() if spec.dtype is torch.complex128]
    if pairs:
        notes["complex128"] = pairs
    if content.extras:
        notes["values"] = values_as_json(content.extras)
    metadata = {"format": "pt", **content.metadata, **content.aliases}  # transformers reads only what says "pt"
    return metadata | ({NOTES: json.dumps(notes)} if notes else {})
