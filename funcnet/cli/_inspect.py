"""``funcnet inspect``: what is in a checkpoint."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from funcnet.checkpoint import Checkpoint, Stats, load, stats
from funcnet.checkpoint.internals import dtype_name, select_part
from funcnet.cli._checkpoints import AsJson, Part, Select, plain, print_json, progress, refusing, selector, size
from funcnet.cli._words import digits


def inspect_command(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A checkpoint: a file, an index of shards, or a folder.")],
    part: Part = None,
    select: Select = None,
    with_stats: Annotated[bool, typer.Option("--stats", help="Read the tensors: min, max, mean, NaN.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a checkpoint holds: paths, shapes, dtypes, bytes, ties. Tensors are read for --stats only.

    The exit code is 0, or 2 if it cannot be read.
    """
    with refusing("inspect"):
        ckpt = select_part(load(file), part, selector(select))
        found: dict[str, Stats] = {}
        if with_stats:
            with progress("reading") as advance:
                found = stats(ckpt, advance)
    if as_json:
        print_json(_as_json(ckpt, found))
        return
    console = Console(highlight=False)
    console.print(_table(ckpt, found))
    for name, value in ckpt.extras.items():
        console.print(plain(f"{name} = {value!r:.100}"), soft_wrap=True)
    ties = f", {len(ckpt.aliases)} ties" if ckpt.aliases else ""
    total = f"{len(ckpt.entries)} tensors{ties}, {_elements(ckpt):,} elements, {size(ckpt.nbytes)}"
    console.print(f"{total}, {ckpt.format}", markup=False, soft_wrap=True)


def _elements(ckpt: Checkpoint) -> int:
    return sum(spec.nbytes // spec.dtype.itemsize for spec in ckpt.specs.values())


def _table(ckpt: Checkpoint, found: dict[str, Stats]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("path", overflow="fold")
    table.add_column("shape", no_wrap=True)
    table.add_column("dtype", no_wrap=True)
    table.add_column("bytes", justify="right", no_wrap=True)
    for head in ("min", "max", "mean", "NaN", "inf") if found else ():
        table.add_column(head, justify="right", no_wrap=True)
    for name, spec in ckpt.specs.items():
        row: list[str | Text] = [plain(name), Text(str(list(spec.shape))), dtype_name(spec.dtype), size(spec.nbytes)]
        if name in found:
            one = found[name]
            row += ["" if value is None else _signed(value) for value in (one.min, one.max, one.mean)]
            row += [str(count) if count else "" for count in (one.nan, one.inf)]
        table.add_row(*row)
    for alias, owner in ckpt.aliases.items():
        table.add_row(plain(alias), "tie", plain(f"to {owner}"))
    return table


def _signed(value: float) -> str:
    return f"-{digits(-value)}" if value < 0 else digits(value)


def _as_json(ckpt: Checkpoint, found: dict[str, Stats]) -> dict[str, Any]:
    return {
        "path": str(ckpt.path),
        "format": ckpt.format,
        "tensors": [
            {
                "name": name,
                "shape": list(spec.shape),
                "dtype": dtype_name(spec.dtype),
                "bytes": spec.nbytes,
                **({"stats": dataclasses.asdict(found[name])} if name in found else {}),
            }
            for name, spec in ckpt.specs.items()
        ],
        "aliases": ckpt.aliases,
        "extras": {name: repr(value) for name, value in ckpt.extras.items()},
        "metadata": ckpt.metadata,
        "elements": _elements(ckpt),
        "bytes": ckpt.nbytes,
    }
