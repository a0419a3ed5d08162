"""The commands, put together. A command is imported when it runs, so that help and version need no torch."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any

import rich  # noqa: F401  # the commands need it, and the entry point reports if it is missing
import typer
from typer.core import TyperCommand

import funcnet

COMMANDS = {
    "compare": "Run one model stateful and stateless, side by side.",
    "convert": "Convert a checkpoint between formats and layouts, proved before it is done.",
    "inspect": "Show what a checkpoint holds: paths, shapes, dtypes, bytes, ties. Tensors are read for --stats only.",
    "diff": "Compare two checkpoints of any formats: names, shapes, dtypes, ties, and values bit by bit.",
    "verify": "Check the certificate of a conversion: prove its rules again, carry them out, and hash both sides.",
    "source": "Write a module down as plain torch and F calls over its params, checked to give the module's own bits.",
    "trace": "Trace a module once, and print its forward as plain torch and F calls over its params.",
    "effects": "Say what a call does besides computing its output, by path and line: draws, hidden states and more.",
    "summary": "Show what is in a module: paths, types, output shapes, parameters and bytes.",
    "match": "Propose rules from a checkpoint to another layout: by prefixes, shapes, words in names, and order.",
    "rules": "Print ready rules: between layouts of known models, as transformers and Meta, or from Flax to torch.",
}
"""Each command, and the first paragraph of the docstring of its function, ``NAME_command`` in ``_NAME_command.py``."""

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


class _CommandOnDemand(TyperCommand):
    """A command in the list of commands, which imports the real command when it runs."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        return load_command(info_name or "").make_context(info_name, args, parent, **extra)


def load_command(name: str) -> Any:
    """Import a command with its arguments and options."""
    function = getattr(import_module(f"funcnet.cli._{name}_command"), f"{name}_command")
    command_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    command_app.command(name)(function)
    return typer.main.get_command(command_app)


def _placeholder() -> None: ...


for _name, _summary in COMMANDS.items():
    app.command(_name, cls=_CommandOnDemand, help=_summary)(_placeholder)


def _print_version(is_asked_for: bool) -> None:
    if is_asked_for:
        typer.echo(f"funcnet {funcnet.__version__}")
        raise typer.Exit


@app.callback()
def _commands(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """PyTorch models as pure functions over explicit parameter trees, and both ways to nn.Module."""
