"""The programs of a model, and its params tree."""

from __future__ import annotations

from typing import Any

import funcnet as fn
from funcnet.compare._errors import summarize_error
from funcnet.compare._lab._records import Entry, Listing
from funcnet.compare._lab._subject import Subject
from funcnet.compare._results import NotPossible
from funcnet.tree import flatten


def stateless_listing(subject: Subject) -> Listing | NotPossible:
    """The model as one function of params and buffers, or why it cannot be written down."""
    batch = subject.batch(subject.middle)
    try:
        return Listing("fn.source(module, x), eval mode", fn.source(subject.module, *batch.args, **batch.kwargs))
    except Exception as error:  # whatever a forward may do under torch's tracer
        return NotPossible(summarize_error(error, 400))


def stateful_listing(subject: Subject, source: str) -> Listing:
    """The class as its author wrote it; where it has no source, the class that funcnet writes."""
    title = f"class {type(subject.module).__name__}"
    if "has no source file" not in source:
        return Listing(title, source)
    batch = subject.batch(subject.middle)
    try:
        code = fn.source(subject.module, *batch.args, style="stateful", **batch.kwargs)
        return Listing('fn.source(module, x, style="stateful")', code)
    except Exception as error:  # as above
        return Listing(title, f"{source}# and it cannot be written anew: {summarize_error(error, 300)}\n")


def parts_of(subject: Subject) -> dict[str, str]:
    """The path of each part, and its class."""
    return {path: type(part).__name__ for path, part in subject.module.named_modules() if path}


def entries_of(subject: Subject) -> tuple[Entry, ...]:
    """Every tensor, in the order of the ``state_dict``; ties point to their owner."""
    owners = {path: type(part).__name__ for path, part in subject.module.named_modules()}
    params, buffers = flatten(subject.params), flatten(subject.buffers)
    order = {name: index for index, name in enumerate(subject.module.state_dict())}

    def entry(path: str, kind: Any, leaf: Any, size: int) -> Entry:
        owner = owners.get(path.rpartition(".")[0], "")
        return Entry(path, kind, owner, tuple(leaf.shape), str(leaf.dtype).removeprefix("torch."), size)

    found = [entry(path, "param", leaf, leaf.numel() * leaf.element_size()) for path, leaf in params.items()]
    kinds = {path: "buffer" if path in order else "unsaved" for path in buffers}
    found += [entry(path, kinds[path], leaf, leaf.numel() * leaf.element_size()) for path, leaf in buffers.items()]
    held = {**params, **buffers}
    found += [entry(alias, "tie", held[owner], 0) for alias, owner in subject.net.aliases.items() if owner in held]
    return tuple(sorted(found, key=lambda item: order.get(item.path, len(order))))
