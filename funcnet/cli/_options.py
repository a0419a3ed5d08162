"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Target = Annotated[
    str,
    typer.Argument(
        metavar="TARGET",
        help='A module, "package.module:callable(args)"; the arguments are Python literals. The current folder is '
        "importable.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        "-i",
        metavar="SPEC",
        help='An input of TARGET: "float32[2,3,64,64]", or "input_ids=int64[2,12]<100" for one given by name with '
        "integers below 100. Once per input.",
        show_default=False,
    ),
]
Part = Annotated[
    str | None,
    typer.Option("--part", metavar="PATH", help='The part of a training checkpoint, as "model".', show_default=False),
]
Select = Annotated[
    list[str] | None,
    typer.Option(
        "--select",
        "-s",
        metavar="PATTERN",
        help='Only these tensors: "layers.*.attn", "**.bias"; "!head" for all others. May be repeated; the last that '
        "matches counts.",
        show_default=False,
    ),
]
Train = Annotated[bool, typer.Option("--train", help="Call it in training mode.")]
AllowRounding = Annotated[
    bool,
    typer.Option(
        "--allow-rounding", help="Take code whose numbers are off by rounding; its head says by how much (exact=False)."
    ),
]
Output = Annotated[
    Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write to a file.", show_default=False)
]
