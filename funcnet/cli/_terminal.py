"""What the commands print in one way: errors, progress, tables, JSON, and text out of files."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import typer
from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from funcnet._errors import FuncnetError

CALL_ERRORS = (FuncnetError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, NotImplementedError)
"""The errors by which a module of a user says that it does not take the inputs."""


def stdout_console() -> Console:
    """A console that prints text as it is, without colouring numbers and paths."""
    return Console(highlight=False)


def stderr_console() -> Console:
    """The same for messages beside the output."""
    return Console(stderr=True, highlight=False)


@contextmanager
def exit_on_error(command: str, *error_types: type[Exception], as_one_line: bool = False) -> Iterator[None]:
    """Run a block; an error of one of these types is printed to stderr, and the command exits with 2.

    Args:
        command: the name of the command, which stands before the message.
        error_types: the errors that users can mend.
        as_one_line: whether the lines of the message are joined; they are wrapped on a terminal only.
    """
    try:
        yield
    except error_types as error:
        console = stderr_console()
        message = " ".join(str(error).split()) if as_one_line else str(error)
        console.print(Text(f"funcnet {command}: {message}"), soft_wrap=not (as_one_line and console.is_terminal))
        raise typer.Exit(2) from None


@contextmanager
def show_byte_progress(description: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with bytes and their rate on a terminal, and nothing elsewhere.

    Yields:
        A function of the bytes that are done and of all bytes.
    """
    console = stderr_console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def show_share_progress() -> Iterator[Callable[[str, float], None]]:
    """A bar with a share and the elapsed time on a terminal, and nothing elsewhere.

    Yields:
        A function of a description and of the share that is done, from 0 to 1.
    """
    console = stderr_console()
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda description, share: bar.update(task, description=description, completed=share)


def make_table() -> Table:
    """An empty table in the form that all commands use."""
    return Table(box=box.SIMPLE_HEAD, pad_edge=False)


def printable_text(*lines: str) -> str:
    """Names and words out of a file, as lines without the codes that steer a terminal.

    >>> printable_text("[bold]fc", "\\x1b[31mred")
    '[bold]fc\\n\\\\x1b[31mred'
    """
    return "\n".join(
        line if line.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in line) for line in lines
    )


def plain_text(*lines: str) -> Text:
    """The same for rich, which would take brackets for markup."""
    return Text(printable_text(*lines))


@contextmanager
def user_code() -> Iterator[None]:
    """A block that runs code of the user: the current folder is importable, and what the code prints goes to stderr."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    with redirect_stdout(sys.stderr):
        yield


def write_lines(file: Path, text: str) -> None:
    """Write text to a file, and say so on stderr."""
    file.write_text(text if text.endswith("\n") else f"{text}\n", encoding="utf-8")
    stderr_console().print(Text(f"{file}: {len(text.splitlines())} lines"), soft_wrap=True)


def print_code(program: str) -> None:
    """Print Python code to stdout, with colours on a terminal."""
    console = stdout_console()
    if console.is_terminal:
        console.print(Syntax(program, "python", theme="ansi_dark", background_color="default"))
    else:
        sys.stdout.write(program if program.endswith("\n") else f"{program}\n")


def print_json(value: object) -> None:
    """Print one JSON object to stdout."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")
