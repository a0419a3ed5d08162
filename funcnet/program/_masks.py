"""Masks that depend on nothing but sizes, as the short expression that gives the same."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from funcnet.program._capture import size_expression
from funcnet.program._expressions import dotted_name
from funcnet.program._statements import Program, Statement, expression_names, is_value, read_names
from funcnet.program._text import text_of

_BATCHES = (2, 3, 8, 129)  # sizes to try what is free with
_MOST_ELEMENTS = 1 << 20  # of a mask that is worth a look


def shorten_masks(program: Program) -> None:
    """Say ``torch.ones(6, 6).tril()`` for a boolean mask that is calculated from positions in several steps."""
    if program.mutated or len(program.sizes) > 1:
        return
    positions = _statements_from_sizes(program)
    read_outside = {name for step in program.statements if id(step) not in positions for name in read_names(step)}
    read_outside |= {name for result in program.results() for name in expression_names(result)}
    for statement in positions.values():
        value = statement.targets[0]
        example = program.example(value)
        if value not in read_outside or not isinstance(example, Tensor) or example.dtype != torch.bool:
            continue
        if not example.dim() or _count_steps(value, positions) < 3:
            continue
        shape = [size_expression(size) for size in example.shape]
        free_size = next((name for name, symbol in program.sizes.items() if symbol in shape), "")
        if all(isinstance(size, int) or size in program.sizes.values() for size in shape):
            masks = [_evaluate(positions, value, dict.fromkeys(program.sizes, batch)) for batch in _BATCHES]
            kind = _common_kind(masks)
            if kind is not None:
                sizes: list[ast.expr] = [
                    ast.Constant(size) if isinstance(size, int) else ast.Name(free_size) for size in shape
                ]
                statement.value = _mask_expression(kind, sizes)


def _statements_from_sizes(program: Program) -> dict[int, Statement]:
    """The statements whose values depend on nothing but sizes, by id, in order."""
    transform_levels: dict[
        str, object
    ] = {}  # value -> the part it belongs to: a part that is given one does not make it again
    result: dict[int, Statement] = {}
    for step in program.statements:
        if not isinstance(step, Statement) or step.written is not None or len(step.targets) != 1 or step.node is None:
            continue
        reads = [name for name in read_names(step) if name not in program.sizes]
        if not all(transform_levels.get(name) == step.levels for name in reads) or not _calls_only_torch(step.value):
            continue
        example = program.example(step.targets[0])
        if isinstance(example, Tensor) and not example.is_floating_point():
            transform_levels[step.targets[0]] = step.levels
            result[id(step)] = step
    return result


def _calls_only_torch(expression: ast.expr) -> bool:
    names = {node.id for node in ast.walk(expression) if isinstance(node, ast.Name) and not is_value(node.id)}
    return names <= {"torch"}


def _count_steps(value: str, statements: Mapping[int, Statement]) -> int:
    """How many statements a value takes."""
    makers = {statement.targets[0]: statement for statement in statements.values()}
    needed: set[str] = set()
    waiting = [value]
    while waiting:
        name = waiting.pop()
        if name in makers and name not in needed:
            needed.add(name)
            waiting += read_names(makers[name])
    return len(needed)


def _evaluate(statements: Mapping[int, Statement], value: str, sizes: Mapping[str, int]) -> Tensor | None:
    """The tensor that a value is for given sizes."""

    def spell(name: str) -> str:
        return f"v{name[1:]}" if is_value(name) else name

    namespace: dict[str, object] = {"torch": torch, **{spell(name): size for name, size in sizes.items()}}
    for statement in statements.values():
        target = spell(statement.targets[0])
        try:
            namespace[target] = eval(text_of(statement.value, spell), namespace)
        except Exception:
            return None
        if statement.targets[0] == value:
            mask = namespace[target]
            return mask if isinstance(mask, Tensor) and mask.numel() <= _MOST_ELEMENTS else None
    return None


def _common_kind(masks: list[Tensor | None]) -> str | None:
    """The kind of mask that all of these are: "full", "tril" or "triu"; None if there is none."""
    kinds = {next(_kinds_of(mask), None) if mask is not None else None for mask in masks}
    shapes = {tuple(mask.shape[-2:]) for mask in masks if mask is not None}
    kind = kinds.pop() if len(kinds) == 1 else None
    return kind if kind == "full" or len(shapes) == 1 else None


def _kinds_of(mask: Tensor) -> Iterator[str]:
    if bool(mask.all()):
        yield "full"
    if mask.dim() > 1:
        square = torch.ones(mask.shape[-2:], dtype=torch.bool)
        for kind, triangle in (("tril", square.tril()), ("triu", square.triu(1))):
            if bool((mask == triangle).all()):
                yield kind


def _mask_expression(kind: str, sizes: list[ast.expr]) -> ast.expr:
    dtype = ast.keyword("dtype", dotted_name("torch.bool"))
    if kind == "full":
        return ast.Call(dotted_name("torch.ones"), sizes, [dtype])
    ones = ast.Call(dotted_name("torch.ones"), sizes[-2:], [dtype])
    triangle = ast.Call(ast.Attribute(ones, kind), [ast.Constant(1)] if kind == "triu" else [], [])
    return triangle if len(sizes) == 2 else ast.Call(ast.Attribute(triangle, "expand"), sizes, [])
