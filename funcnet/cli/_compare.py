"""``funcnet compare``: arguments in; a report, or JSON, out."""

from __future__ import annotations

import importlib
import io
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from funcnet._errors import FuncnetError
from funcnet.cli._articles import articles_report
from funcnet.cli._inputs import Inputs
from funcnet.cli._untrained import untrained_report
from funcnet.compare import (
    Articles,
    CompareError,
    Laboratory,
    Untrained,
    compare_articles,
    compare_module,
    study,
    to_json,
)

STEPS = 300
BUDGET, REPORT_BUDGET = 2.0, 0.5
"""Seconds for each thing timed. With a report, the laboratory times again what is timed here, and with its spread."""
COMPARING = 0.15
"""The share of the comparison in the time that a report takes."""

Progressing = Callable[[str, float], None]


def compare(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="TARGET",
            help='A module to compare, "package.module:callable(args)"; the arguments are Python literals. '
            "The current folder is importable. Without it, four models are trained.",
            show_default=False,
        ),
    ] = None,
    inputs: Inputs = None,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            metavar="NAME",
            help="Train only this one: sequential, modulelist, conv or batchnorm. May be repeated.",
            show_default=False,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option("--steps", help=f"Training steps of the four models; {STEPS} unless given.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**62, help="Seed of weights, inputs and draws.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="FILE",
            help="Measure every form of the models besides (nn.Module, functional_call, net, trace, compiled), try "
            "what each can do, and write one HTML page about it.",
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run one model stateful and stateless, side by side.

    Without TARGET, four small models are trained on handwritten digits, as nn.Module with torch.optim and as pure
    functions over explicit params. With TARGET, a module of yours is compared with its net on random inputs, without
    training. With --report, all of it becomes one HTML page with programs, figures and a verdict.

    The exit code is 0 if both forms gave the same numbers, 1 if they differ, 2 if there was nothing to compare.
    """
    errors = Console(stderr=True, highlight=False)
    try:
        with _progress(errors) as progress, redirect_stdout(_FirstLines()):  # whatever a foreign module prints
            if report is not None:
                check_report(report)
            result: Articles | Untrained
            doing, budget = (progress, BUDGET) if report is None else (_first(progress), REPORT_BUDGET)
            if target is None:
                _refuse(
                    inputs,
                    "--input",
                    'needs a TARGET whose input it is, as in: funcnet compare "torch.nn:Linear(3, 4)"',
                )
                chosen = STEPS if steps is None else steps
                result = compare_articles(models or (), steps=chosen, seed=seed, budget=budget, progress=doing)
            else:
                _refuse(
                    models or steps is not None,
                    "--model and --steps",
                    "are for the training, and a TARGET is not trained",
                )
                if os.getcwd() not in sys.path:
                    sys.path.insert(0, os.getcwd())
                result = compare_module(target, inputs or (), seed=seed, budget=budget, progress=doing)
            found: Articles | Untrained | Laboratory = result
            if report is not None:
                found = laboratory = study(result, command=_command(), progress=_rest(progress))
                write_report(laboratory, report)
    except FuncnetError as error:
        errors.print(Text(f"funcnet compare: {' '.join(str(error).split())}"), soft_wrap=not errors.is_terminal)
        raise typer.Exit(2) from None
    if as_json:
        sys.stdout.write(json.dumps(to_json(found), indent=2, allow_nan=False) + "\n")
    else:
        text = articles_report(result) if isinstance(result, Articles) else untrained_report(result)
        Console(highlight=False).print(text)
    if report is not None:
        errors.print(Text(f"The page is in {report}"), soft_wrap=True)
    raise typer.Exit(0 if found.passes else 1)


class _FirstLines(io.TextIOBase):
    """Passes the first lines that a module prints on to stderr: it is called many thousand times."""

    MOST = 20

    def __init__(self) -> None:
        self.lines = 0

    def write(self, text: str) -> int:
        if self.lines < self.MOST:
            sys.stderr.write(text)
            self.lines += text.count("\n")
            if self.lines >= self.MOST:
                sys.stderr.write("What the model prints from here on is left out.\n")
        return len(text)


def check_report(file: Path) -> None:
    """Refuse a page that cannot be made or written, before minutes go into measuring.

    Raises:
        CompareError: says what is missing, or what is in the way.
    """
    for name in ("jinja2", "matplotlib"):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:  # noqa: PERF203  # two rounds
            raise CompareError(f'--report needs {name}, which is not installed: pip install "funcnet[cli]".') from error
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        there = file.exists()
        with file.open("a"):
            pass
        if not there:  # a comparison that fails leaves no empty page
            file.unlink()
    except OSError as error:
        raise CompareError(f"the page cannot be written to {file}: {error.strerror or error}.") from error


def write_report(laboratory: Laboratory, file: Path) -> None:
    """Write the page about a laboratory."""
    from funcnet.report import page

    file.write_text(page(laboratory), encoding="utf-8")


def _command() -> str:
    """What was typed, to run it again."""
    return shlex.join(["funcnet", *sys.argv[1:]])


def _first(progress: Progressing) -> Progressing:
    """The comparison as the first part of a report."""
    return lambda doing, share: progress(doing, COMPARING * share)


def _rest(progress: Progressing) -> Progressing:
    return lambda doing, share: progress(doing, COMPARING + (1 - COMPARING) * share)


def _refuse(given: object, what: str, why: str) -> None:
    if given:
        raise CompareError(f"{what} {why}.")


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[str, float], None]]:
    """A bar on a terminal, and nothing elsewhere."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting", total=1.0)

        def advance(doing: str, share: float) -> None:
            bar.update(task, description=doing, completed=share)

        yield advance
