"""``funcnet source``: a module as plain functions of its params, or as one class."""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer
from rich.syntax import Syntax
from rich.text import Text

from funcnet._errors import FuncnetError
from funcnet.cli._options import Inputs
from funcnet.cli._terminal import exit_on_error, stderr_console, stdout_console
from funcnet.compare import built_target
from funcnet.program import source


def source_command(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help='A module, "package.module:callable(args)"; the arguments are Python literals. The current folder is '
            "importable.",
        ),
    ],
    inputs: Inputs = None,
    train: Annotated[bool, typer.Option("--train", help="Write the forward of training mode down.")] = False,
    style: Annotated[str, typer.Option("--style", metavar="STYLE", help="stateless or stateful.")] = "stateless",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write to a file, which runs by itself.")
    ] = None,
) -> None:
    """Write a module down as plain torch and F calls over its params, checked to give the module's own bits.

    The exit code is 0, or 2 if it cannot be written down.
    """
    with exit_on_error("source", FuncnetError, ValueError, TypeError, as_one_line=True):
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        with redirect_stdout(sys.stderr):  # the module may print
            module, args, kwargs = built_target(target, inputs or (), seed=0)
            program = source(module, *args, train=train, style=style, **kwargs)  # type: ignore[arg-type]  # it refuses others
    if output is not None:
        output.write_text(program, encoding="utf-8")
        stderr_console().print(Text(f"{output}: {len(program.splitlines())} lines"), soft_wrap=True)
        return
    console = stdout_console()
    if console.is_terminal:
        console.print(Syntax(program, "python", theme="ansi_dark", background_color="default"))
    else:
        sys.stdout.write(program)
