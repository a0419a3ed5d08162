"""Tables of many rows: one line each where nobody reads along, folded where a terminal is narrow."""

from __future__ import annotations

import io

from rich.console import Console

from funcnet.cli._row_table import Column, RowTable

NAME = "encoder.layers.11.attention.self.query.weight"


def lines_of(table, **options):
    out = io.StringIO()
    table.print_to(Console(file=out, width=40, **options))
    return out.getvalue().splitlines()


def make_listing():
    table = RowTable(Column("path", is_folded=True), Column("shape"), Column("bytes", is_right=True))
    table.add_row(NAME, "[768, 768]", "2 MB")
    table.add_row("b", "[3]", "12 B")
    return table


def test_a_name_is_one_word_where_the_output_is_piped():
    assert lines_of(make_listing()) == [
        "",
        f"{'path':45}  shape       bytes",
        "─" * 64,
        f"{NAME}  [768, 768]   2 MB",
        f"{'b':45}  [3]          12 B",
        "",
    ]


def test_names_are_folded_on_a_narrow_terminal():
    lines = lines_of(make_listing(), force_terminal=True, color_system=None)
    assert max(map(len, lines)) <= 40
    assert "".join(line.split("  ")[0] for line in lines[3:6]) == NAME


def test_colours_are_of_the_first_cell_alone():
    table = RowTable(Column(""), Column("path", is_folded=True))
    table.add_row("guess", NAME, style="yellow")
    lines = lines_of(table, force_terminal=True, color_system="standard")
    assert lines[3] == f"\x1b[33mguess\x1b[0m  {NAME[:33]}"
    assert lines[4] == f"       {NAME[33:]}"


def test_wide_characters_take_two_columns():
    table = RowTable(Column("name", is_folded=True), Column("n"))
    table.add_row("重み", "1")
    assert lines_of(table)[3] == "重み  1"
