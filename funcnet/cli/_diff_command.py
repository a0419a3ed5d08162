"""``funcnet diff``: whether two checkpoints are equal."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.text import Text

from funcnet._errors import FuncnetError
from funcnet._format import format_count
from funcnet.checkpoint import Difference, differences, load
from funcnet.checkpoint.internals import select_parts
from funcnet.cli._options import AsJson, Part, Select
from funcnet.cli._row_table import Column, RowTable
from funcnet.cli._terminal import (
    exit_on_error,
    print_json,
    printable_text,
    show_byte_progress,
    stdout_console,
)


def diff_command(
    first: Annotated[str, typer.Argument(metavar="A", help="A checkpoint.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another.")],
    part: Part = None,
    select: Select = None,
    as_json: AsJson = False,
) -> None:
    """Compare two checkpoints of any formats: names, shapes, dtypes, ties, and values bit by bit.

    The exit code is 0 if they hold the same, 1 if they differ, 2 if they cannot be compared.
    """
    with exit_on_error("diff", FuncnetError, OSError):
        left, right = select_parts([load(path) for path in (first, second)], part, select or None)
        with show_byte_progress("comparing") as progress:
            results = differences(left, right, progress)
    if as_json:
        print_json({"same": not results, "differences": [dataclasses.asdict(difference) for difference in results]})
    elif results:
        console = stdout_console()
        _list_differences(results).print_to(console)
        console.print(Text(f"{format_count(len(results), 'difference')}.", "bold red"))
    else:
        stdout_console().print(Text(f"{len(left)} tensors, every bit the same.", "green"))
    raise typer.Exit(1 if results else 0)


def _list_differences(results: Sequence[Difference]) -> RowTable:
    table = RowTable(Column("path", is_folded=True), Column("differs in"), Column("", is_folded=True))
    for difference in results:
        table.add_row(printable_text(difference.name), difference.kind, printable_text(difference.text))
    return table
