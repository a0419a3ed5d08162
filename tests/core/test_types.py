"""A type checker helps users: it knows the inputs and outputs of nets, and finds misspelt names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILE = "tests/core/typed_use.py"


def test_a_type_checker_agrees_with_every_line_of_a_user():
    # mypy keeps its usual cache in the root,: without one this takes half a minute
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", FILE]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
