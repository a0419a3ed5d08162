"""``funcnet convert``: one checkpoint to another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from funcnet.checkpoint import Plan
from funcnet.checkpoint.internals import ConvertOptions, dtype_name, prepare_conversion, run_conversion
from funcnet.checkpoint.rules import to_plain
from funcnet.cli._checkpoints import AsJson, Part, Select, plain, print_json, progress, refusing, selector, size


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
    options = ConvertOptions(inverse, part, selector(select), dtype, lossy, shard_size, format)
    with refusing("convert"):
        if dry_run:
            ckpt, made = prepare_conversion(src, dst, rules or (), options)
            if as_json:
                print_json(_as_json(made, dst, done=False))
            else:
                Console(highlight=False).print(_table(made))
                Console(highlight=False).print(_summary(made, f"would go from {ckpt.path} to {dst}"), soft_wrap=True)
            return
        with progress("converting") as advance:
            record = run_conversion(src, dst, rules or (), options, certificate, advance)
        if as_json:
            print_json(_as_json(record.plan, dst, done=True))
        else:
            Console(highlight=False).print(_summary(record.plan, f"written to {dst}"), soft_wrap=True)


def _as_json(made: Plan, dst: str, done: bool) -> dict[str, Any]:
    return {
        "done": done,
        "target": dst,
        "rules": to_plain(made.rules),
        "tensors": [
            {
                "name": step.target,
                "shape": list(step.spec.shape),
                "dtype": dtype_name(step.spec.dtype),
                "bytes": step.spec.nbytes,
                "from": list(step.sources),
                "how": step.how,
            }
            for step in made.steps()
        ],
        "aliases": made.aliases,
        "bytes": made.target_bytes,
        "bijection": made.proof.bijection,
        "lost": list(made.proof.lost),
        "rounded": list(made.proof.rounded),
    }


def _table(made: Plan) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("to", overflow="fold")
    table.add_column("shape", no_wrap=True)
    table.add_column("dtype", no_wrap=True)
    table.add_column("bytes", justify="right", no_wrap=True)
    table.add_column("how", no_wrap=True)
    table.add_column("from", overflow="fold")
    for step in made.steps():
        spec = step.spec
        more = [f"and {len(step.sources) - 3} more"] if len(step.sources) > 4 else []
        made_of = ", ".join([*(step.sources[:3] if more else step.sources), *more])
        shape = str(list(spec.shape))
        row = (shape, dtype_name(spec.dtype), size(spec.nbytes), step.how)
        table.add_row(plain(step.target), *map(Text, row), plain(made_of))
    for alias, owner in made.aliases.items():
        table.add_row(plain(alias), "", "", "", "tie", plain(owner))
    return table


def _summary(made: Plan, what: str) -> Text:
    proof = made.proof
    text = Text(f"{len(made.targets)} tensors, {size(made.target_bytes)}, {what}. ")
    if proof.bijection:
        return text.append(f"Proved: each of {proof.elements:,} elements goes to one place and comes back.", "green")
    lost = [f"dropped for good: {', '.join(proof.lost)}"] * bool(proof.lost)
    lost += [f"rounded: {', '.join(proof.rounded)}"] * bool(proof.rounded)
    return text.append(f"Proved but for what the rules declare: {plain('; '.join(lost))}.", "yellow")
