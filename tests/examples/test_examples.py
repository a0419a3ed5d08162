"""Every lesson runs, says something, shows both ways, and leaves nothing behind; and the course lists them in order."""

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
lessons = pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)


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


def test_the_course_lists_each_lesson_once_and_in_order():
    listed = re.findall(r"\]\((\d\d_\w+\.py)\)", (FOLDER / "README.md").read_text(encoding="utf-8"))
    assert listed == [path.name for path in EXAMPLES]


@lessons
def test_runs_from_any_generator_state_and_leaves_no_file(path, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(1)
    names, first = run(path, capsys)
    assert first.strip()
    assert names["fn"] is funcnet
    assert names["nn"] is nn
    torch.manual_seed(2)
    _, second = run(path, capsys)
    assert first == second
    assert list(tmp_path.iterdir()) == []


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def test_the_landscape_is_drawn_when_asked(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setattr("sys.argv", ["lesson", "--png", str(tmp_path / "landscape.png")])
    run(FOLDER / "19_between_two_models.py", capsys)
    assert (tmp_path / "landscape.png").read_bytes().startswith(b"\x89PNG")


@lessons
def test_shows_stateful_then_stateless(path):
    labels = re.findall(r"^ *# (Stateful|Stateless)\b", text_of(path), flags=re.MULTILINE)
    assert labels[:1] == ["Stateful"]
    assert "Stateless" in labels
    assert re.search(r"\bnn\.\w", text_of(path))
    assert re.search(r"\bfn\.\w", text_of(path))
    assert "import funcnet as fn" in text_of(path)


@lessons
def test_is_short_and_says_what_it_teaches(path):
    assert len(text_of(path).splitlines()) < 120
    title = text_of(path).removeprefix('"""').split("\n")[0]
    assert title[0].isupper()
    assert title[-1] in ".?"
