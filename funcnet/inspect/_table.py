"""Rows of words as a table: rich's where it is installed, columns of plain text elsewhere."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

Rows = Sequence[Sequence[str]]


def rich_table(columns: Sequence[str], rows: Rows, right: frozenset[str] = frozenset(), total: bool = False) -> Any:
    """A table for rich: the columns named in ``right`` are set to the right, a ``total`` is parted from the rest."""
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left")
    for index, row in enumerate(rows):  # as Text, for in x[mask] rich would see markup
        table.add_row(*map(Text, row), end_section=total and index == len(rows) - 2)
    return table


def text_table(columns: Sequence[str], rows: Rows, right: frozenset[str] = frozenset(), total: bool = False) -> str:
    """The same as text, 200 characters wide."""
    try:
        from rich.console import Console
    except ImportError:
        return _plain(columns, rows, right)
    console = Console(file=io.StringIO(), width=200)
    console.print(rich_table(columns, rows, right, total))
    return str(console.file.getvalue()).rstrip()  # type: ignore[attr-defined]


def _plain(columns: Sequence[str], rows: Rows, right: frozenset[str]) -> str:
    lines = [columns, *rows]
    widths = [max(len(line[at]) for line in lines) for at in range(len(columns))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if name in right else cell.ljust(width)
            for name, cell, width in zip(columns, line, widths, strict=True)
        ).rstrip()
        for line in lines
    )
