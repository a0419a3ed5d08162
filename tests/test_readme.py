"""Both READMEs keep their word: their code runs and is the same, and the two commands are where machines look."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
JAPANESE = (ROOT / "examples" / "README.ja.md").read_text(encoding="utf-8")
COURSE = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("text", [README, JAPANESE], ids=["README.md", "README.ja.md"])
def test_the_code_of_the_readme_runs(text):
    assert blocks(text, "python")
    space: dict[str, object] = {}
    for block in blocks(text, "python"):
        exec(block, space)
    assert list(space["state_dict"])[:2] == ["conv1.weight", "conv1.bias"]


def test_the_japanese_readme_has_the_same_code_with_comments_of_its_own():
    ours, theirs = blocks(README, "python"), blocks(JAPANESE, "python")
    assert [ast.dump(ast.parse(block)) for block in ours] == [ast.dump(ast.parse(block)) for block in theirs]


def test_the_japanese_readme_has_the_same_commands():
    def commands(text: str) -> list[str]:
        return [line.partition(" #")[0].rstrip() for block in blocks(text, "bash") for line in block.splitlines()]

    assert commands(README) == commands(JAPANESE)


@pytest.mark.parametrize(
    ("comment", "words"),
    [("main", "funcnet compare"), ("tests", 'python -m pytest -n auto --dist worksteal -m "not slow"')],
)
def test_each_command_is_the_first_block_after_its_comment(comment, words):
    found = re.search(rf"<!-- {comment} -->\n```bash\n(.*?)```", README, re.DOTALL)
    assert found
    lines = found[1].strip().splitlines()
    assert lines[-1] == words
    assert "-c .ci/constraints.txt" in found[1]


def test_every_room_is_listed():
    rooms = {path.name for path in (ROOT / "funcnet").iterdir() if (path / "__init__.py").exists()}
    assert {room for room in rooms if f"funcnet/{room}`" not in README} == set()


@pytest.mark.parametrize(
    ("text", "folder"),
    [(README, ROOT), (JAPANESE, ROOT / "examples"), (COURSE, ROOT / "examples")],
    ids=["README.md", "README.ja.md", "course"],
)
def test_every_link_leads_somewhere(text, folder):
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)", prose)
    assert links
    wrong = []
    for link in links:
        path, _, anchor = link.partition("#")
        if path and not (folder / path).exists():
            wrong.append(link)
        elif anchor:
            target = (folder / path).read_text(encoding="utf-8") if path else text
            if anchor not in {anchor_of(heading) for heading in re.findall(r"^#+ (.*)$", target, re.MULTILINE)}:
                wrong.append(link)
    assert wrong == []


def anchor_of(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_the_japanese_readme_lists_every_lesson_in_order():
    listed = re.findall(r"^\d+\. \[[^]]+\]\((\d\d_\w+\.py)\)", JAPANESE, re.MULTILINE)
    assert listed == sorted(path.name for path in (ROOT / "examples").glob("*.py"))
