"""The option that the commands about a TARGET share: what it is called with."""

from __future__ import annotations

from typing import Annotated

import typer

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
