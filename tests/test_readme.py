"""The README keeps its word: its code runs, and its two commands are where machines look for them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_code_of_the_readme_runs():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    space: dict[str, object] = {}
    for block in blocks:
        exec(block, space)
    assert list(space["state_dict"])[:2] == ["conv1.weight", "conv1.bias"]


@pytest.mark.parametrize(("comment", "words"), [("main", "funcnet compare"), ("tests", "python -m pytest -n auto")])
def test_each_command_is_the_first_block_after_its_comment(comment, words):
    found = re.search(rf"<!-- {comment} -->\n```bash\n(.*?)```", README, re.DOTALL)
    assert found
    lines = found[1].strip().splitlines()
    assert lines[-1] == words
    assert "-c .ci/constraints.txt" in found[1]


def test_every_room_is_listed():
    rooms = {
        path.name for path in (Path(__file__).parent.parent / "funcnet").iterdir() if (path / "__init__.py").exists()
    }
    assert {room for room in rooms if f"funcnet/{room}`" not in README} == set()
