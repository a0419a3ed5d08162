"""What the commands about checkpoints share: errors, progress, sizes and tables."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.text import Text

from funcnet._errors import FuncnetError

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Part = Annotated[
    str | None,
    typer.Option("--part", metavar="PATH", help='The part of a training checkpoint, as "model".', show_default=False),
]
Select = Annotated[
    list[str] | None,
    typer.Option(
        "--select",
        "-s",
        metavar="PATTERN",
        help='Only these tensors: "layers.*.attn", "**.bias", "!head". May be repeated; the last that matches counts.',
        show_default=False,
    ),
]


@contextmanager
def refusing(command: str) -> Iterator[None]:
    """Run a block; what cannot be done is said on stderr, and the exit code is 2."""
    try:
        yield
    except (FuncnetError, OSError) as error:
        console = Console(stderr=True, highlight=False)
        console.print(Text(f"funcnet {command}: {error}"), soft_wrap=True)
        raise typer.Exit(2) from None


@contextmanager
def progress(doing: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with bytes and their rate on a terminal, and nothing elsewhere."""
    console = Console(stderr=True, highlight=False)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(doing, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def plain(*lines: str) -> Text:
    """Names and words out of a file, as they are: no markup, and nothing that moves or colours a terminal.

    >>> plain("[bold]fc", "\\x1b[31mred").plain
    '[bold]fc\\n\\\\x1b[31mred'
    """
    shown = ("".join(c if c.isprintable() else repr(c)[1:-1] for c in line) for line in lines)
    return Text("\n".join(shown))


def print_json(value: Any) -> None:
    """One JSON object on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def size(count: int) -> str:
    """Bytes as a reader wants them.

    >>> size(0), size(1536), size(4_000_000_000)
    ('0 B', '1.54 kB', '4.00 GB')
    """
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{count} B" if unit == "B" else f"{value:.2f} {unit}"


def selector(patterns: list[str] | None) -> list[str] | None:
    """The patterns; where the first takes something out, it is taken out of everything.

    >>> selector(["!head"]), selector([])
    (['**', '!head'], None)
    """
    if not patterns:
        return None
    return ["**", *patterns] if patterns[0].startswith("!") else list(patterns)
