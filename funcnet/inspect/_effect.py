"""What a call does besides computing its output: one record each, and the table of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, overload

from funcnet.inspect._table import rich_table, text_table
from funcnet.tree import select


class Meaning(NamedTuple):
    """What a kind of effect means for those who transform a call, in a clause each."""

    vmap: str
    compile: str
    purity: str
    instead: str


MEANINGS = {
    "draws": Meaning(
        "raises unless randomness= is given",
        "draws other numbers than eager code",
        "the output depends on a hidden generator",
        "net.apply(..., rng=key) draws from an argument; train=False draws nothing where only dropout draws",
    ),
    "writes buffer": Meaning(
        "raises, or mixes what each example would write",
        "works, and writes too",
        "a second call gives something else",
        "new_buffers of net.apply are returned, not written; train=False",
    ),
    "mixes examples": Meaning(
        "gives another result: each example is alone",
        "no matter",
        "no matter",
        "a norm without the batch (GroupNorm, LayerNorm), train=False, dim=1 for dim=0, batch_first=True",
    ),
    "reads outside tensor": Meaning(
        "uses one value for all; an ensemble does too",
        "holds the value fixed, or compiles anew for another",
        "the output depends on what is no argument",
        "make it a buffer or a parameter, or pass it as an input",
    ),
    "mutates input": Meaning(
        "raises where one value serves all examples, else writes to the caller's tensor",
        "works, and writes too",
        "the caller's tensor is changed",
        "x = x + 1 for x += 1, inplace=False, or a clone()",
    ),
    "branches on data": Meaning(
        "raises: an example has no single value or shape",
        "breaks the graph; fullgraph=True raises",
        "no matter",
        "torch.where, a mask that is multiplied, torch.cond, or sizes given as numbers",
    ),
}
"""Every kind of effect, in the order in which they are listed."""


@dataclass(frozen=True)
class Effect:
    """One thing that a call does besides computing its output.

    Attributes:
        kind: one of "draws", "writes buffer", "mixes examples", "reads outside tensor", "mutates input" and "branches
            on data".
        path: joined path of the module that does it; empty for the root.
        file, line: the innermost line that is neither torch's nor funcnet's: for a stock layer, the line that calls it.
        code: that line.
        detail: the operation, and what it does it to.
    """

    kind: str
    path: str
    file: str
    line: int
    code: str
    detail: str


@dataclass(frozen=True)
class Effects(Sequence[Effect]):
    """The effects of one call, by path and line: empty, and false, if there are none. Print it for a table.

    Attributes:
        found: the effects.
        notes: what could not be looked at.
    """

    found: tuple[Effect, ...]
    notes: tuple[str, ...] = ()

    @overload
    def __getitem__(self, index: int) -> Effect: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Effect, ...]: ...
    def __getitem__(self, index: Any) -> Any:
        return self.found[index]

    def __len__(self) -> int:
        return len(self.found)

    def __iter__(self) -> Iterator[Effect]:
        return iter(self.found)

    def of(self, *kinds: str) -> Effects:
        """Those of some kinds.

        Raises:
            ValueError: for the name of no kind.
        """
        unknown = [kind for kind in kinds if kind not in MEANINGS]
        if unknown:
            raise ValueError(f"{unknown} are no kinds of effects; those are {', '.join(map(repr, MEANINGS))}.")
        return replace(self, found=tuple(effect for effect in self.found if effect.kind in kinds))

    def at(self, path: str) -> Effects:
        """Those at a path and below; ``*`` and ``**`` as in :func:`funcnet.tree.select`."""
        meant = select(path)
        return replace(self, found=tuple(effect for effect in self.found if meant(effect.path)))

    def _cells(self) -> list[tuple[str, ...]]:
        return [
            (effect.path or "(root)", effect.kind, f"{_near(effect.file)}:{effect.line}", effect.code, effect.detail)
            for effect in self.found
        ]

    def _meanings(self) -> list[str]:
        kinds = {effect.kind for effect in self.found}
        lines = [
            f"{kind}: vmap {meaning.vmap}; compile: {meaning.compile}; purity: {meaning.purity}. "
            f"Instead: {meaning.instead}."
            for kind, meaning in MEANINGS.items()
            if kind in kinds
        ]
        return [*lines, *(f"not looked at: {note}" for note in self.notes)]

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.text import Text

        table = rich_table(_COLUMNS, self._cells()) if self.found else Text(_CLEAN)
        return Group(table, *map(Text, self._meanings()))

    def __str__(self) -> str:
        table = text_table(_COLUMNS, self._cells()) if self.found else _CLEAN
        return "\n".join([table, *self._meanings()])


_COLUMNS = ("path", "effect", "line", "code", "what")
_CLEAN = "no effects"


def _near(file: str) -> str:
    """A file as seen from the working directory, where it lies below."""
    below = os.path.relpath(file) if os.path.isabs(file) else file
    return file if below.startswith(os.pardir) else below
