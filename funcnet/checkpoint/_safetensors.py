"""Safetensors files: eight bytes of length, a JSON header, and the bytes of the tensors one after the other.

The header is read by strict code of our own, so that a wrong file is refused with the reason, and before memory is
allocated for a tensor. A tie is one tensor and a line ``alias: owner`` in ``__metadata__``, which is what
``safetensors.torch.save_model`` writes and ``load_model`` understands. complex128, which has no name in the format, is
stored as pairs of float64, and funcnet's notes in ``__metadata__`` list such tensors.

Source: the format's description at https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, BinaryIO, NoReturn

import torch

from funcnet.checkpoint._checkpoint import Checkpoint, Spec, StoredTensor
from funcnet.checkpoint._content import Content
from funcnet.checkpoint._dtypes import SAFETENSORS_DTYPES
from funcnet.checkpoint._errors import CheckpointError, file_error, summarize_error, truncated_list
from funcnet.checkpoint._files import File, Span
from funcnet.checkpoint._json_values import decode_value, dict_of_unique_keys, encode_values
from funcnet.checkpoint._stored_shapes import check_shape
from funcnet.checkpoint._structure import Structure, decode_structure

_MAX_HEADER = 100_000_000  # the limit of the reference implementation
_NOTES_KEY = "funcnet"
_RESERVED_NAMES = frozenset({"format", _NOTES_KEY})
_DTYPE_NAMES = {dtype: name for name, dtype in SAFETENSORS_DTYPES.items()}


def read_safetensors(file: File) -> Checkpoint:
    """The checkpoint in one file.

    Raises:
        CheckpointError: if anything in the file is not as the format says; lists every tensor that is wrong.
    """
    header, start = _read_header(file)
    metadata = _check_metadata(file, header.pop("__metadata__", {}))
    entries: dict[str, StoredTensor] = {}
    spans: list[tuple[int, int, str]] = []
    problems: list[str] = []
    for name, description in header.items():
        try:
            spec, begin, end = _parse_description(description)
        except ValueError as error:
            problems.append(f"{name!r}: {error}")
            continue
        spans.append((begin, end, name))
        entries[name] = StoredTensor(spec, Span(file, start + begin))
    problems = problems or _layout_problems(spans, file.size - start)
    if problems:
        raise CheckpointError(f"{str(file.path)!r} is not a sound safetensors file:{truncated_list(problems)}")
    extras, structure = _apply_notes(file, metadata.pop(_NOTES_KEY, "{}"), entries)
    aliases = {key: value for key, value in metadata.items() if _reads_as_tie(key, value, entries)}
    return Checkpoint(
        path=file.path,
        format="safetensors",
        entries=entries,
        aliases=aliases,
        extras=extras,
        metadata={key: value for key, value in metadata.items() if key not in aliases},
        files=(file.path,),
        structure=structure,
    )


def _read_header(file: File) -> tuple[dict[str, Any], int]:
    """The parsed header, and the byte of the file where the tensors begin."""
    if file.size < 8:
        raise file_error(file.path, f"has {file.size} bytes, fewer than the length of a safetensors header takes")
    length = int.from_bytes(file.read(0, 8), "little")
    if length > _MAX_HEADER:
        reason = f"says its header has {length:,} bytes; {_MAX_HEADER:,} are the most there may be"
        raise file_error(file.path, reason)
    if length > file.size - 8:
        reason = f"says its header has {length:,} bytes, and {file.size - 8:,} are there"
        raise file_error(file.path, reason, "Copy again.")
    try:
        text = file.read(8, length).decode("utf-8")
        header = json.loads(text, object_pairs_hook=dict_of_unique_keys, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        reason = f"has a header that is not JSON as safetensors has it: {summarize_error(error)}"
        raise file_error(file.path, reason) from None
    if not isinstance(header, dict):
        raise file_error(file.path, "has a header that is not a JSON object")
    return header, 8 + length


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _check_metadata(file: File, metadata: object) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise file_error(file.path, "has a __metadata__ that is not an object of strings")
    return metadata


def _parse_description(description: object) -> tuple[Spec, int, int]:
    """Shape and dtype of a tensor, and the begin and end of its bytes, from its value in the header."""
    if not isinstance(description, dict) or set(description) != {"dtype", "shape", "data_offsets"}:
        raise ValueError("is not described by exactly dtype, shape and data_offsets")
    dtype = description["dtype"]
    if not isinstance(dtype, str) or dtype not in SAFETENSORS_DTYPES:
        raise ValueError(f"has the dtype {str(dtype)[:40]!r}, which is none of {', '.join(SAFETENSORS_DTYPES)}")
    spec = Spec(check_shape(description["shape"], SAFETENSORS_DTYPES[dtype].itemsize), SAFETENSORS_DTYPES[dtype])
    offsets = description["data_offsets"]
    if not isinstance(offsets, list) or len(offsets) != 2 or any(type(offset) is not int for offset in offsets):
        raise ValueError(f"has the data_offsets {str(offsets)[:80]}, which are not two numbers")
    begin, end = offsets
    if not 0 <= begin <= end:
        raise ValueError(f"has the data_offsets {offsets}, which are not in order")
    if end - begin != spec.nbytes:
        raise ValueError(f"has {end - begin:,} bytes, and {dtype} of shape {list(spec.shape)} takes {spec.nbytes:,}")
    return spec, begin, end


def _layout_problems(spans: list[tuple[int, int, str]], available: int) -> list[str]:
    """Tensors that overlap, leave holes or lie outside the file, in the order of the bytes."""
    problems: list[str] = []
    position = 0
    for begin, end, name in sorted(spans):
        if begin < position:
            problems.append(
                f"{name!r} begins at byte {begin:,}, inside the tensor before it, which ends at {position:,}"
            )
        elif begin > position:
            problems.append(f"{name!r} begins at byte {begin:,}, and the tensor before it ends at {position:,}")
        if end > available:
            problems.append(f"{name!r} ends at byte {end:,}, and the file holds {available:,}")
        position = max(position, end)
    if not problems and position != available:
        problems.append(f"the tensors end at byte {position:,}, and the file goes on to {available:,}")
    return problems


def _apply_notes(file: File, text: str, entries: dict[str, StoredTensor]) -> tuple[dict[str, Any], Structure | None]:
    """Read funcnet's own notes: change the entries that are complex128, and return other values and the structure."""
    try:
        notes = json.loads(text, object_pairs_hook=dict_of_unique_keys)
        if not isinstance(notes, dict):
            raise ValueError("not an object")
        for name in notes.get("complex128", []):
            spec = entries[name].spec
            if spec.dtype is not torch.float64 or spec.shape[-1:] != (2,):
                raise ValueError(f"{name!r} cannot be complex128")
            entries[name] = StoredTensor(Spec(spec.shape[:-1], torch.complex128), entries[name].span)
        values = {name: decode_value(value) for name, value in notes.get("values", {}).items()}
        return values, decode_structure(notes.get("structure"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"has a remark {_NOTES_KEY!r} that funcnet did not write: {summarize_error(error)}"
        raise file_error(file.path, reason) from None


def _reads_as_tie(key: str, value: str, names: Collection[str]) -> bool:
    """Whether a line of the metadata says that ``key`` is tied to the tensor ``value``."""
    return value in names and key not in names and key not in _RESERVED_NAMES


def write_safetensors(out: BinaryIO, content: Content) -> None:
    """Write one file.

    Names have their own order in the header. The bytes lie by size of element, largest first, so that every tensor is
    aligned for readers that map the file.

    Raises:
        CheckpointError: if the format has no place for something; names it.
    """
    header: dict[str, Any] = {}
    metadata = _make_metadata(content)
    if metadata:
        header["__metadata__"] = metadata
    names_by_itemsize = sorted(content.specs, key=lambda name: -content.specs[name].dtype.itemsize)
    offsets: dict[str, list[int]] = {}
    position = 0
    for name in names_by_itemsize:
        offsets[name] = [position, position + content.specs[name].nbytes]
        position = offsets[name][1]
    for name, spec in content.specs.items():
        is_complex128 = spec.dtype is torch.complex128
        header[name] = {
            "dtype": "F64" if is_complex128 else _DTYPE_NAMES[spec.dtype],
            "shape": [*spec.shape, 2] if is_complex128 else list(spec.shape),
            "data_offsets": offsets[name],
        }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    if len(text) > _MAX_HEADER:
        raise CheckpointError(f"a safetensors header may have {_MAX_HEADER:,} bytes, and this has {len(text):,}.")
    out.write(len(text).to_bytes(8, "little"))
    out.write(text)
    for name in names_by_itemsize:
        out.writelines(content.chunks(name))


def _make_metadata(content: Content) -> dict[str, str]:
    """The ``__metadata__`` of a header: remarks, ties and funcnet's notes."""
    problems = [
        f"{alias!r} is a name the format keeps for itself" for alias in content.aliases if alias in _RESERVED_NAMES
    ]
    problems += ["'__metadata__' is a name the format keeps for itself"] * ("__metadata__" in content.specs)
    problems += [
        f"the remark {key!r} reads as a tie to the tensor {value!r}"
        for key, value in content.metadata.items()
        if _reads_as_tie(key, value, content.specs)
    ]
    if problems:
        raise CheckpointError(f"safetensors has no place for these; rename them:{truncated_list(problems)}")
    notes: dict[str, Any] = {}
    complex128_names = [name for name, spec in content.specs.items() if spec.dtype is torch.complex128]
    if complex128_names:
        notes["complex128"] = complex128_names
    if content.extras:
        notes["values"] = encode_values(content.extras)
    if (structure := content.encode_structure()) is not None:
        notes["structure"] = structure
    metadata = {"format": "pt", **content.metadata, **content.aliases}  # transformers reads only what says "pt"
    return metadata | ({_NOTES_KEY: json.dumps(notes)} if notes else {})
