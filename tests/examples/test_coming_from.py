"""Every page for those who come from another library runs, beside that library where it is installed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.examples.side_by_side import find_missing_packages, list_peers, read_blocks, run_page

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "coming_from"
PAGES = sorted(path for path in FOLDER.glob("*.md") if path.name != "README.md")
pages = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
NOT_INSTALLED_BY_PIP = {"learn2learn"}  # its newest release does not build on Python 3.11


def test_the_folder_lists_each_page_once():
    listed = re.findall(r"\]\((\w+\.md)\)", (FOLDER / "README.md").read_text(encoding="utf-8"))
    assert sorted(listed) == [path.name for path in PAGES]


@pages
def test_the_code_of_funcnet_runs_by_itself(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_page(path, None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("path", "peer"), [(path, peer) for path in PAGES for peer in list_peers(path)])
def test_both_sides_give_what_the_page_says(path, peer, tmp_path):
    missing = find_missing_packages(path, peer)
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (the extra peers has what this Python can install)")
    # A process of its own: JAX has threads, and the tests after this one fork.
    command = [sys.executable, "-m", "tests.examples.side_by_side", path, peer]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pages
def test_each_piece_of_theirs_has_one_of_ours_and_says_how_they_agree(path):
    sides = [block.side for block in read_blocks(path) if block.side]
    peers = list_peers(path)
    assert peers
    for peer in peers:
        at = [index for index, side in enumerate(sides) if side == peer]
        assert sum(sides[index + 1 : index + 2] == ["funcnet"] for index in at) >= 2
        assert sum("both" in sides[index + 1 : index + 3] for index in at) >= 2


@pages
def test_a_page_says_what_is_the_same_what_is_better_and_what_is_not_here(path):
    text = path.read_text(encoding="utf-8")
    assert [f"| {row} | " in text for row in ("the same", "better here", "not here")] == [True] * 3


@pages
def test_the_versions_that_a_page_names_are_those_that_are_installed_for_it(path):
    run_with = re.search(r"Run with\s(.*?)\.\n\n", path.read_text(encoding="utf-8"), re.DOTALL)
    assert run_with
    versions = [(name.lower(), version) for name, version in re.findall(r"(\w[\w-]*) (\d+\.\d+\.\d+)", run_with[1])]
    assert versions
    lines = (ROOT / ".ci" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    constraints = {re.sub(r"^dm-|[;\s].*", "", line) for line in lines}
    assert {f"{name}=={version}" for name, version in versions if name not in NOT_INSTALLED_BY_PIP} <= constraints
