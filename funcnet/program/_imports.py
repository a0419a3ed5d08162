"""The import lines of a generated text."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Mapping, Sequence

from funcnet.program._statements import Program, map_expressions


class _ImportedNames(ast.NodeTransformer):
    """Says ``Name`` for ``package.module.Name``, and remembers which names it said."""

    def __init__(self, modules: set[str]) -> None:
        self.modules = modules
        self.names: dict[str, str] = {}

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        text = _dotted_text(node)
        module, _, name = text.rpartition(".")
        is_taken = any(text != full_name and name == known for full_name, known in self.names.items())
        if module in self.modules and not is_taken:
            self.names[text] = name
            return ast.Name(name)
        result: ast.expr = self.generic_visit(node)  # type: ignore[assignment]
        return result


def _dotted_text(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted_text(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def import_names(program: Program, imports: Sequence[str]) -> dict[str, str]:
    """Say ``Name`` for ``package.module.Name`` in a program; the full name of each -> the name."""
    modules = {line.split()[1] for line in imports if " as " not in line and "." in line}
    change = _ImportedNames(modules)
    map_expressions(program, change.visit)
    return change.names


def import_lines(text: str, imports: Sequence[str], imported: Mapping[str, str]) -> list[str]:
    """The lines that a text needs, in the order and groups that isort gives them.

    Args:
        text: the text below the imports.
        imports: lines that it may need.
        imported: full names -> the names that the text uses for them.
    """
    lines: list[str] = []
    text = re.sub(r'"""[\s\S]*?"""|# .*', "", text)  # what is said about it imports nothing
    for line in imports:
        name = line.split()[-1]
        if re.search(rf"(?<![\w.\"]){re.escape(name)}\.", text):
            lines.append(line)
    lines += [f"from {full_name.rpartition('.')[0]} import {name}" for full_name, name in imported.items()]
    if re.search(r"(?<![\w.\"])fn\.", text) and not any(line.endswith(" as fn") for line in lines):
        lines.append("import funcnet as fn")
    standard = {line for line in lines if line.split()[1].split(".")[0] in sys.stdlib_module_names}
    groups = [sorted(group, key=_isort_order) for group in (standard, set(lines) - standard) if group]
    return [line for index, group in enumerate(groups) for line in ([""] if index else []) + group]


def _isort_order(line: str) -> tuple[bool, str]:
    """The order in which isort puts lines: first those that import whole modules."""
    return line.startswith("from "), line
