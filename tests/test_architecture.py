"""The shape of the package: imports go one way, files are short, and no room reads the private files of another."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

import funcnet

ROOT = Path(funcnet.__file__).parent
TESTS = Path(__file__).parent
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
    {"optim"},
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


def imported_rooms(path: Path) -> set[str]:
    """Top-level rooms of funcnet that a file imports."""
    rooms: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "funcnet":
            parts = node.module.split(".")
            rooms |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            rooms |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("funcnet.")}
    return rooms & set(LEVEL)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    assert room in LEVEL, f"{room} has no place in the order of rooms"
    upward = {name for name in imported_rooms(path) if LEVEL[name] > LEVEL[room]}
    assert not upward, f"{room} imports {upward}, which lie above it"


NOT_YET = {"adapters/_from_module.py", "core/_net.py", "parametrize/_parametrized.py", "program/_trace_steps.py"}


def private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def private_imports(path: Path) -> list[str]:
    """Names that a file imports from private files of other rooms, and private names that it imports from anywhere."""
    room = path.relative_to(ROOT).parts[0]
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("funcnet."):
            parts = node.module.split(".")[1:]
            if parts[0] == room:
                continue
            if parts[0] in LEVELS[0]:
                parts = []  # the helpers at the bottom are private files for all rooms
            found += [
                f"line {node.lineno}: {node.module}.{alias.name}"
                for alias in node.names
                if any(map(private, [alias.name, *parts]))
            ]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_read_no_private_names_of_each_other(path):
    if str(path.relative_to(ROOT)) not in NOT_YET:
        assert not private_imports(path), "a room offers what other rooms need in its __init__ or its internals.py"


def private_names_of_torch(path: Path) -> list[str]:
    """Imports of private modules or names of torch, and reads of private attributes of what is imported from torch."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    from_torch, found = {"torch"}, []
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "torch":
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            from_torch |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names = {alias.name for alias in node.names if alias.name.partition(".")[0] == "torch"}
            from_torch |= {alias.asname for alias in node.names if alias.name in names and alias.asname}
        else:
            continue
        found += [f"line {node.lineno}: {name}" for name in names if any(map(private, name.split(".")))]
    for node in nodes:
        if isinstance(node, ast.Attribute) and private(node.attr):
            root: ast.expr = node.value
            while isinstance(root, ast.Attribute):
                root = root.value
            if isinstance(root, ast.Name) and root.id in from_torch:
                found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_private_names_of_torch_are_read_in_one_file(path):
    if path.name != "_torch.py" and path.parent.name != "program":
        assert not private_names_of_torch(path), "private names of torch go through funcnet/_torch.py"


NAMES_OF_MANY_FILES = {"__init__.py", "__main__.py", "_errors.py", "internals.py"}


@pytest.mark.xfail
def test_a_file_name_says_one_thing():
    paths = defaultdict(list)
    for path in FILES:
        paths[path.name].append(str(path.relative_to(ROOT)))
    assert not {name: found for name, found in paths.items() if len(found) > 1 and name not in NAMES_OF_MANY_FILES}


CLASSES_OF_MANY_FILES = {
    "RMSNorm": "the layer of torch.nn, and the one of Llama, which rounds differently",
    "_Embed": "a part of each model, with the name that its params have",
    "_Layer": "the same",
    "_MLP": "the same",
}


@pytest.mark.xfail
def test_a_class_name_means_one_thing():
    paths = defaultdict(list)
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                paths[node.name].append(str(path.relative_to(ROOT)))
    several = {name: found for name, found in paths.items() if len(found) > 1}
    assert several.keys() == CLASSES_OF_MANY_FILES.keys(), several


@pytest.mark.xfail
def test_files_stay_short():
    paths = [*FILES, *sorted(TESTS.rglob("*.py"))]
    assert not {str(path): count for path in paths if (count := len(path.read_text().splitlines())) > 500}
