"""Shortens a program to what a reader needs to see of it."""

from __future__ import annotations

import ast
import textwrap

LONGEST = 48


def shorten_code(code: str, longest: int = LONGEST) -> str:
    """The code without docstrings, and with no more lines than fit on a screen; lines that stay are unchanged.

    A class that is too long is shortened to its ``__init__`` and ``forward``, or to ``forward`` alone.

    >>> shorten_code('def f(x):\\n    "Double."\\n    return 2 * x\\n')
    'def f(x):\\n    return 2 * x'
    """
    code = textwrap.dedent(code)
    for methods in (None, ("__init__", "forward"), ("forward",)):
        lines = _select_lines(code, methods)
        if len(lines) <= longest:
            break
    if len(lines) > longest:
        lines = [*lines[: longest - 1], f"# ... {len(lines) - longest + 1} more lines, all in --json"]
    return "\n".join(lines)


def _select_lines(code: str, methods: tuple[str, ...] | None) -> list[str]:
    """The lines without docstrings and, if ``methods`` is given, without the other members of each class."""
    lines = code.rstrip().splitlines()
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return lines
    dropped: set[int] = set()
    ellipses: dict[int, str] = {}  # by the number of the line that they replace
    for node in ast.walk(tree):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) and len(node.body) > 1:
            dropped.update(_line_numbers(node.body[0], lines))
        if isinstance(node, ast.ClassDef) and methods:
            # Decorators go too: some hold pages of text.
            dropped.update(range(_line_numbers(node, lines)[0], node.lineno))
            for member in node.body:
                if not (isinstance(member, ast.FunctionDef) and member.name in methods):
                    numbers = _line_numbers(member, lines)
                    dropped.update(numbers)
                    ellipses[numbers[0]] = " " * member.col_offset + "..."
    result: list[str] = []
    for number, line in enumerate(lines, 1):
        if number not in dropped:
            result.append(line)
        elif number in ellipses and (not result or result[-1] != ellipses[number]):
            result.append(ellipses[number])
    return result


def _line_numbers(node: ast.stmt, lines: list[str]) -> range:
    """The line numbers of a statement, including its decorators and the blank lines after it."""
    first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", ()))])
    last = node.end_lineno or node.lineno
    while last < len(lines) and not lines[last].strip():
        last += 1
    return range(first, last + 1)
