"""The commands, put together."""

from __future__ import annotations

from typing import Annotated

import typer

import funcnet
from funcnet.cli._compare import compare
from funcnet.cli._convert import convert_command
from funcnet.cli._diff import diff_command, verify_command
from funcnet.cli._inspect import inspect_command
from funcnet.cli._rules import match_command, rules_command
from funcnet.cli._source import source_command

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.command()(compare)
app.command("convert")(convert_command)
app.command("inspect")(inspect_command)
app.command("diff")(diff_command)
app.command("verify")(verify_command)
app.command("source")(source_command)
app.command("match")(match_command)
app.command("rules")(rules_command)


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
