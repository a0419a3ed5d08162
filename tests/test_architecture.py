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
    {
        *("_errors", "_format", "_typing", "_torch", "_torch_compiled", "_torch_tracer"),
        *("_torch_versions", "_torch_functions"),
        *("_context", "_tensors", "_reachable", "_global_settings"),
    },
    {"tree"},
    {"ranks"},
    {"checkpoint"},
    {"random"},
    {"kernels"},
    {"init"},
    {"core"},
    {"combinators"},
    {"layers"},
    {"parametrize"},
    {"transforms"},
    {"foreign"},
    {"low_rank"},
    {"adapters"},
    {"optim"},
    {"inspect"},
    {"program"},
    {"models"},
    {"distributed"},
    {"compare"},
    {"report"},
    {"cli", "__main__"},
]
LEVEL = {name: index for index, names in enumerate(LEVELS) for name in names}
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def imports_of_funcnet(path: Path) -> list[tuple[int, str]]:
    """The line and the full name of everything that a file imports from funcnet."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "funcnet":
            names += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [(node.lineno, alias.name) for alias in node.names if alias.name.startswith("funcnet.")]
    return names


def imported_rooms(path: Path) -> set[str]:
    """Top-level rooms of funcnet that a file imports."""
    return {name.split(".")[1] for _, name in imports_of_funcnet(path)} & set(LEVEL)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    assert room in LEVEL, f"{room} has no place in the order of rooms"
    upward = {name for name in imported_rooms(path) if LEVEL[name] > LEVEL[room]}
    assert not upward, f"{room} imports {upward}, which lie above it"


def private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def private_imports(path: Path) -> list[str]:
    """What a file imports from private files of other rooms, and private names that it imports from other rooms."""
    own_room = path.relative_to(ROOT).parts[0]
    problems = []
    for line, name in imports_of_funcnet(path):
        room, *inside = name.split(".")[1:]
        is_private = any(map(private, inside)) or (private(room) and room not in LEVELS[0])  # helpers are there for all
        if is_private and room != own_room:
            problems.append(f"line {line}: {name}")
    return problems


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_read_no_private_names_of_each_other(path):
    assert not private_imports(path), "a room offers what other rooms need in its __init__ or its internals.py"


def private_names_of_torch(path: Path) -> list[str]:
    """Imports of private modules or names of torch, and reads of private attributes of what is imported from torch."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    from_torch, problems = {"torch"}, []
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "torch":
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            from_torch |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names = {alias.name for alias in node.names if alias.name.partition(".")[0] == "torch"}
            from_torch |= {alias.asname for alias in node.names if alias.name in names and alias.asname}
        else:
            continue
        problems += [f"line {node.lineno}: {name}" for name in names if any(map(private, name.split(".")))]
    for node in nodes:
        if isinstance(node, ast.Attribute) and private(node.attr):
            root: ast.expr = node.value
            while isinstance(root, ast.Attribute):
                root = root.value
            if isinstance(root, ast.Name) and root.id in from_torch:
                problems.append(f"line {node.lineno}: {ast.unparse(node)}")
    return problems


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_private_names_of_torch_are_read_in_two_files(path):
    if path.name not in ("_torch.py", "_torch_compiled.py", "_torch_tracer.py"):
        assert not private_names_of_torch(path), "they go through funcnet/_torch.py, or _torch_tracer.py for the tracer"


NAMES_OF_ROOMS = {"__init__.py", "__main__.py", "_errors.py", "internals.py"}


def test_a_file_name_says_one_thing():
    paths = defaultdict(list)
    for path in FILES:
        paths[path.name].append(str(path.relative_to(ROOT)))
    assert not {name: several for name, several in paths.items() if len(several) > 1 and name not in NAMES_OF_ROOMS}


SHARED_CLASS_NAMES = {"Stack"}  # a rule for checkpoints, and the net whose tensors it stacks


def test_a_class_name_means_one_thing():
    paths = defaultdict(list)
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                paths[node.name].append(str(path.relative_to(ROOT)))
    assert {name for name, several in paths.items() if len(several) > 1} <= SHARED_CLASS_NAMES


def test_files_stay_short():
    paths = [*FILES, *sorted(TESTS.rglob("*.py"))]
    assert not {str(path): count for path in paths if (count := len(path.read_text().splitlines())) > 500}
