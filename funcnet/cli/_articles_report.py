"""The report of ``funcnet compare`` on the models that it trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from funcnet._format import format_number
from funcnet.cli._comparison_text import (
    describe_differences,
    difference_text,
    format_range,
    ratio_text,
    rounding_text,
)
from funcnet.cli._side_by_side import SideBySide
from funcnet.cli._terminal import make_table
from funcnet.compare import Articles, Sides, Trained


def articles_report(result: Articles) -> RenderableType:
    """The programs, their numbers, and a conclusion."""
    return Group(*_iter_sections(result))


def _iter_sections(result: Articles) -> Iterator[RenderableType]:
    yield Rule("[bold]funcnet compare: one model, stateful and stateless[/]")
    yield Text(
        f"Each model below is written twice, starts from the same weights (seed {result.seed}), and takes "
        f"{result.steps} steps on the same batches of {result.batch} images: once as nn.Module with torch.optim, once "
        f"as pure functions over explicit params. The data are scikit-learn's handwritten digits, "
        f"{result.images['train']} images to train on and {result.images['test']} to test with. "
        f"torch {result.versions['torch']} on one CPU thread.\n"
    )
    for model in result.models:
        yield Rule(f"{model.title}, {model.parameters:,} parameters", align="left", style="dim")
        yield SideBySide(model.programs, "nn.Module", "funcnet")
    yield Rule("A training step, the same for all models", align="left", style="dim")
    yield SideBySide(result.training_step, "nn.Module and torch.optim", "funcnet: state in, new state out")
    yield Text(
        f"Both are SGD with RATE = {result.rate} and MOMENTUM = {result.momentum}. Dropout draws the same numbers in "
        f"both: torch.manual_seed(seed) comes before each step of the module.\n"
    )
    yield Rule("What only the stateless form does in a line", align="left", style="dim")
    yield Text(
        "A gradient for each image of a batch, where an nn.Module needs a loop. loss(params, sample) is a pure "
        "function of one image and its label:"
    )
    yield Padding(Text(result.models[0].per_sample.line, "bold"), (1, 5))
    yield Rule("The numbers", align="left", style="dim")
    yield _make_results_table(result)
    yield Text(
        f"Largest difference: of any number in any of the {result.steps} steps. Times: medians of calls on "
        f"{result.batch} images that take turns. Memory: the most bytes of tensors alive at one time, be they weights, "
        f"optimizer state, gradients, batch or activations; what a kernel uses inside itself is not seen. Image "
        f"gradients, one for each of the {result.batch}, differ by rounding, as one kernel for all images adds in "
        f"another order than a kernel for each.\n",
        "dim",
    )
    yield Text(_write_conclusion(result), "bold" if result.passes else "bold red")


def _make_results_table(result: Articles) -> Table:
    table = make_table()
    table.add_column("", no_wrap=True)
    for model in result.models:
        table.add_column(model.title, justify="right", vertical="bottom", max_width=14)

    def add_heading(text: str) -> None:
        table.add_row(Text(text, "bold"))

    def add_row(label: str, make_cell: Callable[[Trained], str | Text], is_last: bool = False) -> None:
        table.add_row(f"  {label}", *map(make_cell, result.models), end_section=is_last)

    def add_sides(heading: str, get_sides: Callable[[Trained], Sides], scale: float) -> None:
        add_heading(heading)
        add_row("nn.Module", lambda model: format_number(get_sides(model).stateful * scale))
        add_row("funcnet", lambda model: format_number(get_sides(model).stateless * scale))
        add_row("ratio", lambda model: ratio_text(get_sides(model).ratio), is_last=True)

    add_heading("Accuracy in tests, %")
    add_row("nn.Module", lambda model: f"{model.accuracy.stateful:.1%}"[:-1])
    add_row("funcnet", lambda model: f"{model.accuracy.stateless:.1%}"[:-1], is_last=True)
    add_heading("Largest difference")
    quantities = list(result.models[0].largest_difference)
    for name in quantities:
        differences = [difference_text(model.largest_difference[name]) for model in result.models]
        table.add_row(f"  {name}", *differences, end_section=name == quantities[-1])
    add_sides("Forward, ms", lambda model: model.forward_seconds, 1e3)
    add_sides("Training step, ms", lambda model: model.step_seconds, 1e3)
    add_sides("Memory of a step, KiB", lambda model: model.peak_bytes, 1 / 1024)
    add_heading("Image gradients, ms")
    add_row("nn.Module, loop", lambda model: format_number(model.per_sample.loop_seconds * 1e3))
    add_row("funcnet, vmap", lambda model: format_number(model.per_sample.vmap_seconds * 1e3))
    add_row("times as fast", lambda model: ratio_text(model.per_sample.speed_up))
    add_row("largest difference", lambda model: rounding_text(model.per_sample))
    return table


def _write_conclusion(result: Articles) -> str:
    if not result.passes:
        titles = [model.title for model in result.models if model.identical and not model.passes]
        more = f" Gradients per image differ by more than rounding for {', '.join(titles)}." if titles else ""
        return (
            f"The two forms are NOT the same. {describe_differences(result.models)}{more} This should not "
            f"happen: please report it with the output of funcnet compare --json."
        )
    forward = format_range(model.forward_seconds.ratio for model in result.models)
    step = format_range(model.step_seconds.ratio for model in result.models)
    memory = format_range(model.peak_bytes.ratio for model in result.models)
    speed = format_range(model.per_sample.speed_up for model in result.models)
    return (
        f"Every difference is exactly 0: the form changes nothing in the numbers, so choose by what you want to do. "
        f"For a plain training loop nn.Module serves well: here a pure step took {step} its time and {memory} its "
        f"memory, a pure forward {forward}. Take the pure function where a model is to be transformed or held as a "
        f"value, not mutated: gradients of single images came {speed} as fast as by a loop. fn.from_module and "
        f"fn.to_module go from one form to the other at any time."
    )
