"""Two programs beside each other, or one above the other where the terminal is narrow."""

from __future__ import annotations

import ast
import textwrap
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table

from funcnet.compare import Programs

FRAME = 4
LONGEST = 48


@dataclass(frozen=True)
class SideBySide:
    """Both programs of something, each in a panel with a title."""

    programs: Programs
    stateful_title: str
    stateless_title: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        titles = (self.stateful_title, self.stateless_title)
        codes = [readable(code) for code in (self.programs.stateful, self.programs.stateless)]
        needed = [
            max(len(title) + 2, *map(len, code.splitlines())) + FRAME for title, code in zip(titles, codes, strict=True)
        ]
        slack = options.max_width - sum(needed)
        if slack < 0:
            yield from (_panel(title, code, None) for title, code in zip(titles, codes, strict=True))
            return
        height = max(len(code.splitlines()) for code in codes) + 2
        grid = Table.grid()
        for width, share in zip(needed, (slack // 2, slack - slack // 2), strict=True):
            grid.add_column(width=width + share)
        grid.add_row(*(_panel(title, code, height) for title, code in zip(titles, codes, strict=True)))
        yield grid


def _panel(title: str, code: str, height: int | None) -> Panel:
    syntax = Syntax(code, "python", theme="ansi_dark", background_color="default", word_wrap=True)
    return Panel(syntax, title=title, title_align="left", height=height, border_style="dim")


def readable(code: str) -> str:
    """Code without docstrings, and no more of it than fits on a screen; every line that is left is as it was.

    Of a long class, ``__init__`` and ``forward`` are kept; else ``forward`` alone.

    >>> readable('def f(x):\\n    "Double."\\n    return 2 * x\\n')
    'def f(x):\\n    return 2 * x'
    """
    code = textwrap.dedent(code)
    shorter = (_kept(code, methods) for methods in (None, ("__init__", "forward"), ("forward",)))
    for lines in shorter:
        if len(lines) <= LONGEST:
            break
    if len(lines) > LONGEST:
        lines = [*lines[: LONGEST - 1], f"# ... {len(lines) - LONGEST + 1} more lines, all in --json"]
    return "\n".join(lines)


def _kept(code: str, methods: tuple[str, ...] | None) -> list[str]:
    """Lines without docstrings and, if ``methods`` are named, without what else a class has."""
    lines = code.rstrip().splitlines()
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return lines
    dropped: set[int] = set()
    marks: dict[int, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) and len(node.body) > 1:
            dropped.update(_lines_of(node.body[0], lines))
        if isinstance(node, ast.ClassDef) and methods:
            dropped.update(range(_lines_of(node, lines)[0], node.lineno))  # decorators, which may hold pages of text
            for item in node.body:
                if not (isinstance(item, ast.FunctionDef) and item.name in methods):
                    dropped.update(_lines_of(item, lines))
                    marks[_lines_of(item, lines)[0]] = " " * item.col_offset + "..."
    kept: list[str] = []
    for number, line in enumerate(lines, 1):
        if number not in dropped:
            kept.append(line)
        elif number in marks and (not kept or kept[-1] != marks[number]):
            kept.append(marks[number])
    return kept


def _lines_of(node: ast.stmt, lines: list[str]) -> range:
    """Line numbers of a statement, its decorators and the blank line behind it included."""
    first = min([node.lineno, *(mark.lineno for mark in getattr(node, "decorator_list", ()))])
    last = node.end_lineno or node.lineno
    while last < len(lines) and not lines[last].strip():
        last += 1
    return range(first, last + 1)
