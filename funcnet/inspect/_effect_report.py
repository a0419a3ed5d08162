"""The effects of a call as records, with what each kind of effect means, and the table that is printed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, overload

from funcnet.inspect._text_table import rich_table, text_table
from funcnet.tree import select

if TYPE_CHECKING:
    from rich.console import Group


class Meaning(NamedTuple):
    """What a kind of effect means for someone who transforms a call: one clause for each transform, and a remedy."""

    vmap: str
    compile: str
    purity: str
    instead: str


MEANINGS = {
    "draws": Meaning(
        "raises unless randomness= is given",
        "draws other numbers than eager code",
        "the output depends on a hidden generator",
        "net.apply(..., rng=key) draws from an argument; train=False draws nothing where only dropout draws; no rng "
        "reaches what the code seeds by itself (numpy.random.default_rng(), random.Random(), torch.Generator().seed(), "
        "os.urandom, uuid4): draw by torch.rand instead, or seed it from an input",
    ),
    "writes buffer": Meaning(
        "raises, or mixes what each example would write",
        "works, and writes too",
        "a second call gives something else",
        "new_buffers of net.apply are returned, not written; train=False",
    ),
    "keeps state": Meaning(
        "keeps values that belong inside of it, or one for all examples",
        "keeps it too, or compiles anew when it has changed",
        "a second call may give something else",
        "take the state as an input and return it beside the output, or register_buffer in __init__ and assign it, so "
        "that net.apply returns it in new_buffers; make parameters and submodules in __init__",
    ),
    "changes setting": Meaning(
        "sets it once for all examples",
        "breaks the graph, or sets it while it is traced only",
        "code that runs later computes or behaves differently; a net of funcnet puts it back",
        "a block that ends, such as with torch.no_grad() or torch.autocast(...), or set it before the call",
    ),
    "differs if repeated": Meaning(
        "gives what one call happens to give",
        "gives what one call happens to give",
        "equal inputs give different outputs",
        "read the clock, the file or the counter before the call, and pass it as an input; "
        "torch.use_deterministic_algorithms(True) where a kernel is the reason",
    ),
    "reaches outside": Meaning(
        "asks once for all examples",
        "holds what it got fixed, or breaks the graph",
        "the output may depend on what is no argument",
        "ask before the call, and pass what you got as an input",
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
    "wrong kernel": Meaning(
        "is right, and differs from a loop over examples",
        "computes the same",
        "torch computes wrong numbers in some layouts of memory, or in some derivatives",
        "see funcnet/layers/WRONG_KERNELS.md; layers of funcnet are right",
    ),
}
"""Every kind of effect, in the order in which they are listed."""


@dataclass(frozen=True)
class Effect:
    """One thing that a call does besides computing its output.

    Attributes:
        kind: one of "draws", "writes buffer", "keeps state", "changes setting", "differs if repeated", "reaches
            outside", "mixes examples", "reads outside tensor", "mutates input", "branches on data" and "wrong kernel".
        path: joined path of the module that has the effect; empty for the root.
        file, line: the innermost line that is neither torch's nor funcnet's: for a stock layer, the line that calls it;
            empty and 0 if there is none.
        code: the text of that line.
        detail: the operation, and what it reads or writes.

    >>> import torch, funcnet as fn
    >>> found = fn.effects(torch.nn.Dropout(), torch.ones(4, 2), train=True)
    >>> [(effect.kind, effect.path) for effect in found]
    [('draws', '')]
    >>> fn.effects(torch.nn.Softmax(0), torch.ones(4, 2))[0].instead.partition(",")[0]
    'a norm without the batch (GroupNorm'
    """

    kind: str
    path: str
    file: str
    line: int
    code: str
    detail: str

    @property
    def location(self) -> str:
        """The file and the line, as in "model.py:14"; empty if there is none."""
        return f"{_shorten_path(self.file)}:{self.line}" if self.file else ""

    @property
    def instead(self) -> str:
        """What to write instead, for effects of this kind."""
        return MEANINGS[self.kind].instead


@dataclass(frozen=True)
class Effects(Sequence[Effect]):
    """The effects of one call, by path and line: empty, and false, if there are none. Print it for a table.

    Attributes:
        found: the effects.
        notes: what could not be looked at.

    >>> import torch, funcnet as fn
    >>> found = fn.effects(torch.nn.Dropout(), torch.ones(4, 2), train=True)
    >>> bool(found), len(found.of("draws")), len(found.of("writes buffer"))
    (True, 1, 0)
    """

    found: tuple[Effect, ...]
    notes: tuple[str, ...] = ()

    @overload
    def __getitem__(self, index: int) -> Effect: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Effect, ...]: ...
    def __getitem__(self, index: int | slice) -> Effect | tuple[Effect, ...]:
        return self.found[index]

    def __len__(self) -> int:
        return len(self.found)

    def __iter__(self) -> Iterator[Effect]:
        return iter(self.found)

    def of(self, *kinds: str) -> Effects:
        """The effects of these kinds.

        Raises:
            ValueError: for a name that is not a kind of effect.
        """
        unknown = [kind for kind in kinds if kind not in MEANINGS]
        if unknown:
            raise ValueError(f"{unknown} are no kinds of effects; those are {', '.join(map(repr, MEANINGS))}.")
        return replace(self, found=tuple(effect for effect in self.found if effect.kind in kinds))

    def at(self, path: str) -> Effects:
        """The effects at a path and below it; ``*`` and ``**`` as in :func:`funcnet.tree.select`."""
        is_selected = select(path)
        return replace(self, found=tuple(effect for effect in self.found if is_selected(effect.path)))

    def _format_cells(self) -> list[tuple[str, ...]]:
        """A row for each effect; effects that differ in numbers of layers only are one row."""
        groups: dict[tuple[str, ...], list[Effect]] = {}
        for effect in self.found:
            pattern = _replace_numbers_of_path(effect.path), _replace_numbers(effect.detail)
            groups.setdefault((*pattern, effect.kind, effect.file, str(effect.line)), []).append(effect)
        return [
            (
                f"{path} ({len(effects)} times)" if len(effects) > 1 else effects[0].path or "(root)",
                kind,
                effects[0].location,
                effects[0].code,
                detail if len(effects) > 1 else effects[0].detail,
            )
            for (path, detail, kind, _, _), effects in groups.items()
        ]

    def _explain_kinds(self) -> list[str]:
        kinds = {effect.kind for effect in self.found}
        lines = [
            f"{kind}: vmap {meaning.vmap}; compile: {meaning.compile}; purity: {meaning.purity}. "
            f"Instead: {meaning.instead}."
            for kind, meaning in MEANINGS.items()
            if kind in kinds
        ]
        return [*lines, *(f"not looked at: {note}" for note in self.notes)]

    def __rich__(self) -> Group:
        from rich.console import Group
        from rich.text import Text

        table = (
            rich_table(_COLUMNS, self._format_cells(), unwrapped_columns=_UNWRAPPED_COLUMNS)
            if self.found
            else Text(_NO_EFFECTS)
        )
        return Group(table, *map(Text, self._explain_kinds()))

    def __str__(self) -> str:
        table = (
            text_table(_COLUMNS, self._format_cells(), unwrapped_columns=_UNWRAPPED_COLUMNS)
            if self.found
            else _NO_EFFECTS
        )
        return "\n".join([table, *self._explain_kinds()])


_COLUMNS = ("path", "effect", "line", "code", "what")
_UNWRAPPED_COLUMNS = frozenset({"line"})
_NO_EFFECTS = "no effects"
_MAX_PATH = 50


def _replace_numbers(text: str) -> str:
    """A text in which ``*`` stands for the numbers in joined paths, as ``at`` takes them.

    >>> _replace_numbers("add_ writes 0.1.mean; batch_norm writes 0.1.var"), _replace_numbers("by 0.5")
    ('add_ writes *.*.mean; batch_norm writes *.*.var', 'by 0.5')
    """
    return re.sub(r"(?:\w+\.)*[^\W\d]\w*(?:\.\w+)*", lambda path: _replace_numbers_of_path(path[0]), text)


def _replace_numbers_of_path(path: str) -> str:
    return ".".join("*" if name.isdigit() else name for name in path.split("."))


def _shorten_path(file: str) -> str:
    """A file relative to the working directory or to the folder of packages; of a long path, its end."""
    folder, _, in_packages = file.rpartition("site-packages" + os.sep)
    relative = os.path.relpath(file) if os.path.isabs(file) else file
    path = in_packages if folder else file if relative.startswith(os.pardir) else relative
    if len(path) <= _MAX_PATH:
        return path
    end = path[-_MAX_PATH:]
    return "\u2026" + (end[end.index(os.sep) :] if os.sep in end else end)
