"""Several operations in one statement, as the author writes them."""

from __future__ import annotations

import ast
import copy
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from funcnet.program._program import Program, Statement, defined, names_in
from funcnet.program._shorter import Shorter
from funcnet.program._source_calls import Function, Loop
from funcnet.program._text import WIDTH, text_of


def steps(items: Iterable[Any]) -> Iterator[tuple[Any, list[str]]]:
    """Items one by one, those of blocks included, with the values they read."""
    for item in items:
        if isinstance(item, Statement) and isinstance(item.code, ast.With):
            yield item, [name for one in item.code.items for name in names_in(one.context_expr)]
            yield from steps(item.code.body)
        elif isinstance(item, Statement):
            yield item, list(names_in(item.code, ast.Load))
        elif isinstance(item, Loop):
            yield item, [name for use in item.uses for name in use.given]
        else:
            yield item, list(item.given)


def inlined(program: Program, function: Function) -> list[Any]:
    """Items with what the author has no name for written where it is used, in the statement behind it."""
    read: Counter[str] = Counter(name for _, reads in steps(function.items) for name in reads)
    read.update(function.outputs)
    read.update(name for value in function.new.values() for name in names_in(value))
    return _inlined(program, function.items, read, function.level.path)


def _inlined(program: Program, items: list[Any], read: Counter[str], path: str) -> list[Any]:
    kept: list[Any] = []
    for item in items:
        if isinstance(item, Statement) and isinstance(item.code, ast.With):
            inner = _inlined(program, item.code.body, read, path)
            kept.append(Statement(ast.With(item.code.items, inner), item.levels, item.node))
            continue
        while isinstance(item, Statement) and kept and _fits(program, kept[-1], item, read, path):
            before = kept.pop()
            value = defined(before.code)[0]
            code = Shorter().visit(_replaced(item.code, value, before.code.value))
            item = Statement(code, item.levels, item.node)
        kept.append(item)
    return kept


def _fits(program: Program, before: Any, item: Statement, read: Counter[str], path: str) -> bool:
    if not isinstance(before, Statement) or not isinstance(before.code, ast.Assign) or before.levels != item.levels:
        return False
    if before.node is None or not isinstance(before.code.targets[0], ast.Name):
        return False
    value = before.code.targets[0].id
    if value in program.stored or read[value] != 1 or value in program.mutated:
        return False
    if any(name.startswith("rng:") for name in names_in(before.code)) or _in_place(before.code):
        return False
    reads = list(names_in(item.code, ast.Load))
    if reads.count(value) != 1 or (isinstance(item.code, ast.AugAssign) and value not in names_in(item.code.value)):
        return False
    if isinstance(item.code, ast.Assign) and not isinstance(item.code.targets[0], (ast.Name, ast.Tuple)):
        return False
    merged = _replaced(item.code, value, before.code.value)
    shown = text_of(merged.value, lambda name: _estimate(program, name, path))
    target = sum(len(_estimate(program, name, path)) + 2 for name in defined(merged)) + 4
    return 4 + len(shown) + target <= WIDTH


def _estimate(program: Program, name: str, path: str) -> str:
    """About what a name will be."""
    if name.startswith("%"):
        return program.hints.get(name) or "value"
    kind, colon, rest = name.partition(":")
    return kind + "".join(f'["{key}"]' for key in rest[len(path) :].split(".") if key) if colon else name


def _in_place(code: ast.stmt) -> bool:
    return any(
        isinstance(node, ast.Call)
        and (
            (
                isinstance(node.func, ast.Attribute)
                and node.func.attr.endswith("_")
                and not node.func.attr.endswith("__")
            )
            or any(key.arg in ("inplace", "out") for key in node.keywords)
        )
        for node in ast.walk(code)
    )


def _replaced(code: Any, value: str, by: ast.expr) -> Any:
    class Change(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> Any:
            return by if node.id == value and not isinstance(getattr(node, "ctx", None), ast.Store) else node

    return Change().visit(copy.deepcopy(code))
