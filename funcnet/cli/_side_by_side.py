"""Two programs side by side, or one above the other if the terminal is narrow."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table

from funcnet.compare import Programs
from funcnet.compare.internals import shorten_code

FRAME_WIDTH = 4


@dataclass(frozen=True)
class SideBySide:
    """The stateful and the stateless program of a model, each in a panel with a title."""

    programs: Programs
    stateful_title: str
    stateless_title: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        titles = (self.stateful_title, self.stateless_title)
        codes = [shorten_code(code) for code in (self.programs.stateful, self.programs.stateless)]
        widths = [
            max(len(title) + 2, *map(len, code.splitlines())) + FRAME_WIDTH
            for title, code in zip(titles, codes, strict=True)
        ]
        slack = options.max_width - sum(widths)
        if slack < 0:
            yield from (_make_panel(title, code, None) for title, code in zip(titles, codes, strict=True))
            return
        height = max(len(code.splitlines()) for code in codes) + 2
        grid = Table.grid()
        for width, share in zip(widths, (slack // 2, slack - slack // 2), strict=True):
            grid.add_column(width=width + share)
        grid.add_row(*(_make_panel(title, code, height) for title, code in zip(titles, codes, strict=True)))
        yield grid


def _make_panel(title: str, code: str, height: int | None) -> Panel:
    syntax = Syntax(code, "python", theme="ansi_dark", background_color="default", word_wrap=True)
    return Panel(syntax, title=title, title_align="left", height=height, border_style="dim")
