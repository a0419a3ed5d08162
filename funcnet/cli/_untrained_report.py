"""The report of ``funcnet compare`` on a module of the user."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from funcnet._format import format_number, format_ratio
from funcnet.cli._comparison_text import describe_differences, difference_text, ratio_text, rounding_text
from funcnet.cli._effects_list import effects_list
from funcnet.cli._side_by_side import SideBySide
from funcnet.cli._terminal import make_table
from funcnet.compare import GradientCheck, NotPossible, Sides, Untrained
from funcnet.compare.internals import judge_effects, needs_mending


def untrained_report(result: Untrained) -> RenderableType:
    """The programs, their numbers, and a conclusion."""
    return Group(*_iter_sections(result))


def _iter_sections(result: Untrained) -> Iterator[RenderableType]:
    yield Rule(Text(f"funcnet compare: {result.title}, stateful and stateless", "bold"))
    yield Text(
        f"{result.name}, {result.parameters:,} parameters, built and called with seed {result.seed} on "
        f"{', '.join(result.inputs)}. {result.parts} torch {result.versions['torch']}, one CPU thread.\n"
    )
    yield effects_list(result.effects)
    yield SideBySide(result.programs, "nn.Module", "funcnet")
    yield _make_differences_table(result)
    yield from _iter_gradient_check(result.gradient)
    yield _make_costs_table(result)
    yield from _iter_per_sample(result)
    yield from (Text(f"{note}\n") for note in result.notes)
    yield from (Text(f"{missing.sentence}\n", "bold red") for missing in result.missing_modes)
    yield Text(_write_conclusion(result), "bold" if result.passes else "bold red")


def _make_differences_table(result: Untrained) -> Table:
    table = make_table()
    table.add_column("Largest difference")
    table.add_column("", justify="right")
    for quantity, difference in result.largest_difference.items():
        table.add_row(f"  {quantity}", difference_text(difference))
    return table


def _iter_gradient_check(check: GradientCheck | NotPossible) -> Iterator[RenderableType]:
    if isinstance(check, NotPossible):
        yield Text(f"The gradient was not compared with finite differences: {check.reason}.\n")
        return
    table = make_table()
    table.add_column("Derivative in one direction, float64")
    for form in check.derivatives:
        table.add_column(form, justify="right")
    table.add_row("  by backward", *(f"{check.worst_derivative(form):.10g}" for form in check.derivatives))
    table.add_row("  by finite differences", *(f"{check.quotient:.10g}" for _ in check.derivatives))
    errors = [
        Text(f"{error:.1g}", "bold green" if check.is_right(form) else "bold red")
        for form, error in check.errors.items()
    ]
    table.add_row("  error, in units of rounding", *errors)
    yield table
    yield Text(f"{check.verdict}\n", "" if check.all_right else "bold red")


def _make_costs_table(result: Untrained) -> Table:
    table = make_table()
    table.add_column("Cost")
    for title in ("nn.Module", "funcnet", "ratio"):
        table.add_column(title, justify="right")

    def add_row(label: str, sides: Sides | NotPossible, scale: float) -> None:
        if isinstance(sides, NotPossible):
            return
        numbers = (format_number(value * scale) for value in (sides.stateful, sides.stateless))
        table.add_row(f"  {label}", *numbers, ratio_text(sides.ratio))

    add_row("forward, eval, ms", result.forward_seconds, 1e3)
    add_row("forward and backward, training, ms", result.step_seconds, 1e3)
    add_row("most bytes of tensors in it, KiB", result.peak_bytes, 1 / 1024)
    return table


def _iter_per_sample(result: Untrained) -> Iterator[RenderableType]:
    costs = {
        "A forward was not timed": result.forward_seconds,
        "A step was not timed": result.step_seconds,
        "Memory was not counted": result.peak_bytes,
    }
    yield from (Text(f"{what}: {cost.reason}.\n") for what, cost in costs.items() if isinstance(cost, NotPossible))
    per_sample = result.per_sample
    if isinstance(per_sample, NotPossible):
        yield Text(f"Gradients of single samples by vmap: not here, as {per_sample.reason}.\n")
        return
    yield Text("A gradient for each sample of the batch, in a line, which an nn.Module needs a loop for:")
    yield Padding(Text(per_sample.line, "bold"), (1, 5))
    yield Text.assemble(
        f"{per_sample.batch} gradients: {format_number(per_sample.loop_seconds * 1e3)} ms by the loop, ",
        f"{format_number(per_sample.vmap_seconds * 1e3)} ms by the line, ",
        (f"{format_ratio(per_sample.speed_up)} as fast", "bold"),
        "; largest difference ",
        rounding_text(per_sample),
        f" where gradients reach {per_sample.largest_gradient:.2g}.",
        f" vmap has no rule for {', '.join(per_sample.loops_inside)} and loops there itself."
        if per_sample.loops_inside
        else "",
        "\n",
    )


def _write_conclusion(result: Untrained) -> str:
    check = result.gradient
    if isinstance(check, NotPossible) or check.is_right("nn.Module"):
        return _compare_values(result)
    differing = {quantity for quantity, gap in result.largest_difference.items() if gap}
    if differing == {"gradients"} and check.is_right("funcnet"):
        gap = result.largest_difference["gradients"]
        effects = judge_effects(result.effects, result.title)
        return " ".join(
            [check.verdict, f"So the gradients differ, by {gap:.2g} here; all other numbers are the same.", *effects]
        )
    return f"{check.verdict} {_compare_values(result)}"


def _compare_values(result: Untrained) -> str:
    if any(missing.is_fault_of_net for missing in result.missing_modes):
        return "The two forms are NOT the same: the net does not run where the module does. Please report it."
    if not result.identical:
        return (
            f"The two forms are NOT the same. {describe_differences([result])} Unless a note above explains it, "
            f"this should not happen: please report it with the output of funcnet compare --json."
        )
    if isinstance(result.gradient, GradientCheck) and not result.gradient.passes:
        return f"The two forms are the same, but for this: {result.gradient.verdict}"
    if not result.passes:
        return "The two forms are the same, but the gradients of single samples differ by more than rounding."
    costs = _describe_costs(result)
    effects = " ".join(judge_effects(result.effects, result.title))
    if needs_mending(result.effects):
        return f"{effects} Both forms computed the same numbers here: every difference is exactly 0. {costs}"
    advice = (
        "Use the net where you want to transform it, run it with several sets of weights, or keep a model as a value; "
        "fn.to_module gives a module back."
    )
    modes = "".join(
        f", though not in {missing.mode} mode, where nothing was compared" for missing in result.missing_modes
    )
    same = (
        f"Every difference is exactly 0: fn.from_module keeps what {result.title} computes{modes}, and its weights are "
    )
    return " ".join(filter(None, [f"{same}now an argument.", costs, effects, advice]))


def _describe_costs(result: Untrained) -> str:
    """What the net costs beside the module, as a sentence; empty if nothing was timed."""
    timed = {"A forward costs": result.forward_seconds, "forward and backward": result.step_seconds}
    ratios = [f"{what} {format_ratio(sides.ratio)}" for what, sides in timed.items() if isinstance(sides, Sides)]
    if not ratios:
        return ""
    sentence = f"{', '.join(ratios)} that of the module."
    return sentence if sentence.startswith("A ") else f"F{sentence[1:].replace('backward ', 'backward cost ', 1)}"
