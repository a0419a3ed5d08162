"""``funcnet diff`` and ``funcnet verify``: whether checkpoints are what they should be."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from funcnet.checkpoint import differences, load, verify
from funcnet.checkpoint.internals import select_part
from funcnet.cli._checkpoints import AsJson, Part, Select, plain, print_json, progress, refusing, selector


def diff_command(
    first: Annotated[str, typer.Argument(metavar="A", help="A checkpoint.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another.")],
    part: Part = None,
    select: Select = None,
    as_json: AsJson = False,
) -> None:
    """Compare two checkpoints of any formats: names, shapes, dtypes, ties, and values bit by bit.

    The exit code is 0 if they hold the same, 1 if they differ, 2 if they cannot be compared.
    """
    with refusing("diff"):
        whole = [load(path) for path in (first, second)]
        left, right = (select_part(ckpt, part, selector(select), allow_empty=True) for ckpt in whole)
        if not len(left) and not len(right):
            select_part(whole[0], part, selector(select))
        with progress("comparing") as advance:
            found = differences(left, right, advance)
    if as_json:
        print_json({"same": not found, "differences": [dataclasses.asdict(one) for one in found]})
    elif found:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("path", overflow="fold")
        table.add_column("differs in", no_wrap=True)
        table.add_column("")
        for one in found:
            table.add_row(plain(one.name), one.kind, plain(one.text))
        Console(highlight=False).print(table)
        Console(highlight=False).print(Text(f"{len(found)} difference{'s' * (len(found) > 1)}.", "bold red"))
    else:
        Console(highlight=False).print(Text(f"{len(left)} tensors, every bit the same.", "green"))
    raise typer.Exit(1 if found else 0)


def verify_command(
    certificate: Annotated[str, typer.Argument(metavar="CERTIFICATE", help="The JSON file of a conversion.")],
    source: Annotated[
        str | None, typer.Option("--source", metavar="SRC", help="Where the source is now.", show_default=False)
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", metavar="DST", help="Where the target is now.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check the certificate of a conversion: prove its rules again, carry them out, and hash both sides.

    The exit code is 0 if all is as it says, 1 if something is not, 2 if it cannot be checked.
    """
    with refusing("verify"), progress("verifying") as advance:
        wrong = verify(certificate, source=source, target=target, progress=advance)
    if as_json:
        print_json({"holds": not wrong, "wrong": wrong})
    else:
        console = Console(highlight=False)
        for line in wrong:
            console.print(Text(line, "red"), soft_wrap=True)
        console.print(Text("The certificate does not hold.", "bold red") if wrong else Text("It holds.", "green"))
    raise typer.Exit(1 if wrong else 0)
