"""How many models of transformers have a trace and a source with their bits.

``python -m tests.program.count_architectures [names]``: both compare output, gradients and new buffers
with the module before they hand anything out, ``source`` by running the text alone.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator

import funcnet as fn
from tests.adapters.architectures import ARCHITECTURES, Architecture

WRITERS = {
    "trace": fn.trace,
    "source": fn.source,
    "class": lambda *args, train, **kwargs: fn.source(*args, style="stateful", **kwargs),
}


def problems_of(architecture: Architecture) -> Iterator[str]:
    """What cannot be written of a model, one line each; a class is for both modes."""
    for name in WRITERS:
        for train in (False,) if name == "class" else (False, True):
            problem = problem_of(architecture, name, train)
            if problem is not None:
                yield f"{name}, {'train' if train else 'eval'}: {problem}"


def problem_of(architecture: Architecture, writer: str, train: bool) -> str | None:
    """Why something cannot be written of a model; None if it can."""
    try:
        WRITERS[writer](architecture.module(), **architecture.inputs, **architecture.call, train=train)
    except fn.ConversionError as error:
        return str(error).splitlines()[0]
    return None


def main(names: list[str]) -> None:
    """Print a line for each model, and the count."""
    rows = [row for row in ARCHITECTURES if not names or row.name in names]
    complete = 0
    for row in rows:
        problems = list(problems_of(row))
        complete += not problems
        print(row.name, *(problems or ["exact"]), sep="\n  " if problems else ": ", flush=True)
    print(f"{complete} of {len(rows)} are exact in every form and mode")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(sys.argv[1:])
