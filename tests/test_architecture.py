"""The shape of the package: imports go one way, files are short, and no room reads the private files of another."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import funcnet

ROOT = Path(funcnet.__file__).parent
LEVELS = [
    {"_errors", "_format", "_typing", "_torch", "_context", "_tensors", "_torch_functions"},
    {"tree"},
    {"checkpoint"},
    {"random"},
    {"init"},
    {"core"},
    {"combinators"},
    {"layers"},
    {"parametrize"},
    {"transforms"},
    {"foreign"},
    {"adapters"},
    {"inspect"},
    {"program"},
    {"models"},
    {"compare"},
    {"report"},
    {"cli", "__main__"},
]
LEVEL = {name: index for index, names in enumerate(LEVELS) for name in names}
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def imported(path: Path) -> set[str]:
    """Top-level rooms of funcnet that a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "funcnet":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("funcnet.")}
    return found & set(LEVEL)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    assert room in LEVEL, f"{room} has no place in the order of rooms"
    upward = {name for name in imported(path) if LEVEL[name] > LEVEL[room]}
    assert not upward, f"{room} imports {upward}, which lie above it"


def test_files_stay_short():
    long = {str(path.relative_to(ROOT)): count for path in FILES if (count := len(path.read_text().splitlines())) > 500}
    assert not long
