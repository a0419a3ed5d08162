"""``funcnet compare``: takes the arguments; prints a report or JSON, and writes a page."""

from __future__ import annotations

import importlib
import io
import os
import shlex
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from funcnet._errors import FuncnetError
from funcnet.cli._articles_report import articles_report
from funcnet.cli._options import AsJson, Inputs
from funcnet.cli._terminal import exit_on_error, print_json, show_share_progress, stderr_console, stdout_console
from funcnet.cli._untrained_report import untrained_report
from funcnet.compare import (
    TIME_LIMIT,
    Articles,
    CompareError,
    Laboratory,
    Untrained,
    compare_articles,
    compare_module,
    study,
    to_json,
)

DEFAULT_STEPS = 300
BUDGET, BUDGET_WITH_PAGE = 2.0, 0.5
"""Seconds for each thing timed. For a page, the laboratory times it again, and with the spread."""
COMPARISON_SHARE = 0.15
"""The share of the comparison in the time that a page takes."""
COMPARISON_LIMIT_SHARE = 0.4
"""The share of the comparison in the time that a page may take. What it leaves goes to the study."""

ShareProgress = Callable[[str, float], None]


def compare_command(
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
        typer.Option(
            "--steps", help=f"Training steps of the four models; {DEFAULT_STEPS} unless given.", show_default=False
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**62, help="Seed of weights, inputs and draws.")] = 0,
    as_json: AsJson = False,
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
    time_limit: Annotated[
        float,
        typer.Option(
            "--time-limit",
            metavar="SECONDS",
            min=0.0,
            help="How long everything may take. What would take longer is left out, and the report says so.",
        ),
    ] = TIME_LIMIT,
) -> None:
    """Run one model stateful and stateless, side by side.

    Without TARGET, four small models are trained on handwritten digits, as nn.Module with torch.optim and as pure
    functions over explicit params. With TARGET, a module of yours is compared with its net on random inputs, without
    training. With --report, all of it becomes one HTML page with programs, figures and a verdict.

    The exit code is 0 if both forms gave the same numbers, 1 if they differ, 2 if there was nothing to compare.
    """
    with (
        exit_on_error("compare", FuncnetError, as_one_line=True),
        show_share_progress() as progress,
        redirect_stdout(_FirstLinesToStderr()),
    ):
        if report is not None:
            check_page(report)
        _check_options(target, inputs, models, steps)
        comparison: Articles | Untrained
        comparison_progress, budget, share = progress, BUDGET, 1.0
        if report is not None:
            comparison_progress, budget = _shift_progress(progress, 0.0, COMPARISON_SHARE), BUDGET_WITH_PAGE
            share = COMPARISON_LIMIT_SHARE
        start = time.perf_counter()
        if target is None:
            comparison = compare_articles(
                models or (),
                steps=DEFAULT_STEPS if steps is None else steps,
                seed=seed,
                budget=budget,
                progress=comparison_progress,
            )
        else:
            if os.getcwd() not in sys.path:
                sys.path.insert(0, os.getcwd())
            comparison = compare_module(
                target,
                inputs or (),
                seed=seed,
                budget=budget,
                time_limit=share * time_limit,
                progress=comparison_progress,
            )
        result: Articles | Untrained | Laboratory = comparison
        if report is not None:
            command = shlex.join(["funcnet", *sys.argv[1:]])
            study_progress = _shift_progress(progress, COMPARISON_SHARE, 1.0)
            remaining = max(0.0, time_limit - (time.perf_counter() - start))
            result = laboratory = study(comparison, time_limit=remaining, command=command, progress=study_progress)
            write_page(laboratory, report)
    if as_json:
        print_json(to_json(result))
    elif isinstance(comparison, Articles):
        stdout_console().print(articles_report(comparison))
    else:
        stdout_console().print(untrained_report(comparison))
    if report is not None:
        stderr_console().print(Text(f"The page is in {report}"), soft_wrap=True)
    raise typer.Exit(0 if result.passes else 1)


def _check_options(target: str | None, inputs: list[str] | None, models: list[str] | None, steps: int | None) -> None:
    """Refuse options that do not belong to what is compared."""
    if target is None and inputs:
        raise CompareError('--input needs a TARGET whose input it is, as in: funcnet compare "torch.nn:Linear(3, 4)".')
    if target is not None and (models or steps is not None):
        raise CompareError("--model and --steps are for the training, and a TARGET is not trained.")


class _FirstLinesToStderr(io.TextIOBase):
    """A stdout that passes the first lines on to stderr, because a module that prints is called thousands of times."""

    MAX_LINES = 20

    def __init__(self) -> None:
        self.lines = 0

    def write(self, text: str) -> int:
        if self.lines < self.MAX_LINES:
            sys.stderr.write(text)
            self.lines += text.count("\n")
            if self.lines >= self.MAX_LINES:
                sys.stderr.write("What the model prints from here on is left out.\n")
        return len(text)


def check_page(file: Path) -> None:
    """Refuse a page that cannot be made or written, before minutes are spent on measurements.

    Raises:
        CompareError: says which package is missing, or why the file cannot be written.
    """
    for name in ("jinja2", "matplotlib"):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:  # noqa: PERF203  # two rounds
            raise CompareError(f'--report needs {name}, which is not installed: pip install "funcnet[cli]".') from error
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        existed = file.exists()
        with file.open("a"):
            pass
        if not existed:  # a comparison that fails leaves no empty page
            file.unlink()
    except OSError as error:
        raise CompareError(f"the page cannot be written to {file}: {error.strerror or error}.") from error


def write_page(laboratory: Laboratory, file: Path) -> None:
    """Write the page about a laboratory."""
    from funcnet.report import page

    file.write_text(page(laboratory), encoding="utf-8")


def _shift_progress(progress: ShareProgress, start: float, end: float) -> ShareProgress:
    """Progress of a part of the work that goes from one share of all the work to another."""
    return lambda description, share: progress(description, start + (end - start) * share)
