"""Programs without statements that have no effect on the outputs: views of all of a tensor, repeated masks, copies."""

from __future__ import annotations

import ast
import operator
from collections import Counter

import torch
from torch import Tensor
from torch.fx import Node

from funcnet._torch_functions import CASTS, FRESH_RESULTS, RESHAPES, is_pure
from funcnet.program._capture import size_expression
from funcnet.program._expressions import name_of_function
from funcnet.program._masks import shorten_masks
from funcnet.program._short_calls import shorten_calls
from funcnet.program._statements import (
    Block,
    Program,
    Statement,
    Step,
    expression_names,
    iter_reads,
    iter_statements,
    map_expressions,
    read_names,
    replace_names,
    without_statements,
)
from funcnet.program._text import text_of


def simplify(program: Program) -> None:
    """Take out of a program what changes nothing; the numbers it computes stay, bit by bit."""
    _inline_sizes(program)
    _drop_identities(program)
    _drop_needless_in_place(program)
    _merge_equal_statements(program)
    shorten_masks(program)
    while _drop_unread(program):
        pass
    _unpack_tuples(program)
    map_expressions(program, lambda expression: shorten_calls(expression, assume_cpu=True))


def _replace_values(program: Program, expressions: dict[str, ast.expr], removed: set[int]) -> None:
    """Remove statements, and put other expressions in the place of their values."""
    program.statements = without_statements(program.statements, removed)
    if expressions:
        map_expressions(program, lambda expression: replace_names(expression, expressions))


def _inline_sizes(program: Program) -> None:
    """Write what is calculated from sizes where it is used."""
    expressions: dict[str, ast.expr] = {}
    removed: set[int] = set()
    for step in program.statements:
        if not isinstance(step, Statement) or step.node is None or len(step.targets) != 1:
            continue
        if not isinstance(step.value, (ast.BinOp, ast.UnaryOp)):
            continue
        example = program.captured.example(step.node)
        if isinstance(example, (int, torch.SymInt)) and not isinstance(example, bool):
            expressions[step.targets[0]] = step.value
            removed.add(id(step))
    _replace_values(program, expressions, removed)


# --- operations that give back what they are given ---


def _drop_identities(program: Program) -> None:
    expressions: dict[str, ast.expr] = {}
    removed: set[int] = set()
    for statement in iter_statements(program.statements):
        argument = _unchanged_argument(program, statement)
        if argument is None:
            continue
        value = statement.targets[0]
        expressions[value] = argument
        removed.add(id(statement))
        program.nodes.pop(value, None)
        if isinstance(argument, ast.Name):
            is_better_name = value in program.named and argument.id not in program.named
            if value in program.named_by_caller or is_better_name:
                program.hints[argument.id] = program.hints[value]  # the author names it here
    _replace_values(program, expressions, removed)


def _unchanged_argument(program: Program, statement: Statement) -> ast.expr | None:
    """The expression for the first argument of an operation that gives just that back."""
    node = statement.node
    if node is None or statement.written is not None or len(statement.targets) != 1:
        return None
    if not node.args or not isinstance(node.args[0], Node) or statement.targets[0] in program.mutated:
        return None
    before, after = (program.captured.example(operation) for operation in (node.args[0], node))
    if not isinstance(before, Tensor) or not isinstance(after, Tensor):
        return None
    if before.dtype != after.dtype or before.device != after.device or _shape_of(before) != _shape_of(after):
        return None
    if not _gives_back_argument(node, before):
        return None
    value = statement.value
    if isinstance(value, ast.Call):
        is_method = node.op == "call_method" and isinstance(value.func, ast.Attribute)
        return value.func.value if is_method else None  # type: ignore[attr-defined]  # of an Attribute
    if isinstance(value, ast.Subscript):
        return value.value
    return value.left if isinstance(value, ast.BinOp) else None


def _shape_of(tensor: Tensor) -> tuple[object, ...]:
    return tuple(size_expression(size) for size in tensor.shape)


def _gives_back_argument(node: Node, before: Tensor) -> bool:
    """Whether an operation gives its first argument back if it has the same shape and dtype afterwards."""
    target = node.target
    if node.op == "call_method":
        if target in CASTS:
            return not {"memory_format", "copy"} & set(node.kwargs) and not any(arg is True for arg in node.args[2:])
        if target == "contiguous":
            argument = node.args[0]
            is_input = not isinstance(argument, Node) or argument.op == "placeholder"
            return not node.kwargs and not is_input and before.is_contiguous()
        return target in RESHAPES
    if target is operator.getitem:
        parts = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
        return all(part is ... or isinstance(part, slice) for part in parts)
    return target is operator.add and type(node.args[1]) is int and node.args[1] == 0


