"""``funcnet inspect``: what is in a checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from funcnet._errors import FuncnetError
from funcnet._format import format_bytes, format_number
from funcnet.checkpoint import Checkpoint, Stats, load, stats
from funcnet.checkpoint.internals import dtype_name, select_part
from funcnet.cli._options import AsJson, Part, Select
from funcnet.cli._row_table import Column, RowTable
from funcnet.cli._terminal import (
    exit_on_error,
    plain_text,
    print_json,
    printable_text,
    show_byte_progress,
    stdout_console,
)


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
    with exit_on_error("inspect", FuncnetError, OSError):
        ckpt = select_part(load(file), part, select or None)
        stats_by_name: dict[str, Stats] = {}
        if with_stats:
            with show_byte_progress("reading") as progress:
                stats_by_name = stats(ckpt, progress)
    if as_json:
        print_json(_checkpoint_to_json(ckpt, stats_by_name))
        return
    console = stdout_console()
    _list_tensors(ckpt, stats_by_name).print_to(console)
    for path, obj in ckpt.objects.items():
        console.print(plain_text(f"{path or 'all of it'} is a {obj.type_name}, read as its tensors"), soft_wrap=True)
    for name, value in ckpt.extras.items():
        console.print(plain_text(f"{name} = {value!r:.100}"), soft_wrap=True)
    ties = f", {len(ckpt.aliases)} ties" if ckpt.aliases else ""
    total = f"{len(ckpt.entries)} tensors{ties}, {_count_elements(ckpt):,} elements, {format_bytes(ckpt.nbytes)}"
    console.print(f"{total}, {ckpt.format}", markup=False, soft_wrap=True)


def _count_elements(ckpt: Checkpoint) -> int:
    return sum(spec.nbytes // spec.dtype.itemsize for spec in ckpt.specs.values())


def _list_tensors(ckpt: Checkpoint, stats_by_name: Mapping[str, Stats]) -> RowTable:
    columns = [Column("path", is_folded=True), Column("shape"), Column("dtype"), Column("bytes", is_right=True)]
    if stats_by_name:
        columns += [Column(heading, is_right=True) for heading in ("min", "max", "mean", "NaN", "inf")]
    table = RowTable(*columns)
    for name, spec in ckpt.specs.items():
        row = [printable_text(name), str(list(spec.shape)), dtype_name(spec.dtype), format_bytes(spec.nbytes)]
        if name in stats_by_name:
            tensor_stats = stats_by_name[name]
            values = (tensor_stats.min, tensor_stats.max, tensor_stats.mean)
            row += ["" if value is None else format_number(value) for value in values]
            row += [str(count) if count else "" for count in (tensor_stats.nan, tensor_stats.inf)]
        table.add_row(*row)
    for alias, owner in ckpt.aliases.items():
        table.add_row(printable_text(alias), "tie", printable_text(f"to {owner}"))
    return table


def _checkpoint_to_json(ckpt: Checkpoint, stats_by_name: Mapping[str, Stats]) -> dict[str, Any]:
    return {
        "path": str(ckpt.path),
        "format": ckpt.format,
        "tensors": [
            {
                "name": name,
                "shape": list(spec.shape),
                "dtype": dtype_name(spec.dtype),
                "bytes": spec.nbytes,
                **({"stats": dataclasses.asdict(stats_by_name[name])} if name in stats_by_name else {}),
            }
            for name, spec in ckpt.specs.items()
        ],
        "aliases": ckpt.aliases,
        "objects": {path: obj.type_name for path, obj in ckpt.objects.items()},
        "extras": {name: repr(value) for name, value in ckpt.extras.items()},
        "metadata": ckpt.metadata,
        "elements": _count_elements(ckpt),
        "bytes": ckpt.nbytes,
    }
