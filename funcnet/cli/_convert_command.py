"""``funcnet convert``: one checkpoint to another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from funcnet._errors import FuncnetError
from funcnet._format import format_bytes
from funcnet.checkpoint import Plan
from funcnet.checkpoint.internals import ConvertOptions, dtype_name, prepare_conversion, run_conversion
from funcnet.checkpoint.rules import to_plain
from funcnet.cli._options import AsJson, Part, Select
from funcnet.cli._terminal import (
    exit_on_error,
    make_table,
    plain_text,
    print_json,
    show_byte_progress,
    stdout_console,
)


def convert_command(
    src: Annotated[str, typer.Argument(metavar="SRC", help="A checkpoint: a file, an index of shards, or a folder.")],
    dst: Annotated[
        str, typer.Argument(metavar="DST", help="A .safetensors, .pt, .pth, .bin or .npz file, or a folder.")
    ],
    rules: Annotated[
        Path | None, typer.Option("--rules", "-r", metavar="TOML", help="Rules to apply.", show_default=False)
    ] = None,
    inverse: Annotated[bool, typer.Option("--inverse", help="Apply the rules the other way.")] = False,
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
        if dry_run:
            ckpt, plan = prepare_conversion(src, dst, rules or (), options)
            if as_json:
                print_json(_plan_to_json(plan, dst, is_done=False))
            else:
                console = stdout_console()
                console.print(_make_plan_table(plan))
                console.print(_summarise_plan(plan, f"would go from {ckpt.path} to {dst}"), soft_wrap=True)
            return
        with show_byte_progress("converting") as progress:
            record = run_conversion(src, dst, rules or (), options, certificate, progress)
        if as_json:
            print_json(_plan_to_json(record.plan, dst, is_done=True))
        else:
            stdout_console().print(_summarise_plan(record.plan, f"written to {dst}"), soft_wrap=True)


def _plan_to_json(plan: Plan, dst: str, is_done: bool) -> dict[str, Any]:
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
    }


def _make_plan_table(plan: Plan) -> Table:
    table = make_table()
    table.add_column("to", overflow="fold")
    table.add_column("shape", no_wrap=True)
    table.add_column("dtype", no_wrap=True)
    table.add_column("bytes", justify="right", no_wrap=True)
    table.add_column("how", no_wrap=True)
    table.add_column("from", overflow="fold")
    for step in plan.steps():
        spec = step.spec
        more = [f"and {len(step.sources) - 3} more"] if len(step.sources) > 4 else []
        sources = ", ".join([*(step.sources[:3] if more else step.sources), *more])
        row = (str(list(spec.shape)), dtype_name(spec.dtype), format_bytes(spec.nbytes), step.how)
        table.add_row(plain_text(step.target), *map(Text, row), plain_text(sources))
    for alias, owner in plan.aliases.items():
        table.add_row(plain_text(alias), "", "", "", "tie", plain_text(owner))
    return table


def _summarise_plan(plan: Plan, outcome: str) -> Text:
    proof = plan.proof
    text = Text(f"{len(plan.targets)} tensors, {format_bytes(plan.target_bytes)}, {outcome}. ")
    if proof.bijection:
        return text.append(f"Proved: each of {proof.elements:,} elements goes to one place and comes back.", "green")
    losses = [f"dropped for good: {', '.join(proof.lost)}"] * bool(proof.lost)
    losses += [f"rounded: {', '.join(proof.rounded)}"] * bool(proof.rounded)
    return text.append(f"Proved but for what the rules declare: {plain_text('; '.join(losses))}.", "yellow")
