"""What a trace is made of: the text of a function, and what a call of it must fulfil."""

from __future__ import annotations

from typing import Any, NamedTuple


class Check(NamedTuple):
    """One thing asked of a call: where it looks, what it expects in words, and the condition as an expression."""

    place: str
    expected: str
    condition: str
    for_ones: bool = True  # whether it holds where every free size is 1


class Code(NamedTuple):
    """A forward in one mode.

    ``source`` is the text of ``forward(params, buffers, *inputs, rng)``, complete with its imports; ``signature`` that
    of the module, ``arguments`` those of its arguments that hold tensors; ``checks`` must hold for a call. Paths:
    ``replaced`` of buffers that it gives new, ``copied`` of those it writes to on a copy, ``draws`` of modules that
    draw. ``attends`` says that it calls torch's attention, which knows no transforms.
    """

    train: bool
    signature: str
    source: str
    arguments: tuple[str, ...]
    buffers: bool
    checks: tuple[Check, ...]
    replaced: tuple[str, ...]
    draws: tuple[str, ...]
    copied: tuple[str, ...]
    attends: bool
    imports: tuple[str, ...]
    objects: tuple[tuple[str, Any], ...]
