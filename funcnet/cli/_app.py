"""The commands, put together. A command is imported when it runs, so that help and version need no torch."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any

import rich  # noqa: F401  # the commands need it: if it is missing, that is said before one is chosen
import typer
from typer.core import TyperCommand

import funcnet

COMMANDS = {
    "compare": ("_compare", "compare", "Run one model stateful and stateless, side by side."),
    "convert": (
        "_convert",
        "convert_command",
        "Convert a checkpoint between formats and layouts, proved before it is done.",
    ),
    "inspect": (
        "_inspect",
        "inspect_command",
        "Show what a checkpoint holds: paths, shapes, dtypes, bytes, ties. Tensors are read for --stats only.",
    ),
    "diff": (
        "_diff",
        "diff_command",
        "Compare two checkpoints of any formats: names, shapes, dtypes, ties, and values bit by bit.",
    ),
    "verify": (
        "_diff",
        "verify_command",
        "Check the certificate of a conversion: prove its rules again, carry them out, and hash both sides.",
    ),
    "source": (
        "_source",
        "source_command",
        "Write a module down as plain torch and F calls over its params, checked to give the module's own bits.",
    ),
    "match": (
        "_rules",
        "match_command",
        "Propose rules from a checkpoint to another layout: by prefixes, shapes, words in names, and order.",
    ),
    "rules": (
        "_rules",
        "rules_command",
        "Print ready rules: from a GPT-2, Llama or BERT of transformers to funcnet.models, or from Flax to torch.",
    ),
}
"""Each command: its file, its function, and the first paragraph of that function's docstring."""

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


class _CommandOnDemand(TyperCommand):
    """Stands for a command in the list of commands, and hands over to the real one when that is to run."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        return load_command(info_name or "").make_context(info_name, args, parent, **extra)


def load_command(name: str) -> Any:
    """Import a command with its arguments and options."""
    file, function, _ = COMMANDS[name]
    command_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    command_app.command(name)(getattr(import_module(f"funcnet.cli.{file}"), function))
    return typer.main.get_command(command_app)


def _stand_in() -> None: ...


for _name, (_, _, _summary) in COMMANDS.items():
    app.command(_name, cls=_CommandOnDemand, help=_summary)(_stand_in)


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
