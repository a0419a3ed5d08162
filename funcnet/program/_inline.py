"""Several operations in one statement, as the author writes them."""

from __future__ import annotations

import ast
import copy
from collections import Counter
from collections.abc import Sequence

from funcnet.program._short_calls import shorten_calls
from funcnet.program._statements import (
    Block,
    Function,
    Item,
    Program,
    Statement,
    expression_names,
    iter_items,
    read_names,
    relative_path,
    replace_names,
    split_place,
)
from funcnet.program._text import WIDTH, text_of


def inline_statements(program: Program, function: Function) -> list[Item]:
    """The items of a function; a value that the author has no name for is written where the next statement uses it."""
    counts: Counter[str] = Counter(name for _, reads in iter_items(function.items) for name in reads)
    counts.update(function.outputs)
    counts.update(name for value in function.new_buffers.values() for name in expression_names(value))
    return _inline_items(program, function.items, counts, function.level.path)


def _inline_items(program: Program, items: Sequence[Item], counts: Counter[str], path: str) -> list[Item]:
    result: list[Item] = []
    for item in items:
        if isinstance(item, Block):
            body = _inline_items(program, item.body, counts, path)
            result.append(Block(item.contexts, body))  # type: ignore[arg-type]  # a block holds no calls of functions
            continue
        while isinstance(item, Statement) and result:
            merged = _merge(program, result[-1], item, counts, path)
            if merged is None:
                break
            result.pop()
            item = merged
        result.append(item)
    return result


def _merge(program: Program, before: Item, item: Statement, counts: Counter[str], path: str) -> Statement | None:
    """A statement with the value of the one before it written where it is used; None if that is not worth it."""
    if not isinstance(before, Statement) or before.written is not None or before.levels != item.levels:
        return None
    if before.node is None or len(before.targets) != 1:
        return None
    value = before.targets[0]
    if value in program.named or counts[value] != 1 or value in program.mutated:
        return None
    if any(name.startswith("rng:") for name in expression_names(before.value)) or _writes_in_place(before.value):
        return None
    if list(read_names(item)).count(value) != 1 or value not in expression_names(item.value):
        return None
    if item.written is not None and item.operator is None:
        return None
    # of a copy: the statement stays as it is if the merged one turns out too long
    expression = replace_names(copy.deepcopy(item.value), {value: before.value})
    text = text_of(expression, lambda name: _estimated_name(program, name, path))
    targets = item.targets if item.written is None else []
    head = sum(len(_estimated_name(program, name, path)) + 2 for name in targets) + 4
    if 4 + len(text) + head > WIDTH:
        return None
    expression = shorten_calls(expression, assume_cpu=True)
    return Statement(expression, item.targets, item.written, item.operator, item.levels, item.node)


def _estimated_name(program: Program, name: str, path: str) -> str:
    """About what a name will be in the text."""
    if name.startswith("%"):
        return program.hints.get(name) or "value"
    place = split_place(name)
    if place is None:
        return name
    rest = relative_path(place[1], path)
    if rest is None:  # it becomes an argument
        return place[1].rpartition(".")[2]
    return place[0] + "".join(f'["{key}"]' for key in rest.split(".") if key)


def _writes_in_place(expression: ast.expr) -> bool:
    for node in ast.walk(expression):
        if isinstance(node, ast.Call):
            method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            if method.endswith("_") and not method.endswith("__"):
                return True
            if any(key.arg in ("inplace", "out") for key in node.keywords):
                return True
    return False
