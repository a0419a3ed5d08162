"""Rows of words as a table: a table of rich where rich is installed, columns of plain text elsewhere."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.table import Table

Rows = Sequence[Sequence[str]]


def rich_table(
    columns: Sequence[str],
    rows: Rows,
    right: frozenset[str] = frozenset(),
    total: bool = False,
    unwrapped_columns: frozenset[str] = frozenset(),
) -> Table:
    """A table of rich.

    Args:
        columns: the names of the columns.
        rows: the cells of each row.
        right: names of the columns that are aligned to the right.
        total: whether the last row is a total, which a line separates from the rows above it.
        whole: names of the columns whose cells stand on one line.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for column in columns:
        # folded, because rich would cut off the end of a long path, and the number of the line with it
        justify: Literal["left", "right"] = "right" if column in right else "left"
        table.add_column(column, justify=justify, overflow="fold", no_wrap=column in unwrapped_columns)
    for index, row in enumerate(rows):  # cells are Text, because rich would take the [mask] in x[mask] for markup
        table.add_row(*map(Text, row), end_section=total and index == len(rows) - 2)
    return table


def text_table(
    columns: Sequence[str],
    rows: Rows,
    right: frozenset[str] = frozenset(),
    total: bool = False,
    unwrapped_columns: frozenset[str] = frozenset(),
) -> str:
    """The same table as text, 200 characters wide."""
    try:
        from rich.console import Console
    except ImportError:
        return _align_columns(columns, rows, right)
    buffer = io.StringIO()
    Console(file=buffer, width=200).print(rich_table(columns, rows, right, total, unwrapped_columns))
    return buffer.getvalue().rstrip()


def _align_columns(columns: Sequence[str], rows: Rows, right: frozenset[str]) -> str:
    lines = [columns, *rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if name in right else cell.ljust(width)
            for name, cell, width in zip(columns, line, widths, strict=True)
        ).rstrip()
        for line in lines
    )
