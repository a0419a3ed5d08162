"""Tables of as many rows as a checkpoint has tensors: printed line by line, at a cost that is linear in the rows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.text import Text

_GAP = "  "
_NARROWEST = 12
_LINES_AT_ONCE = 4096


@dataclass(frozen=True)
class Column:
    """A column: its heading, whether it stands on the right, and whether its cells are folded on a narrow terminal."""

    heading: str
    is_right: bool = False
    is_folded: bool = False


class RowTable:
    """Rows of text in columns. On a terminal long names are folded; elsewhere every row is one line, however long.

    >>> table = RowTable(Column("path"), Column("bytes", is_right=True))
    >>> table.add_row("fc.weight", "24 B")
    >>> table.print_to(Console(width=80))
    <BLANKLINE>
    path       bytes
    ────────────────
    fc.weight   24 B
    <BLANKLINE>
    """

    def __init__(self, *columns: Column) -> None:
        self._columns = columns
        self._rows: list[tuple[str, ...]] = []
        self._styles: dict[int, str] = {}  # number of a row -> style of its first cell

    def add_row(self, *cells: str, style: str = "") -> None:
        """Add a row; cells may have several lines, and there may be fewer cells than columns.

        Args:
            cells: the texts.
            style: the style of the first cell on a terminal with colours.
        """
        if style:
            self._styles[len(self._rows)] = style
        self._rows.append(cells)

    def print_to(self, console: Console) -> None:
        """Print headings and rows."""
        headings = tuple(column.heading for column in self._columns)
        widths = self._fit_widths(console, [headings, *self._rows])
        rule = ("─" if console.encoding.lower().startswith("utf") else "-") * (
            sum(widths) + len(_GAP) * (len(widths) - 1)
        )
        head = list(self._format_row(headings, widths))
        console.print(Text("\n".join(["", *head, rule]), "bold" if console.is_terminal else ""), soft_wrap=True)
        lines = itertools.chain(self._iter_lines(console, widths), [""])
        while batch := list(itertools.islice(lines, _LINES_AT_ONCE)):
            console.file.write("\n".join(batch) + "\n")

    def _iter_lines(self, console: Console, widths: Sequence[int]) -> Iterator[str]:
        for number, cells in enumerate(self._rows):
            lines = self._format_row(cells, widths)
            style = self._styles.get(number)
            if style and console.color_system:
                with console.capture() as capture:
                    console.print(Text(cells[0], style), end="")
                yield capture.get() + next(lines)[len(cells[0]) :]
            yield from lines

    def _fit_widths(self, console: Console, rows: Sequence[tuple[str, ...]]) -> list[int]:
        """The width of each column; columns that may be folded share what a terminal has left."""
        widths = [0] * len(self._columns)
        for cells in rows:
            for number, cell in enumerate(cells):
                width = cell_len(cell) if "\n" not in cell else max(map(cell_len, cell.splitlines()))
                if width > widths[number]:
                    widths[number] = width
        if console.is_terminal:
            folded = [number for number, column in enumerate(self._columns) if column.is_folded]
            room = (
                console.width - sum(widths) - len(_GAP) * (len(widths) - 1) + sum(widths[number] for number in folded)
            )
            limit = max((widths[number] for number in folded), default=0)
            while limit > _NARROWEST and sum(min(widths[number], limit) for number in folded) > room:
                limit -= 1
            for number in folded:
                widths[number] = min(widths[number], limit)
        return widths

    def _format_row(self, cells: tuple[str, ...], widths: Sequence[int]) -> Iterator[str]:
        """The lines of a row."""
        pieces = [_fold_cell(cell, width) for cell, width in zip(cells, widths, strict=False)]
        for parts in itertools.zip_longest(*pieces, fillvalue=""):
            padded = [
                " " * (width - cell_len(part)) + part if column.is_right else part + " " * (width - cell_len(part))
                for part, width, column in zip(parts, widths, self._columns, strict=False)
            ]
            yield _GAP.join(padded).rstrip()


def _fold_cell(cell: str, width: int) -> list[str]:
    """The lines of a cell, none of them wider than the column."""
    lines = cell.split("\n")
    return [piece for line in lines for piece in (chop_cells(line, width) if cell_len(line) > width else [line])]