# --- writes in place to what nobody else has ---


def _drop_needless_in_place(program: Program) -> None:
    """``F.relu(x)`` for ``F.relu(x, inplace=True)``, where x is new memory and nobody reads it again."""
    statements = list(iter_statements(program.statements))
    last_reads = {name: number for number, statement in enumerate(statements) for name in read_names(statement)}
    last_reads |= {name: len(statements) for result in program.results() for name in expression_names(result)}
    fresh: set[str] = set()
    for number, statement in enumerate(statements):
        call = statement.value
        if statement.written is not None or len(statement.targets) != 1:
            continue
        is_in_place = False
        if isinstance(call, ast.Call):
            keys = [key for key in call.keywords if key.arg == "inplace"]
            argument = call.args[0] if call.args else None
            if keys and isinstance(argument, ast.Name) and argument.id in fresh and last_reads[argument.id] == number:
                call.keywords.remove(keys[0])
            is_in_place = any(key.arg == "inplace" for key in call.keywords)
        if isinstance(call, ast.BinOp) or (not is_in_place and name_of_function(call) in FRESH_RESULTS):
            fresh.add(statement.targets[0])


# --- statements that are not needed ---


def _merge_equal_statements(program: Program) -> None:
    """Compute whole numbers and masks once."""
    if program.mutated:
        return
    values: dict[str, str] = {}  # text of an expression -> the value that has it
    expressions: dict[str, ast.expr] = {}
    removed: set[int] = set()
    for step in program.statements:
        if not isinstance(step, Statement) or step.node is None or len(step.targets) != 1:
            continue
        example = program.example(step.targets[0])
        if not is_pure(step.node.target) or not isinstance(example, Tensor) or example.is_floating_point():
            continue
        step.value = replace_names(step.value, expressions)
        text = f"{step.levels} {text_of(step.value)}"  # within one call of a module: equal calls stay equal
        if text in values:
            expressions[step.targets[0]] = ast.Name(values[text])
            removed.add(id(step))
        else:
            values[text] = step.targets[0]
    _replace_values(program, expressions, removed)


def _drop_unread(program: Program) -> bool:
    """Drop statements whose values nobody reads and that do nothing else; whether there was one."""
    counts = Counter(iter_reads(program))
    removed = {
        id(statement)
        for statement in iter_statements(program.statements)
        if statement.written is None
        and not any(counts[target] for target in statement.targets)
        and (statement.node is None or is_pure(statement.node.target))
    }
    program.statements = without_statements(program.statements, removed)
    return bool(removed)


# --- tuples ---


def _unpack_tuples(program: Program) -> None:
    """``a, b = f(x)`` for a tuple that is only taken apart, in the statements behind it."""
    program.statements = _unpack_tuples_in(program, program.statements, Counter(iter_reads(program)))


def _unpack_tuples_in(program: Program, steps: list[Step], counts: Counter[str]) -> list[Step]:
    result: list[Step] = []
    index = 0
    while index < len(steps):
        step = steps[index]
        index += 1
        result.append(step)
        if isinstance(step, Block):
            step.body = _unpack_tuples_in(program, step.body, counts)
            continue
        size = _tuple_size(program, step)
        if not 2 <= size <= 8:
            continue
        value, parts = step.targets[0], dict[int, str]()
        end = index
        while end < len(steps) and (part := _part_of(steps[end], value)) is not None and part[0] not in parts:
            parts[part[0]] = part[1]
            end += 1
        if parts and len(parts) == counts[value] and max(parts) < size:
            step.targets = [parts.get(position, "_") for position in range(size)]
            index = end
    return result


def _tuple_size(program: Program, statement: Statement) -> int:
    if statement.node is None or statement.written is not None or len(statement.targets) != 1:
        return 0
    example = program.captured.example(statement.node)
    return len(example) if isinstance(example, (tuple, list)) and not isinstance(example, torch.Size) else 0


def _part_of(step: Step, value: str) -> tuple[int, str] | None:
    """The position of the item of a tuple that a statement reads, and the value that it assigns."""
    if not isinstance(step, Statement) or len(step.targets) != 1 or not isinstance(step.value, ast.Subscript):
        return None
    owner, index = step.value.value, step.value.slice
    if isinstance(owner, ast.Name) and owner.id == value and isinstance(index, ast.Constant):
        return (index.value, step.targets[0]) if isinstance(index.value, int) and index.value >= 0 else None
    return None
