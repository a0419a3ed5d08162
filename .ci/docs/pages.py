"""The pages that Sphinx makes a site of: Markdown as it is in the repository, lessons as code, the reference."""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import re
import textwrap
from collections import defaultdict
from pathlib import Path

import names

ROOT = Path(__file__).resolve().parents[2]
TABLES = ["funcnet/layers/TRANSFORMS.md", "funcnet/layers/WRONG_KERNELS.md"]


def write_pages(folder: Path) -> None:
    """Write every page to a folder, at the path that it has in the repository."""
    scripts = [*(ROOT / "examples").glob("*.py"), *(ROOT / "examples" / "cookbook").glob("*.py")]
    markdown = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", *TABLES)]
    markdown += (ROOT / "examples").rglob("*.md")
    pages = {path.relative_to(ROOT): path.read_text(encoding="utf-8") for path in markdown}
    pages |= {path.relative_to(ROOT).with_suffix(".md"): text_of_script(path) for path in scripts}
    pages = {path: link_pages(text) for path, text in pages.items()}
    pages |= {Path(name): text for name, text in reference_pages().items()}
    pages[Path("README.md")] += contents(sorted(str(path.relative_to(ROOT).with_suffix("")) for path in scripts))
    for path, text in pages.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")


def link_pages(markdown: str) -> str:
    """Markdown whose links to scripts lead to their pages."""
    return re.sub(r"(\]\([\w./]*\w)\.py\)", r"\1.md)", markdown)


def text_of_script(path: Path) -> str:
    """A script as a page: its docstring as text, what follows as code."""
    text = path.read_text(encoding="utf-8")
    docstring = ast.get_docstring(ast.parse(text)) or ""
    title, _, rest = docstring.partition("\n\n")
    code = text[text.index('"""', 3) + 3 :].strip()
    number = re.match(r"\d+", path.name)
    heading = " ".join(title.split()).rstrip(".")
    heading = f"{int(number[0])}. {heading}" if number else heading
    return f"# {heading}\n\n{rest}\n\n```bash\npython {path.relative_to(ROOT)}\n```\n\n```python\n{code}\n```\n"


def contents(scripts: list[str]) -> str:
    """The order of all pages, for the list beside them."""
    guide, coming_from = list_pages("guide"), list_pages("coming_from")
    lessons = [name for name in scripts if name.count("/") == 1]
    recipes = [name for name in scripts if name.count("/") == 2]
    reference = ["reference/README", *(name.removesuffix(".rst") for name in reference_pages() if "README" not in name)]
    sections = {
        "Course": ["examples/README", *lessons],
        "Cookbook": ["examples/cookbook/README", *recipes],
        "Guide": ["examples/guide/README", *(f"examples/guide/{name}" for name in guide)],
        "Coming from elsewhere": [
            "examples/coming_from/README",
            *(f"examples/coming_from/{name}" for name in coming_from),
        ],
        "Reference": reference,
        "Tables": [name.removesuffix(".md") for name in TABLES],
        "Project": ["CONTRIBUTING", "CHANGELOG", "examples/README.ja"],
    }
    return "".join(
        f"\n```{{toctree}}\n:hidden:\n:titlesonly:\n:caption: {caption}\n\n" + "\n".join(pages) + "\n```\n"
        for caption, pages in sections.items()
    )


def list_pages(folder: str) -> list[str]:
    """The pages of a folder of examples, in the order in which its README has them."""
    return re.findall(r"\]\((\w+)\.md\)", (ROOT / "examples" / folder / "README.md").read_text(encoding="utf-8"))


def reference_pages() -> dict[str, str]:
    """The pages of the reference by name: one for each room, and for each family of layers."""
    paths_by_room = defaultdict(list)
    for path in names.public_names():
        paths_by_room[names.room_of(path)].append(path)
    pages = {
        "reference/README.rst": f"{heading_of('Reference')}\nEvery public name by the path that one writes. The "
        "search finds names, words of their descriptions, lessons, recipes and the guide.\n\n"
        ".. automodule:: funcnet\n   :no-members:\n"
    }
    for room in sorted(paths_by_room, key=lambda room: (room.startswith("layers/"), room)):
        entries = "\n".join(entry_of(path) for path in sorted(paths_by_room[room], key=str.lower))
        pages[f"reference/{room}.rst"] = f"{heading_of(title_of(room))}\n{introduction_of(room)}\n\n{entries}"
    return pages


def heading_of(title: str) -> str:
    """A title, underlined as reStructuredText wants it."""
    return f"{title}\n{'=' * len(title)}\n"


def title_of(room: str) -> str:
    """The title of a page: the package as users import it, or the family of layers in words."""
    if room == "errors":
        return "Errors"
    if room.startswith("layers/"):
        return f"Layers: {room.removeprefix('layers/').replace('_', ' ')}"
    return f"funcnet.{room}"


def introduction_of(room: str) -> str:
    """The docstring of the package, or for a family of layers the line that its file begins with."""
    if room.startswith("layers/"):
        text = importlib.import_module(f"funcnet.layers._{room.removeprefix('layers/')}").__doc__ or ""
        return " ".join(text.split()).replace("*", "\\*")
    if room == "errors":
        return "What is raised, and what it means. Each is also an error of Python's own."
    return f".. automodule:: funcnet.{room}\n   :no-members:"


def entry_of(path: str) -> str:
    """The directive that describes a public name."""
    value = names.public_names()[path]
    if inspect.isclass(value) or inspect.isroutine(value):
        return f".. auto{'class' if inspect.isclass(value) else 'function'}:: {path}\n"
    text = text_below(path) or inspect.getdoc(type(value)) or ""
    return f".. py:data:: {path}\n\n" + textwrap.indent(text, "   ") + "\n"


def text_below(path: str) -> str | None:
    """The string below the assignment of a public value, in the room of that value."""
    package, _, name = path.rpartition(".")
    for file in sorted(Path(importlib.import_module(package).__path__[0]).glob("_*.py")):
        body = ast.parse(file.read_text(encoding="utf-8")).body
        for statement, after in itertools.pairwise(body):
            if isinstance(statement, ast.AnnAssign | ast.Assign) and isinstance(after, ast.Expr):
                targets = [statement.target] if isinstance(statement, ast.AnnAssign) else statement.targets
                if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                    return inspect.cleandoc(ast.literal_eval(after.value))
    return None
