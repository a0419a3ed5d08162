"""``funcnet rules``: ready rules for well-known models and for the conventions of Flax."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from funcnet._errors import FuncnetError
from funcnet.checkpoint import Checkpoint, CheckpointError, flax_rules, list_layouts, load, ready_rules, to_toml
from funcnet.cli._rules_file import RulesOutput, write_rules_file
from funcnet.cli._terminal import exit_on_error
from funcnet.models import rules as transformers_rules


def rules_command(
    src: Annotated[
        str | None,
        typer.Argument(
            metavar="SRC",
            help="A folder of transformers, or its config.json; with --flax a checkpoint of Flax.",
            show_default=False,
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="LAYOUT", help='The layout there is, as "transformers".', show_default=False),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option("--to", metavar="LAYOUT", help='The layout to go to, as "meta"; see --list.', show_default=False),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights", metavar="FILE", help="The checkpoint to convert; default that beside SRC.", show_default=False
        ),
    ] = None,
    list_all: Annotated[bool, typer.Option("--list", help="Show the models and their layouts.")] = False,
    flax: Annotated[bool, typer.Option("--flax", help="From the conventions of Flax to those of torch.")] = False,
    architecture: Annotated[
        str | None,
        typer.Option(
            "--architecture", metavar="NAME", help='Class in transformers, as "LlamaModel".', show_default=False
        ),
    ] = None,
    split_qkv: Annotated[bool, typer.Option("--split-qkv", help="Queries, keys and values apart.")] = False,
    stacked: Annotated[bool, typer.Option("--stacked", help="All layers in one tensor.")] = False,
    output: RulesOutput = None,
) -> None:
    """Print ready rules: between layouts of known models, as transformers and Meta, or from Flax to torch.

    Without --from and --to they lead from transformers to a net of funcnet.models, in the form that the other options
    say. The exit code is 0 if it was done and 2 if it could not be.
    """
    if list_all:
        for model_type, layouts in list_layouts().items():
            typer.echo(f"{model_type}: {', '.join(layouts)}")
        return
    with exit_on_error("rules", FuncnetError, OSError):
        if src is None:
            raise CheckpointError(
                "rules needs SRC: a folder of transformers, its config.json, or a checkpoint of Flax."
            )
        if flax:
            rules = flax_rules(load(src))
        elif source is not None or target is not None:
            ckpt = load(weights) if weights is not None else _load_weights_beside(Path(src))
            if source not in (None, "transformers") and weights is None:
                ckpt = None  # what lies beside a config is a file of transformers
            rules = ready_rules(src, source or "transformers", target or "transformers", weights=ckpt)
        else:
            rules = transformers_rules(
                src,
                architecture=architecture,
                fused_qkv=not split_qkv,
                stacked=stacked,
                source=load(weights) if weights is not None else _load_weights_beside(Path(src)),
            )
        if output is not None:
            write_rules_file(output, to_toml(rules))
        else:
            typer.echo(to_toml(rules), nl=False)


def _load_weights_beside(config: Path) -> Checkpoint | None:
    """The checkpoint in the folder of a config; None if there is none."""
    folder = config if config.is_dir() else config.parent
    has_weights = any(name.endswith((".safetensors", ".bin", ".index.json")) for name in os.listdir(folder))
    return load(folder) if has_weights else None
