"""The file of rules that ``funcnet match`` and ``funcnet rules`` write."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from funcnet.checkpoint.internals import check_text_destination, replace_file

RulesOutput = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="TOML", help="Where to write the rules.", show_default=False)
]


def write_rules_file(path: Path, toml: str) -> None:
    """Write rules to a file, whole or not at all.

    Raises:
        CheckpointError: if the file has the name of a checkpoint.
    """
    check_text_destination(path)
    with replace_file(path) as file:
        file.write(toml.encode())
