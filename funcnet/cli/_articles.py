"""The report on the models that were trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from funcnet.cli._programs import SideBySide
from funcnet.cli._words import differing, digits, gap, ratio, span
from funcnet.compare import Articles, PerSample, Sides, Trained


def articles_report(result: Articles) -> RenderableType:
    """Programs, numbers, and what they mean."""
    return Group(*_parts(result))


def _parts(result: Articles) -> Iterator[RenderableType]:
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
    yield _table(result)
    yield Text(
        f"Largest difference: of any number in any of the {result.steps} steps. Times: medians of calls on "
        f"{result.batch} images that take turns. Memory: the most bytes of tensors alive at one time, be they weights, "
        f"optimizer state, gradients, batch or activations; what a kernel uses inside itself is not seen. Image "
        f"gradients, one for each of the {result.batch}, differ by rounding, as one kernel for all images adds in "
        f"another order than a kernel for each.\n",
        "dim",
    )
    yield Text(_conclusion(result), "bold" if result.passes else "bold red")


def _table(result: Articles) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for model in result.models:
        table.add_column(model.title, justify="right", vertical="bottom", max_width=14)

    def row(label: str, cell: Callable[[Trained], str | Text], last: bool = False) -> None:
        table.add_row(f"  {label}", *map(cell, result.models), end_section=last)

    def head(text: str) -> None:
        table.add_row(Text(text, "bold"))

    def sides(title: str, pick: Callable[[Trained], Sides], scale: float) -> None:
        head(title)
        row("nn.Module", lambda model: digits(pick(model).stateful * scale))
        row("funcnet", lambda model: digits(pick(model).stateless * scale))
        row("ratio", lambda model: ratio(pick(model).ratio), last=True)

    head("Accuracy in tests, %")
    row("nn.Module", lambda model: f"{model.accuracy.stateful:.1%}"[:-1])
    row("funcnet", lambda model: f"{model.accuracy.stateless:.1%}"[:-1], last=True)
    head("Largest difference")
    quantities = list(result.models[0].largest_difference)
    for name in quantities:
        gaps = [gap(model.largest_difference[name]) for model in result.models]
        table.add_row(f"  {name}", *gaps, end_section=name == quantities[-1])
    sides("Forward, ms", lambda model: model.forward_seconds, 1e3)
    sides("Training step, ms", lambda model: model.step_seconds, 1e3)
    sides("Memory of a step, KiB", lambda model: model.peak_bytes, 1 / 1024)
    head("Image gradients, ms")
    row("nn.Module, loop", lambda model: digits(model.per_sample.loop_seconds * 1e3))
    row("funcnet, vmap", lambda model: digits(model.per_sample.vmap_seconds * 1e3))
    row("times as fast", lambda model: Text(f"{model.per_sample.speed_up:.1f}x", "bold"))
    row("largest difference", lambda model: rounding(model.per_sample))
    return table


def rounding(found: PerSample) -> Text:
    """A difference that may be one of rounding; red where it is more."""
    return Text(f"{found.largest_difference:.1g}", "" if found.agrees else "bold red")


def _conclusion(result: Articles) -> str:
    if not result.passes:
        wrong = [model.title for model in result.models if model.identical and not model.passes]
        more = f" Gradients per image differ by more than rounding for {', '.join(wrong)}." if wrong else ""
        return (
            f"The two forms are NOT the same. {differing(result.models)}{more} This should not happen: please report "
            f"it with the output of funcnet compare --json."
        )
    forward = span(model.forward_seconds.ratio for model in result.models)
    step = span(model.step_seconds.ratio for model in result.models)
    memory = span(model.peak_bytes.ratio for model in result.models)
    speed = span((model.per_sample.speed_up for model in result.models), "{:.1f}x")
    return (
        f"Every difference is exactly 0: the form changes nothing in the numbers, so choose by what you want to do. "
        f"For a plain training loop nn.Module serves well: here a pure step took {step} its time and {memory} its "
        f"memory, a pure forward {forward}. Take the pure function where a model is to be transformed or held as a "
        f"value, not mutated: gradients of single images came {speed} as fast as by a loop. fn.from_module and "
        f"fn.to_module go from one form to the other at any time."
    )
