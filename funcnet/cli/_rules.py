"""``funcnet match`` and ``funcnet rules``: rules that nobody has to write."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import nn

from funcnet.checkpoint import Checkpoint, CheckpointError, Match, flax_rules, load, match
from funcnet.checkpoint.internals import check_text_destination, replace_file, select_part
from funcnet.checkpoint.rules import to_plain, to_toml
from funcnet.cli._checkpoints import AsJson, Part, plain, print_json, refusing
from funcnet.compare.internals import call_target, import_target, parse_target
from funcnet.core import Net
from funcnet.models import rules as rules_of_model

Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="TOML", help="Where to write the rules.", show_default=False)
]


def match_command(
    src: Annotated[str, typer.Argument(metavar="SRC", help="A checkpoint.")],
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET", help='A checkpoint of the layout to be, or a net or module: "mypackage:build(depth=3)".'
        ),
    ],
    output: Output = None,
    part: Part = None,
    as_json: AsJson = False,
) -> None:
    """Propose rules from a checkpoint to another layout: by prefixes, shapes, words in names, and order.

    What names and shapes leave open is marked as a guess. The TOML keeps the mark, and convert refuses the file until
    a person has looked at each guess and taken its line "guess = true" out. The exit code is 0 if all is certain, 1 if
    there are guesses or something is left, 2 if it cannot be done.
    """
    with refusing("match"):
        found = match(select_part(load(src), part, None), _layout(target))
        if output is not None:
            _write(output, found.to_toml())
    if as_json:
        print_json(_as_json(found))
    else:
        console = Console(highlight=False)
        console.print(_table(found))
        console.print(_summary(found, output), soft_wrap=True)
    raise typer.Exit(0 if found.certain else 1)


def _layout(text: str) -> Any:
    """A checkpoint if there is one, or what a target names: a net or a module, or what a function makes of one."""
    if os.path.exists(text) or ":" not in text:
        return load(text)
    target = parse_target(text)
    found = import_target(target)
    built = found if isinstance(found, (Net, nn.Module)) and target.args is None else call_target(found, target)
    if not isinstance(built, (Net, nn.Module)):
        raise CheckpointError(f"{text!r} gives something of type {type(built).__name__}, and no net or nn.Module.")
    return built


def _write(path: Path, text: str) -> None:
    check_text_destination(path)
    with replace_file(path) as out:
        out.write(text.encode())


def _as_json(found: Match) -> dict[str, Any]:
    return {
        "certain": found.certain,
        "same": found.same,
        "proposals": [
            {
                "certain": one.certain,
                "why": one.why,
                "sources": list(one.sources),
                "targets": list(one.targets),
                "rules": to_plain(one.rules),
            }
            for one in found.proposals
        ],
        "left": list(found.left),
        "missing": list(found.missing),
    }


def _table(found: Match) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    table.add_column("from", overflow="fold")
    table.add_column("to", overflow="fold")
    table.add_column("why")
    for one in found.proposals:
        mark = Text("certain", "green") if one.certain else Text("guess", "yellow")
        table.add_row(mark, plain(*one.sources), plain(*one.targets), plain(one.why))
    for name in found.left:
        table.add_row(Text("left", "red"), plain(name), "", "no place in the target")
    for name in found.missing:
        table.add_row(Text("missing", "red"), "", plain(name), "nothing in the source fits")
    return table


def _summary(found: Match, output: Path | None) -> Text:
    guesses = sum(not one.certain for one in found.proposals)
    text = Text(f"{found.same} tensors have their name and shape already; ")
    text.append(f"{len(found.proposals) - guesses} certain, {guesses} guesses. ")
    if found.certain:
        return text.append(f"Written to {output}." if output else "Write them with --output.", "green")
    todo = "Look at each guess, and take its line guess = true out" if guesses else "See what is left or missing"
    return text.append(f"{todo}{f': {output}' if output else ', in the file of --output'}.", "yellow")


def rules_command(
    src: Annotated[
        str,
        typer.Argument(
            metavar="SRC", help="A folder of transformers, or its config.json; with --flax a checkpoint of Flax."
        ),
    ],
    flax: Annotated[bool, typer.Option("--flax", help="From the conventions of Flax to those of torch.")] = False,
    architecture: Annotated[
        str | None,
        typer.Option(
            "--architecture", metavar="NAME", help='Class in transformers, as "LlamaModel".', show_default=False
        ),
    ] = None,
    split_qkv: Annotated[bool, typer.Option("--split-qkv", help="Queries, keys and values apart.")] = False,
    stacked: Annotated[bool, typer.Option("--stacked", help="All layers in one tensor.")] = False,
    output: Output = None,
) -> None:
    """Print ready rules: from a GPT-2, Llama or BERT of transformers to funcnet.models, or from Flax to torch.

    The exit code is 0 if it was done and 2 if it could not be.
    """
    with refusing("rules"):
        if flax:
            made = flax_rules(load(src))
        else:
            made = rules_of_model(
                src, architecture=architecture, fused_qkv=not split_qkv, stacked=stacked, source=_weights(Path(src))
            )
        if output is not None:
            _write(output, to_toml(made))
        else:
            typer.echo(to_toml(made), nl=False)


def _weights(path: Path) -> Checkpoint | None:
    """The checkpoint beside a config, if there is one."""
    folder = path if path.is_dir() else path.parent
    held = [name for name in os.listdir(folder) if name.endswith((".safetensors", ".bin", ".index.json"))]
    return load(folder) if held else None
