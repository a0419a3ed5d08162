"""The shape of the package: imports go one way, doors are complete, and importing costs little."""

from __future__ import annotations

import ast
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import funcnet

ROOT = Path(funcnet.__file__).parent
LEVELS = [
    {"_errors", "_format", "_typing", "_torch", "_context", "_tensors"},
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


def public(module):
    return (
        {name: getattr(module, name) for name in module.__all__}
        if hasattr(module, "__all__")
        else {name: value for name, value in vars(module).items() if not name.startswith("_")}
    )


PACKAGES = [funcnet] + [
    __import__(f"funcnet.{info.name}", fromlist=["_"])
    for info in pkgutil.iter_modules(funcnet.__path__)
    if info.ispkg and info.name != "cli"
]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_public_names_are_documented(package):
    assert package.__doc__
    for name, value in public(package).items():
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__doc__, f"{package.__name__}.{name} has no docstring"
            assert value.__module__.startswith("funcnet"), f"{package.__name__}.{name} is not funcnet's own"


def test_importing_funcnet_does_not_import_what_only_some_need():
    code = "import sys, funcnet; print(*sorted(set(sys.argv[1:]) & set(sys.modules)))"
    heavy = [
        "torch._dynamo",
        "torch._inductor",
        "sklearn",
        "rich",
        "typer",
        "matplotlib",
        "jinja2",
        "transformers",
        "tensordict",
    ]
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_files_stay_short():
    long = {str(path.relative_to(ROOT)): count for path in FILES if (count := len(path.read_text().splitlines())) > 500}
    assert not long
