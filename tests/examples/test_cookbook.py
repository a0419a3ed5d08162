"""Every recipe of the cookbook runs, says something, leaves nothing behind, and is listed."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "examples" / "cookbook"
RECIPES = sorted(FOLDER.glob("*.py"))
recipes = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)


def test_the_cookbook_lists_each_recipe_once():
    listed = re.findall(r"\]\((\w+\.py)\)", (FOLDER / "README.md").read_text(encoding="utf-8"))
    assert sorted(listed) == [path.name for path in RECIPES]


@recipes
def test_a_recipe_runs_and_leaves_no_file(path, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng(devices=()):
        runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out.strip()
    assert list(tmp_path.iterdir()) == []


@recipes
def test_a_recipe_is_short_and_asserts_what_it_claims(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 90
    assert re.search(r"^ +(assert|torch\.testing\.assert_close)\b", text, re.MULTILINE)
