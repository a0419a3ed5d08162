"""Two programs beside each other, or one above the other where the terminal is narrow."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table

from funcnet.compare import Programs
from funcnet.compare.internals import shorten_code

FRAME = 4


@dataclass(frozen=True)
class SideBySide:
    """Both programs of something, each in a panel with a title."""

    programs: Programs
    stateful_title: str
    stateless_title: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        titles = (self.stateful_title, self.stateless_title)
        codes = [shorten_code(code) for code in (self.programs.stateful, self.programs.stateless)]
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
