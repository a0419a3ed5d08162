"""The commands, put together."""

from __future__ import annotations

from typing import Annotated

import typer

import funcnet
from funcnet.cli._compare import compare

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.command()(compare)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"funcnet {funcnet.__version__}")
        raise typer.Exit


@app.callback()
def _commands(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """PyTorch models as pure functions over explicit parameter trees, and both ways to nn.Module."""
