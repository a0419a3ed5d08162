"""``funcnet effects``: what a call of a module does besides computing its output."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from funcnet.cli._options import AsJson, Inputs, Output, Target, Train
from funcnet.cli._terminal import CALL_ERRORS, exit_on_error, print_json, stdout_console, user_code, write_lines
from funcnet.compare import built_target
from funcnet.inspect import effects


def effects_command(
    target: Target,
    inputs: Inputs = None,
    train: Train = False,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 if there are effects.")] = False,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Say what a call does besides computing its output, by path and line: draws, hidden states and more.

    The module is called several times, on copies and random inputs. The first axis of the inputs holds the examples.

    The exit code is 0, 1 with --check if there are effects, or 2 if the module cannot be called.
    """
    with exit_on_error("effects", *CALL_ERRORS, as_one_line=True), user_code():
        module, args, kwargs = built_target(target, inputs or (), seed=0)
        report = effects(module, *args, train=train, rng=0, **kwargs)  # type: ignore[arg-type]  # no such name
    if as_json:
        print_json({"effects": [dataclasses.asdict(effect) for effect in report], "notes": list(report.notes)})
    elif output is not None:
        write_lines(output, str(report))
    else:
        stdout_console().print(report)
    if check and report:
        raise typer.Exit(1)
