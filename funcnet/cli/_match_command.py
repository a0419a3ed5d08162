"""``funcnet match``: rules proposed for a person to look at."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text
from torch import nn

from funcnet._errors import FuncnetError
from funcnet.checkpoint import Checkpoint, CheckpointError, Match, load, match
from funcnet.checkpoint.internals import select_part
from funcnet.checkpoint.rules import to_plain
from funcnet.cli._options import AsJson, Part
from funcnet.cli._row_table import Column, RowTable
from funcnet.cli._rules_file import RulesOutput, write_rules_file
from funcnet.cli._terminal import exit_on_error, print_json, printable_text, stdout_console
from funcnet.compare.internals import call_target, import_target, parse_target
from funcnet.core import Net


def match_command(
    src: Annotated[str, typer.Argument(metavar="SRC", help="A checkpoint.")],
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET", help='A checkpoint of the layout to be, or a net or module: "mypackage:build(depth=3)".'
        ),
    ],
    output: RulesOutput = None,
    part: Part = None,
    as_json: AsJson = False,
) -> None:
    """Propose rules from a checkpoint to another layout: by prefixes, shapes, words in names, and order.

    What names and shapes leave open is marked as a guess. The TOML keeps the mark, and convert refuses the file until
    a person has looked at each guess and taken its line "guess = true" out. The exit code is 0 if all is certain, 1 if
    there are guesses or something is left, 2 if it cannot be done.
    """
    with exit_on_error("match", FuncnetError, OSError):
        result = match(select_part(load(src), part, None), _load_layout(target))
        if output is not None:
            write_rules_file(output, result.to_toml())
    if as_json:
        print_json(_match_to_json(result))
    else:
        console = stdout_console()
        _list_proposals(result).print_to(console)
        console.print(_summarise_match(result, output), soft_wrap=True)
    raise typer.Exit(0 if result.certain else 1)


def _load_layout(target: str) -> Checkpoint | Net | nn.Module:
    """The checkpoint at this path; or else the net or module that the text names, or that a call of it gives.

    Raises:
        CheckpointError: if it is something else.
    """
    if os.path.exists(target) or ":" not in target:
        return load(target)
    parsed = parse_target(target)
    value = import_target(parsed)
    if parsed.args is not None or not isinstance(value, (Net, nn.Module)):
        value = call_target(value, parsed)
    if not isinstance(value, (Net, nn.Module)):
        raise CheckpointError(f"{target!r} gives something of type {type(value).__name__}, and no net or nn.Module.")
    return value


def _match_to_json(result: Match) -> dict[str, object]:
    return {
        "certain": result.certain,
        "same": result.same,
        "proposals": [
            {
                "certain": proposal.certain,
                "why": proposal.why,
                "sources": list(proposal.sources),
                "targets": list(proposal.targets),
                "rules": to_plain(proposal.rules),
            }
            for proposal in result.proposals
        ],
        "left": list(result.left),
        "missing": list(result.missing),
    }


def _list_proposals(result: Match) -> RowTable:
    folded = [Column(heading, is_folded=True) for heading in ("from", "to", "why")]
    table = RowTable(Column(""), *folded)
    for proposal in result.proposals:
        mark, style = ("certain", "green") if proposal.certain else ("guess", "yellow")
        texts = (printable_text(*lines) for lines in (proposal.sources, proposal.targets, [proposal.why]))
        table.add_row(mark, *texts, style=style)
    for name in result.left:
        table.add_row("left", printable_text(name), "", "no place in the target", style="red")
    for name in result.missing:
        table.add_row("missing", "", printable_text(name), "nothing in the source fits", style="red")
    return table


def _summarise_match(result: Match, output: Path | None) -> Text:
    guesses = sum(not proposal.certain for proposal in result.proposals)
    text = Text(f"{result.same} tensors have their name and shape already; ")
    text.append(f"{len(result.proposals) - guesses} certain, {guesses} guesses. ")
    if result.certain:
        return text.append(f"Written to {output}." if output else "Write them with --output.", "green")
    advice = "Look at each guess, and take its line guess = true out" if guesses else "See what is left or missing"
    return text.append(f"{advice}{f': {output}' if output else ', in the file of --output'}.", "yellow")
