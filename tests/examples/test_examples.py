"""Every example runs, says something, shows both ways, and leaves nothing behind."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import torch
from torch import nn

import funcnet

FOLDER = Path(__file__).parents[2] / "examples"
EXAMPLES = sorted(FOLDER.glob("*.py"))


@pytest.fixture(autouse=True)
def _generator_put_back():
    # The stateful halves seed the global generator, which is the point they make.
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        yield


def run(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, object], str]:
    """The globals of an example that ran as a script, and what it printed."""
    names = runpy.run_path(str(path), run_name="__main__")
    return names, capsys.readouterr().out


def test_the_folder_reads_as_a_course():
    assert EXAMPLES, f"no examples in {FOLDER}"
    assert [path.name[:3] for path in EXAMPLES] == [f"{number:02}_" for number in range(1, len(EXAMPLES) + 1)]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_runs_and_leaves_no_file(path, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names, printed = run(path, capsys)
    assert printed.strip()
    assert names["fn"] is funcnet
    assert names["nn"] is nn
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_prints_the_same_from_any_generator_state(path, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(1)
    _, first = run(path, capsys)
    torch.manual_seed(2)
    _, second = run(path, capsys)
    assert first == second


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_shows_stateful_then_stateless(path):
    text = path.read_text(encoding="utf-8")
    labels = re.findall(r"^ *# (Stateful|Stateless)\b", text, flags=re.MULTILINE)
    assert labels[:1] == ["Stateful"]
    assert "Stateless" in labels
    assert re.search(r"\bnn\.\w", text)
    assert re.search(r"\bfn\.\w", text)
    assert "import funcnet as fn" in text
