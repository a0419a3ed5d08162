"""The programs of a model, and its params tree."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

import funcnet as fn
from funcnet.compare._errors import SkippedError, summarize_error
from funcnet.compare._input_specs import dtype_name
from funcnet.compare._lab._records import Listing, TensorEntry
from funcnet.compare._lab._subject import Subject
from funcnet.compare._results import NotPossible
from funcnet.compare._time_limit import NO_LIMIT, TimeLimit
from funcnet.tree import flatten


def stateless_listing(subject: Subject, limit: TimeLimit = NO_LIMIT) -> Listing | NotPossible:
    """The model as one function of params and buffers, or the reason why it cannot be written so."""
    batch = subject.batch(subject.middle_size)
    try:
        limit.require(2 * subject.call_seconds)
        return Listing("fn.source(module, x), eval mode", fn.source(subject.module, *batch.args, **batch.kwargs))
    except Exception as error:  # a forward may do anything under torch's tracer
        return NotPossible(str(error) if isinstance(error, SkippedError) else summarize_error(error, 400))


def stateful_listing(subject: Subject, source: str) -> Listing:
    """The class as its author wrote it; if it has no source file, the class that funcnet writes."""
    title = f"class {type(subject.module).__name__}"
    if "has no source file" not in source:
        return Listing(title, source)
    batch = subject.batch(subject.middle_size)
    try:
        code = fn.source(subject.module, *batch.args, style="stateful", **batch.kwargs)
        return Listing('fn.source(module, x, style="stateful")', code)
    except Exception as error:  # a forward may do anything under torch's tracer
        return Listing(title, f"{source}# and it cannot be written anew: {summarize_error(error, 300)}\n")


def part_classes(subject: Subject) -> dict[str, str]:
    """The class of each part, by its path."""
    return {path: type(part).__name__ for path, part in subject.module.named_modules() if path}


def list_tensors(subject: Subject) -> tuple[TensorEntry, ...]:
    """Every tensor, in the order of the ``state_dict``; a tied tensor is listed under each of its paths."""
    classes = {path: type(part).__name__ for path, part in subject.module.named_modules()}
    params, buffers = flatten(subject.params), flatten(subject.buffers)
    positions = {name: index for index, name in enumerate(subject.module.state_dict())}

    def make_entry(
        path: str, kind: Literal["param", "buffer", "unsaved", "tie"], tensor: Tensor, size: int
    ) -> TensorEntry:
        owner = classes.get(path.rpartition(".")[0], "")
        return TensorEntry(path, kind, owner, tuple(tensor.shape), dtype_name(tensor.dtype), size)

    entries = [make_entry(path, "param", tensor, tensor.nbytes) for path, tensor in params.items()]
    for path, tensor in buffers.items():
        entries.append(make_entry(path, "buffer" if path in positions else "unsaved", tensor, tensor.nbytes))
    tensors = {**params, **buffers}
    for alias, owner in subject.net.aliases.items():
        if owner in tensors:
            entries.append(make_entry(alias, "tie", tensors[owner], 0))
    return tuple(sorted(entries, key=lambda entry: positions.get(entry.path, len(positions))))
