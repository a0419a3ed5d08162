"""Kill -9 at any moment of a conversion leaves the old checkpoint or the new one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import funcnet


@pytest.mark.parametrize("rounds", [5, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_conversions_killed_at_random(tmp_path, rounds):
    root = Path(funcnet.__file__).parents[1]
    command = [sys.executable, "-m", "tests.checkpoint.killed", str(tmp_path), str(rounds)]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert len(report["rows"]) == rounds
    assert all(row["old"] or row["new"] for row in report["rows"])
    if rounds >= 50:  # among so many kills some come before the end of a conversion and some after it
        assert any(row["new"] and not row["old"] for row in report["rows"])
        assert any(row["old"] and not row["new"] for row in report["rows"])
    assert report["left"] == []  # the next conversion to the same name has removed them
