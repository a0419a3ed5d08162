"""``funcnet source``: a module as plain functions of its params, or as one class."""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.syntax import Syntax
from rich.text import Text

from funcnet._errors import FuncnetError
from funcnet.cli._inputs import Inputs
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
    errors = Console(stderr=True, highlight=False)
    try:
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        with redirect_stdout(sys.stderr):  # whatever a foreign module prints
            module, args, kwargs = built_target(target, inputs or (), seed=0)
            text = source(module, *args, train=train, style=style, **kwargs)
    except (FuncnetError, ValueError, TypeError) as error:
        errors.print(Text(f"funcnet source: {' '.join(str(error).split())}"), soft_wrap=not errors.is_terminal)
        raise typer.Exit(2) from None
    if output is not None:
        output.write_text(text, encoding="utf-8")
        errors.print(Text(f"{output}: {len(text.splitlines())} lines"), soft_wrap=True)
        return
    console = Console(highlight=False)
    if console.is_terminal:
        console.print(Syntax(text, "python", theme="ansi_dark", background_color="default"))
    else:
        sys.stdout.write(text)
