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
from funcnet.cli._side_by_side import SideBySide
from funcnet.cli._terminal import make_table
from funcnet.compare import NotPossible, Sides, Untrained


def untrained_report(result: Untrained) -> RenderableType:
    """The programs, their numbers, and a conclusion."""
    return Group(*_iter_sections(result))


def _iter_sections(result: Untrained) -> Iterator[RenderableType]:
    yield Rule(Text(f"funcnet compare: {result.title}, stateful and stateless", "bold"))
    yield Text(
        f"{result.name}, {result.parameters:,} parameters, built and called with seed {result.seed} on "
        f"{', '.join(result.inputs)}. {result.parts} torch {result.versions['torch']}, one CPU thread.\n"
    )
    yield SideBySide(result.programs, "nn.Module", "funcnet")
    yield _make_differences_table(result)
    yield _make_costs_table(result)
    yield from _iter_per_sample(result)
    yield from (Text(f"{note}\n") for note in result.notes)
    yield Text(_write_conclusion(result), "bold" if result.passes else "bold red")


def _make_differences_table(result: Untrained) -> Table:
    table = make_table()
    table.add_column("Largest difference")
    table.add_column("", justify="right")
    for quantity, difference in result.largest_difference.items():
        table.add_row(f"  {quantity}", difference_text(difference))
    return table


def _make_costs_table(result: Untrained) -> Table:
    table = make_table()
    table.add_column("Cost")
    for title in ("nn.Module", "funcnet", "ratio"):
        table.add_column(title, justify="right")

    def add_row(label: str, sides: Sides, scale: float) -> None:
        numbers = (format_number(value * scale) for value in (sides.stateful, sides.stateless))
        table.add_row(f"  {label}", *numbers, ratio_text(sides.ratio))

    add_row("forward, eval, ms", result.forward_seconds, 1e3)
    add_row("forward and backward, training, ms", result.step_seconds, 1e3)
    if isinstance(result.peak_bytes, Sides):
        add_row("most bytes of tensors in it, KiB", result.peak_bytes, 1 / 1024)
    return table


def _iter_per_sample(result: Untrained) -> Iterator[RenderableType]:
    if isinstance(result.peak_bytes, NotPossible):
        yield Text(f"Memory was not counted: {result.peak_bytes.reason}.\n")
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
    if not result.identical:
        return (
            f"The two forms are NOT the same. {describe_differences([result])} Unless a note above explains it, "
            f"this should not happen: please report it with the output of funcnet compare --json."
        )
    if not result.passes:
        return "The two forms are the same, but the gradients of single samples differ by more than rounding."
    return (
        f"Every difference is exactly 0: fn.from_module keeps what {result.title} computes, and its weights are now an "
        f"argument. A forward costs {format_ratio(result.forward_seconds.ratio)}, forward and backward "
        f"{format_ratio(result.step_seconds.ratio)} that of the module. Use the net where you want to "
        f"transform it, run it with several sets of weights, or keep a model as a value; fn.to_module gives a module "
        f"back."
    )
