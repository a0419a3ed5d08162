"""Somebody else's code, as much of it as a reader needs."""

from __future__ import annotations

import ast
import textwrap

LONGEST = 48


def readable(code: str, longest: int = LONGEST) -> str:
    """Code without docstrings, and no more of it than fits on a screen; every line that is left is as it was.

    Of a long class, ``__init__`` and ``forward`` are kept; else ``forward`` alone.

    >>> readable('def f(x):\\n    "Double."\\n    return 2 * x\\n')
    'def f(x):\\n    return 2 * x'
    """
    code = textwrap.dedent(code)
    shorter = (_kept(code, methods) for methods in (None, ("__init__", "forward"), ("forward",)))
    for lines in shorter:
        if len(lines) <= longest:
            break
    if len(lines) > longest:
        lines = [*lines[: longest - 1], f"# ... {len(lines) - longest + 1} more lines, all in --json"]
    return "\n".join(lines)


def _kept(code: str, methods: tuple[str, ...] | None) -> list[str]:
    """Lines without docstrings and, if ``methods`` are named, without what else a class has."""
    lines = code.rstrip().splitlines()
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return lines
    dropped: set[int] = set()
    marks: dict[int, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) and len(node.body) > 1:
            dropped.update(_lines_of(node.body[0], lines))
        if isinstance(node, ast.ClassDef) and methods:
            dropped.update(range(_lines_of(node, lines)[0], node.lineno))  # decorators, which may hold pages of text
            for item in node.body:
                if not (isinstance(item, ast.FunctionDef) and item.name in methods):
                    dropped.update(_lines_of(item, lines))
                    marks[_lines_of(item, lines)[0]] = " " * item.col_offset + "..."
    kept: list[str] = []
    for number, line in enumerate(lines, 1):
        if number not in dropped:
            kept.append(line)
        elif number in marks and (not kept or kept[-1] != marks[number]):
            kept.append(marks[number])
    return kept


def _lines_of(node: ast.stmt, lines: list[str]) -> range:
    """Line numbers of a statement, its decorators and the blank line behind it included."""
    first = min([node.lineno, *(mark.lineno for mark in getattr(node, "decorator_list", ()))])
    last = node.end_lineno or node.lineno
    while last < len(lines) and not lines[last].strip():
        last += 1
    return range(first, last + 1)
