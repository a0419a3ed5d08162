"""Names, shapes and parameter counts of every case, pinned in ``layers.json``: ``python -m tests.golden`` writes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.cases import CASES

FILE = Path(__file__).parent / "layers.json"


def described() -> dict[str, Any]:
    """For each case: the paths and shapes of its params and buffers in order, and how many numbers they are."""
    table: dict[str, Any] = {}
    for case in CASES:
        trees: dict[str, dict[str, list[int]]] = {"params": {}, "buffers": {}}
        count = 0
        for entry in case.net().entries():
            trees[entry.kind][entry.path] = list(entry.spec.shape)
            size = 1
            for length in entry.spec.shape:
                size *= length
            count += size if entry.kind == "params" else 0
        table[case.name] = {**trees, "parameters": count}
    return table


def dumped(table: dict[str, Any]) -> str:
    """The file's text: one line for each case."""
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in table.items())
    return f"{{\n{lines}\n}}\n"
