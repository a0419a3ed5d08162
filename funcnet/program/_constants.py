"""Masks that depend on nothing but sizes, as the short expression that gives the same."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from funcnet.program._capture import _size
from funcnet.program._program import Program, Statement, defined, is_value, names_in
from funcnet.program._text import text_of

_BATCHES = (2, 3, 8, 129)  # sizes to try what is free with
_FULL = "true everywhere"
_MOST = 1 << 20  # elements that are worth a look


def shortened(program: Program) -> None:
    """Say ``torch.ones(6, 6).tril()`` for a boolean mask that is calculated from positions in several steps."""
    if program.mutated or len(program.sizes) > 1:
        return
    known = _from_sizes(program)
    outside = {name for one in program.statements if id(one) not in known for name in names_in(one.code, ast.Load)}
    outside |= {name for value in (program.returned, *program.new.values()) for name in names_in(value)}
    for statement in known.values():
        value = defined(statement.code)[0]
        example = program.example(value)
        if value not in outside or not isinstance(example, Tensor) or example.dtype != torch.bool or not example.dim():
            continue
        if _steps_to(value, known) < 3:
            continue
        shape = [_size(size) for size in example.shape]
        free = {name for name, symbol in program.sizes.items() if symbol in shape}
        if all(isinstance(size, int) or size in program.sizes.values() for size in shape):
            text = _found([_values(known, value, dict.fromkeys(program.sizes, batch)) for batch in _BATCHES])
            if text is not None:
                assert isinstance(statement.code, ast.Assign)
                statement.code.value = _expanded(text, shape, next(iter(free), None))


def _from_sizes(program: Program) -> dict[int, Statement]:
    """The statements whose values depend on nothing but sizes, by id, in order."""
    values: dict[str, Any] = {}  # and the parts they belong to: a part that is given one does not make it again
    found: dict[int, Statement] = {}
    for statement in program.statements:
        code = statement.code
        plain = isinstance(code, ast.Assign) and isinstance(code.targets[0], ast.Name) and statement.node is not None
        reads = [values.get(name) == statement.levels for name in names_in(code, ast.Load) if name not in program.sizes]
        if plain and all(reads) and {"torch"}.issuperset(_roots(code)):
            example = program.example(defined(code)[0])
            if isinstance(example, Tensor) and not example.is_floating_point():
                values[defined(code)[0]] = statement.levels
                found[id(statement)] = statement
    return found


def _roots(code: ast.stmt) -> list[str]:
    """The names that are no values: modules and functions."""
    return [node.id for node in ast.walk(code) if isinstance(node, ast.Name) and not is_value(node.id)]


def _steps_to(value: str, known: Mapping[int, Statement]) -> int:
    """How many statements a value takes."""
    made = {defined(one.code)[0]: one for one in known.values()}
    needed: set[str] = set()
    waiting = [value]
    while waiting:
        name = waiting.pop()
        if name in made and name not in needed:
            needed.add(name)
            waiting += names_in(made[name].code, ast.Load)
    return len(needed)


def _values(known: Mapping[int, Statement], wanted: str, sizes: Mapping[str, int]) -> Tensor | None:
    """What a value is, for given sizes."""

    def spoken(name: str) -> str:
        return f"v{name[1:]}" if is_value(name) else name

    space: dict[str, Any] = {"torch": torch, **{spoken(name): size for name, size in sizes.items()}}
    for statement in known.values():
        value = defined(statement.code)[0]
        try:
            space[spoken(value)] = eval(text_of(statement.code.value, spoken), space)  # type: ignore[attr-defined]
        except Exception:
            return None
        if value == wanted:
            found = space[spoken(value)]
            return found if isinstance(found, Tensor) and found.numel() <= _MOST else None
    return None


def _found(examples: list[Tensor | None]) -> str | None:
    """An expression, without its expansion, that gives all of these."""
    texts = {next(_candidates(one), None) if one is not None else None for one in examples}
    return texts.pop() if len(texts) == 1 else None


def _candidates(example: Tensor) -> Iterator[str]:
    if bool(example.all()):
        yield _FULL
    if example.dim() > 1:
        rows, columns = example.shape[-2:]
        square = torch.ones(rows, columns, dtype=torch.bool)
        for text, one in ((".tril()", square.tril()), (".triu(1)", square.triu(1))):
            if bool((example == one).all()):
                yield f"torch.ones({rows}, {columns}, dtype=torch.bool){text}"


def _expanded(text: str, shape: list[Any], free: str | None) -> ast.expr:
    sizes: list[ast.expr] = [ast.Constant(one) if isinstance(one, int) else ast.Name(str(free)) for one in shape]
    if text == _FULL:
        return ast.Call(ast.Name("torch.ones"), sizes, [ast.keyword("dtype", ast.Name("torch.bool"))])
    triangle = ast.parse(text, mode="eval").body
    if len(shape) == 2:
        return triangle
    return ast.Call(ast.Attribute(triangle, "expand", ast.Load()), sizes, [])
