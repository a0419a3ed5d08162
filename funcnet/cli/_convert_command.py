"""``funcnet convert``: one checkpoint to another."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from funcnet._errors import FuncnetError
from funcnet._format import format_bytes
from funcnet.checkpoint import CheckpointError, Plan
from funcnet.checkpoint.internals import ConvertOptions, Paths, dtype_name, prepare_conversion, run_conversion
from funcnet.checkpoint.rules import to_plain
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


def convert_command(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="SRC... DST",
            help="A checkpoint: a file, an index of shards, or a folder; and a .safetensors, .pt, .pth, .bin or .npz "
            'file, or a folder, to write. Of several sources the names begin with 0., 1., ..., or with "name." if it '
            "is given as name=PATH.",
        ),
    ],
    rules: Annotated[
        Path | None, typer.Option("--rules", "-r", metavar="TOML", help="Rules to apply.", show_default=False)
    ] = None,
    inverse: Annotated[bool, typer.Option("--inverse", help="Apply the rules the other way.")] = False,
    scatter: Annotated[
        bool, typer.Option("--scatter", help="The first path is the source, and all others are targets.")
    ] = False,
    part: Part = None,
    select: Select = None,
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", metavar="NAME", help='Cast floating tensors, as "bfloat16".', show_default=False),
    ] = None,
    lossy: Annotated[bool, typer.Option("--lossy", help="Let --dtype change values.")] = False,
    shard_size: Annotated[
        str | None,
        typer.Option(
            "--shard-size",
            metavar="SIZE",
            help='Write a folder of files of at most this size, as "2GB".',
            show_default=False,
        ),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option("--format", metavar="NAME", help="Of a folder: safetensors, pt or dcp.", show_default=False),
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option("--certificate", metavar="JSON", help="Where to write the certificate.", show_default=False),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Prove and show the plan; write nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Convert a checkpoint between formats and layouts, proved before it is done.

    DST is whole or not there: it may be SRC, and an interrupted run leaves what was there. The exit code is 0 if it
    was done and 2 if it could not be.
    """
    options = ConvertOptions(inverse, part, select or None, dtype, lossy, shard_size, format)
    with exit_on_error("convert", FuncnetError, OSError):
        src, dst = _split_paths(paths, scatter)
        if dry_run:
            _, plan = prepare_conversion(src, dst, rules or (), options)
            if as_json:
                print_json(_plan_to_json(plan, dst, is_done=False))
            else:
                console = stdout_console()
                _list_steps(plan).print_to(console)
                outcome = f"would go from {_name_paths(src)} to {_name_paths(dst)}"
                console.print(_summarise_plan(plan, outcome), soft_wrap=True)
            return
        with show_byte_progress("converting") as progress:
            record = run_conversion(src, dst, rules or (), options, certificate, progress)
        if as_json:
            print_json(_plan_to_json(record.plan, dst, is_done=True))
        else:
            console = stdout_console()
            console.print(_summarise_plan(record.plan, f"written to {_name_paths(dst)}"), soft_wrap=True)
            for path, type_name in record.dissolved.items():
                where = f"{path!r}" if path else "what was saved"
                console.print(plain_text(f"Only the tensors of {where} are there, and no {type_name}."), soft_wrap=True)


def _split_paths(paths: list[str], scatter: bool) -> tuple[Paths, Paths]:
    """The source and the target, either of which may be several."""
    if len(paths) < 2:
        raise CheckpointError("convert needs a source and a target: SRC DST")
    sources, targets = (paths[:1], paths[1:]) if scatter else (paths[:-1], paths[-1:])
    if scatter:
        return sources[0], _label_paths(targets)
    return (sources[0] if len(sources) == 1 and not _is_labelled(sources[0]) else _label_paths(sources)), targets[0]


def _label_paths(paths: list[str]) -> Paths:
    if not all(map(_is_labelled, paths)):
        return paths
    return dict(path.split("=", 1) for path in paths)


def _is_labelled(path: str) -> bool:
    label, sign, _ = path.partition("=")
    return bool(sign) and label.isidentifier() and not os.path.exists(path)


def _name_paths(paths: Paths) -> str:
    if isinstance(paths, (str, os.PathLike)):
        return str(paths)
    return ", ".join(map(str, paths.values() if isinstance(paths, Mapping) else paths))


def _plan_to_json(plan: Plan, dst: Paths, is_done: bool) -> dict[str, Any]:
    return {
        "done": is_done,
        "target": dst,
        "rules": to_plain(plan.rules),
        "tensors": [
            {
                "name": step.target,
                "shape": list(step.spec.shape),
                "dtype": dtype_name(step.spec.dtype),
                "bytes": step.spec.nbytes,
                "from": list(step.sources),
                "how": step.how,
            }
            for step in plan.steps()
        ],
        "aliases": plan.aliases,
        "bytes": plan.target_bytes,
        "bijection": plan.proof.bijection,
        "lost": list(plan.proof.lost),
        "rounded": list(plan.proof.rounded),
        "computed": list(plan.proof.computed),
    }


def _list_steps(plan: Plan) -> RowTable:
    table = RowTable(
        *(Column("to", is_folded=True), Column("shape"), Column("dtype"), Column("bytes", is_right=True)),
        *(Column("how"), Column("from", is_folded=True)),
    )
    for step in plan.steps():
        spec = step.spec
        more = [f"and {len(step.sources) - 3} more"] if len(step.sources) > 4 else []
        sources = ", ".join([*(step.sources[:3] if more else step.sources), *more])
        row = (str(list(spec.shape)), dtype_name(spec.dtype), format_bytes(spec.nbytes), step.how)
        table.add_row(printable_text(step.target), *row, printable_text(sources))
    for alias, owner in plan.aliases.items():
        table.add_row(printable_text(alias), "", "", "", "tie", printable_text(owner))
    return table


def _summarise_plan(plan: Plan, outcome: str) -> Text:
    proof = plan.proof
    text = Text(f"{len(plan.targets)} tensors, {format_bytes(plan.target_bytes)}, {outcome}. ")
    if proof.bijection:
        return text.append(f"Proved: each of {proof.elements:,} elements goes to one place and comes back.", "green")
    losses = [f"dropped for good: {', '.join(proof.lost)}"] * bool(proof.lost)
    losses += [f"rounded: {', '.join(proof.rounded)}"] * bool(proof.rounded)
    losses += [f"computed: {', '.join(proof.computed)}"] * bool(proof.computed)
    return text.append(f"Proved but for what the rules declare: {plain_text('; '.join(losses))}.", "yellow")
