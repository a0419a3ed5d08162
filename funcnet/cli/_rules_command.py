"""``funcnet rules``: ready rules for well-known models and for the conventions of Flax."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from funcnet._errors import FuncnetError
from funcnet.checkpoint import Checkpoint, flax_rules, load, to_toml
from funcnet.cli._rules_file import RulesOutput, write_rules_file
from funcnet.cli._terminal import exit_on_error
from funcnet.models import rules as transformers_rules


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
    output: RulesOutput = None,
) -> None:
    """Print ready rules: from a GPT-2, Llama or BERT of transformers to funcnet.models, or from Flax to torch.

    The exit code is 0 if it was done and 2 if it could not be.
    """
    with exit_on_error("rules", FuncnetError, OSError):
        if flax:
            rules = flax_rules(load(src))
        else:
            rules = transformers_rules(
                src,
                architecture=architecture,
                fused_qkv=not split_qkv,
                stacked=stacked,
                source=_load_weights_beside(Path(src)),
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
