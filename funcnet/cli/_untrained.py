"""The report on a module of the user's."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from funcnet.cli._articles import rounding
from funcnet.cli._programs import SideBySide
from funcnet.cli._words import differing, digits, gap, ratio
from funcnet.compare import NotPossible, Sides, Untrained


def untrained_report(result: Untrained) -> RenderableType:
    """Programs, numbers, and what they mean."""
    return Group(*_parts(result))


def _parts(result: Untrained) -> Iterator[RenderableType]:
    yield Rule(Text(f"funcnet compare: {result.title}, stateful and stateless", "bold"))
    yield Text(
        f"{result.name}, {result.parameters:,} parameters, built and called with seed {result.seed} on "
        f"{', '.join(result.inputs)}. {result.parts} torch {result.versions['torch']}, one CPU thread.\n"
    )
    yield SideBySide(result.programs, "nn.Module", "funcnet")
    yield _differences(result)
    yield _costs(result)
    yield from _per_sample(result)
    yield from (Text(f"{note}\n") for note in result.notes)
    yield Text(_conclusion(result), "bold" if result.passes else "bold red")


def _differences(result: Untrained) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Largest difference")
    table.add_column("", justify="right")
    for what, value in result.largest_difference.items():
        table.add_row(f"  {what}", gap(value))
    return table


def _costs(result: Untrained) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Cost")
    for title in ("nn.Module", "funcnet", "ratio"):
        table.add_column(title, justify="right")

    def row(label: str, sides: Sides, scale: float) -> None:
        table.add_row(f"  {label}", digits(sides.stateful * scale), digits(sides.stateless * scale), ratio(sides.ratio))

    row("forward, eval, ms", result.forward_seconds, 1e3)
    row("forward and backward, training, ms", result.step_seconds, 1e3)
    if isinstance(result.peak_bytes, Sides):
        row("most bytes of tensors in it, KiB", result.peak_bytes, 1 / 1024)
    return table


def _per_sample(result: Untrained) -> Iterator[RenderableType]:
    if isinstance(result.peak_bytes, NotPossible):
        yield Text(f"Memory was not counted: {result.peak_bytes.reason}.\n")
    found = result.per_sample
    if isinstance(found, NotPossible):
        yield Text(f"Gradients of single samples by vmap: not here, as {found.reason}.\n")
        return
    yield Text("A gradient for each sample of the batch, in a line, which an nn.Module needs a loop for:")
    yield Padding(Text(found.line, "bold"), (1, 5))
    yield Text.assemble(
        f"{found.batch} gradients: {digits(found.loop_seconds * 1e3)} ms by the loop, ",
        f"{digits(found.vmap_seconds * 1e3)} ms by the line, ",
        (f"{found.speed_up:.2g}x as fast", "bold"),
        "; largest difference ",
        rounding(found),
        f" where gradients reach {found.largest_gradient:.2g}.",
        f" vmap has no rule for {', '.join(found.loops_inside)} and loops there itself." if found.loops_inside else "",
        "\n",
    )


def _conclusion(result: Untrained) -> str:
    if not result.identical:
        return (
            f"The two forms are NOT the same. {differing([result])} Unless a note above explains it, this should not "
            f"happen: please report it with the output of funcnet compare --json."
        )
    if not result.passes:
        return "The two forms are the same, but the gradients of single samples differ by more than rounding."
    return (
        f"Every difference is exactly 0: fn.from_module keeps what {result.title} computes, and its weights are now an "
        f"argument. A forward costs {result.forward_seconds.ratio:.2f}x, forward and backward "
        f"{result.step_seconds.ratio:.2f}x that of the module. Use the net where you want to transform it, run it with "
        f"several sets of weights, or keep a model as a value; fn.to_module gives a module back."
    )
