"""Runs a page that shows the code of another library beside that of funcnet, so that both give what the page says.

The first line of a block tells whose it is: ``# funcnet``, ``# both``, or the name of the other library. Each library
has variables of its own; a block of both runs among those of funcnet, and sees the others in ``theirs``. Blocks without
such a line are for all.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple


class Block(NamedTuple):
    """A piece of code of a page."""

    side: str
    code: str
    line: int


def read_blocks(path: Path) -> list[Block]:
    """The blocks of Python of a page in order; the side is "" where the code is for all."""
    text = path.read_text(encoding="utf-8")
    blocks = []
    for match in re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        label = re.match(r"# ([\w.]+)\n", match[1])
        blocks.append(Block(label[1] if label else "", match[1], text[: match.start(1)].count("\n")))
    return blocks


def list_peers(path: Path) -> list[str]:
    """The other libraries whose code is on a page, in order."""
    return [*dict.fromkeys(block.side for block in read_blocks(path) if block.side not in {"", "funcnet", "both"})]


def find_missing_packages(path: Path, peer: str) -> list[str]:
    """What the code of a library imports that is not installed here."""
    packages = set()
    for block in read_blocks(path):
        if block.side == peer:
            for node in ast.walk(ast.parse(block.code)):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                packages |= {name.partition(".")[0] for name in names}
    return sorted(name for name in packages if importlib.util.find_spec(name) is None)


def run_page(path: Path, peer: str | None) -> None:
    """Run the code of funcnet on a page, beside that of one other library if its name is given."""
    theirs: dict[str, Any] = {"__name__": "__main__"}
    ours: dict[str, Any] = {"__name__": "__main__"}
    last = ""
    for block in read_blocks(path):
        code = compile("\n" * block.line + block.code, str(path), "exec")
        if block.side in {"", "funcnet"}:
            exec(code, ours)
        if peer and block.side in {"", peer}:
            with warnings.catch_warnings():  # they are for the authors of the other library
                warnings.simplefilter("ignore")
                exec(code, theirs)
        if block.side == "both" and last == peer:
            ours |= {"theirs": SimpleNamespace(**theirs), "ours": SimpleNamespace(**ours)}
            exec(code, ours)
        if block.side not in {"", "funcnet", "both"}:
            last = block.side


if __name__ == "__main__":
    run_page(Path(sys.argv[1]), sys.argv[2])
