"""Every page keeps its word: its code runs, its links lead somewhere, and the two commands are where machines look."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
JAPANESE = (ROOT / "examples" / "README.ja.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
GUIDE = sorted((ROOT / "examples" / "guide").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "examples").rglob("*.md"))]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("text", [README, JAPANESE], ids=["README.md", "README.ja.md"])
def test_the_code_of_the_readme_runs(text):
    assert blocks(text, "python")
    space: dict[str, object] = {}
    for block in blocks(text, "python"):
        exec(block, space)
    assert list(space["state_dict"])[:2] == ["conv1.weight", "conv1.bias"]


@pytest.mark.parametrize("path", GUIDE, ids=lambda path: path.stem)
def test_the_code_of_a_page_of_the_guide_runs_by_itself(path):
    space: dict[str, object] = {}
    for block in blocks(path.read_text(encoding="utf-8"), "python"):
        exec(block, space)


def test_the_guide_lists_each_of_its_pages_once():
    listed = re.findall(r"\]\((\w+\.md)\)", (ROOT / "examples" / "guide" / "README.md").read_text(encoding="utf-8"))
    assert sorted([*listed, "README.md"]) == [path.name for path in GUIDE]


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


def test_how_to_install_is_on_the_first_screen():
    assert any(line.startswith("pip install") for line in README.splitlines()[:15])


def test_every_room_is_listed():
    rooms = {path.name for path in (ROOT / "funcnet").iterdir() if (path / "__init__.py").exists()}
    assert {room for room in rooms if f"funcnet/{room}`" not in CONTRIBUTING} == set()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(path):
    text = path.read_text(encoding="utf-8")
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    wrong = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        file, _, anchor = link.partition("#")
        if file.startswith("https://"):
            continue
        if file and not (path.parent / file).exists():
            wrong.append(link)
        elif anchor:
            target = (path.parent / file).read_text(encoding="utf-8") if file else text
            if anchor not in {anchor_of(heading) for heading in re.findall(r"^#+ (.*)$", target, re.MULTILINE)}:
                wrong.append(link)
    assert wrong == []


def anchor_of(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_the_japanese_readme_lists_every_lesson_in_order():
    listed = re.findall(r"^\d+\. \[[^]]+\]\((\d\d_\w+\.py)\)", JAPANESE, re.MULTILINE)
    assert listed == sorted(path.name for path in (ROOT / "examples").glob("*.py"))
