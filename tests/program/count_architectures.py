"""How many models of transformers have a trace and a source with their bits: ``python -m tests.program.count_architectures``.

Each row is a model, a mode and what is written: ``trace`` and ``source`` compare output, gradients and new buffers with
the module before they hand anything out, and ``source`` by running the text alone. Names as arguments choose models.
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
    """What cannot be written of a model, one line each."""
    module = architecture.module()
    for name, write in WRITERS.items():
        for train in (False, True) if name != "class" else (False,):
            try:
                write(module, **architecture.inputs, **architecture.call, train=train)
            except fn.ConversionError as error:
                yield f"{name}, {'train' if train else 'eval'}: {str(error).splitlines()[0]}"


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
