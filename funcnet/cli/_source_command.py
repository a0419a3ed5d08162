"""``funcnet source``: a module as plain functions of its params, or as one class."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from funcnet._errors import FuncnetError
from funcnet.cli._options import AllowRounding, Inputs, Target
from funcnet.cli._terminal import exit_on_error, print_code, user_code, write_lines
from funcnet.compare import built_target
from funcnet.program import source


def source_command(
    target: Target,
    inputs: Inputs = None,
    train: Annotated[bool, typer.Option("--train", help="Write the forward of training mode down.")] = False,
    style: Annotated[str, typer.Option("--style", metavar="STYLE", help="stateless or stateful.")] = "stateless",
    allow_rounding: AllowRounding = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write to a file, which runs by itself.")
    ] = None,
) -> None:
    """Write a module down as plain torch and F calls over its params, checked to give the module's own bits.

    The exit code is 0, or 2 if it cannot be written down.
    """
    with exit_on_error("source", FuncnetError, ValueError, TypeError, as_one_line=True), user_code():
        module, args, kwargs = built_target(target, inputs or (), seed=0)
        program = source(module, *args, train=train, style=style, exact=not allow_rounding, **kwargs)  # type: ignore[arg-type]
    if output is not None:
        write_lines(output, program)
    else:
        print_code(program)
