"""The lines of a generated function as they grow: names of values, comments, ``with`` blocks."""

from __future__ import annotations

import builtins
import keyword
import math
import re

from funcnet.program._trace_inputs import OWN_NAMES

TAKEN = frozenset({*keyword.kwlist, *dir(builtins), *OWN_NAMES}) - {"input"}
"""What no value is called."""

FOREVER = math.inf


class Scope:
    """Lines, and the names in use at the place where the next one goes.

    A name is free again once the last statement that reads it is reached (``at``). So values get the names they have in
    the forward, ``x = F.relu(x)``, and what is no longer needed is not kept alive by a name of its own.
    """

    def __init__(self, taken: set[str]) -> None:
        self.taken = TAKEN | taken
        self.until: dict[str, float] = {}
        self.lines: list[str] = []
        self.blocks: list[object] = []
        self.at = 0
        self.place = self._said = ("", "")

    def line(self, text: str) -> None:
        """Add a statement, after a comment if it comes from another module than the last (``place``: path, class)."""
        indent = "    " * len(self.blocks)
        if self.place != self._said and self.place[1]:
            self._said = self.place
            self.lines.append(f"{indent}# {self.place[0] or 'the module itself'}: {self.place[1]}")
        self.lines.append(indent + text)

    def name(self, base: str, until: float, *, beside: bool = False) -> str:
        """A name like ``base`` that is free until a statement; ``beside`` what the statement at hand reads."""
        base = re.sub(r"(_\d+)+$", "", re.sub(r"\W+", "_", base)).strip("_") or "value"
        base = base if base.isidentifier() else f"value_{base}"
        name, count = base, 0
        while (name in self.taken and name not in self.until) or self.until.get(name, -1) > self.at - beside:
            count += 1
            name = f"{base}_{count}"
        self.until[name] = until
        return name

    def keep(self, name: str, until: float) -> None:
        """Keep a name for longer, if it is one of this scope."""
        if name in self.until:
            self.until[name] = max(self.until[name], until)

    def open(self, context: str, mark: object) -> None:
        """Start a ``with`` block."""
        self.line(f"with {context}:")
        self.blocks.append(mark)

    def close(self) -> None:
        """End the innermost block; one in which nothing happens is left out."""
        self.blocks.pop()
        if self.lines[-1].startswith("    " * len(self.blocks) + "with "):
            self.lines.pop()
