"""Statements without what computes nothing: views of all of a tensor, casts to the same dtype, values nobody reads."""

from __future__ import annotations

import ast
import operator
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from funcnet.program._capture import _size
from funcnet.program._constants import shortened
from funcnet.program._program import Program, Statement, defined, names_in
from funcnet.program._shorter import Shorter

_CASTS = frozenset({"to", "float", "double", "half", "bfloat16", "type", "type_as", "long", "int", "bool"})
_PURE = frozenset(
    [
        "getitem",
        "size",
        "view",
        "reshape",
        "transpose",
        "permute",
        "unsqueeze",
        "squeeze",
        "expand",
        "flatten",
        "to",
        "float",
        "type_as",
        "contiguous",
        "arange",
        "zeros",
        "ones",
        "full",
        "empty",
        "new_ones",
        "new_zeros",
        "new_tensor",
        "add",
        "sub",
        "mul",
        "truediv",
        "floordiv",
        "neg",
        "eq",
        "ne",
        "lt",
        "le",
        "gt",
        "ge",
        "and_",
        "or_",
        "invert",
        "cumsum",
        "diff",
        "t",
        "split",
        "chunk",
        "unbind",
        "getattr",
        "cat",
        "stack",
        "where",
        "ones_like",
        "zeros_like",
        "tensor",
        "clone",
        "masked_fill",
        "tril",
        "triu",
        "logical_or",
        "logical_and",
        "logical_not",
        "bitwise_and",
        "broadcast_to",
        "int",
        "long",
        "bool",
    ]
)


def tidied(program: Program) -> None:
    """Take out of a program what computes nothing; the numbers it computes stay."""
    _sizes_in_place(program)
    _without_nothing(program)
    _not_in_place(program)
    _without_copies(program)
    shortened(program)
    while _without_unread(program):
        pass
    _unpacked(program)
    for statement in _all(program.statements):
        if not isinstance(statement.code, ast.With):
            statement.code = Shorter().visit(statement.code)


def _all(statements: list[Statement]) -> Iterator[Statement]:
    for statement in statements:
        yield statement
        if isinstance(statement.code, ast.With):
            yield from _all(statement.code.body)  # type: ignore[arg-type]


def _substitute(program: Program, given: dict[str, ast.expr]) -> None:
    """Replace values by what stands for them, everywhere."""
    change = _Substitution(given)
    for statement in _all(program.statements):
        if isinstance(statement.code, ast.With):
            statement.code.items = [change.visit(item) for item in statement.code.items]
        else:
            statement.code = change.visit(statement.code)
    program.returned = change.visit(program.returned)
    program.new = {path: change.visit(value) for path, value in program.new.items()}


class _Substitution(ast.NodeTransformer):
    def __init__(self, given: dict[str, ast.expr]) -> None:
        self.given = given

    def visit_Name(self, node: ast.Name) -> Any:
        if isinstance(getattr(node, "ctx", None), ast.Store) or node.id not in self.given:
            return node
        return self.visit(self.given[node.id])


def _filter(statements: list[Statement], gone: set[int]) -> list[Statement]:
    kept = []
    for statement in statements:
        if id(statement) in gone:
            continue
        if isinstance(statement.code, ast.With):
            statement.code.body = _filter(statement.code.body, gone)  # type: ignore[arg-type, assignment]
            if not statement.code.body:
                continue
        kept.append(statement)
    return kept


# --- operations that give what they are given ---


def _without_nothing(program: Program) -> None:
    given: dict[str, ast.expr] = {}
    gone: set[int] = set()
    for statement in _all(program.statements):
        owner = _unchanged(program, statement)
        if owner is not None:
            value = defined(statement.code)[0]
            given[value] = owner
            gone.add(id(statement))
            program.nodes.pop(value, None)
            if not isinstance(owner, ast.Name):
                continue
            if value in program.named or (value in program.stored and owner.id not in program.stored):
                program.hints[owner.id] = program.hints[value]  # the author names it here
    program.statements = _filter(program.statements, gone)
    _substitute(program, given)


def _unchanged(program: Program, statement: Statement) -> ast.expr | None:
    """The value that a statement gives back as it is, if that is all it does."""
    node, code = statement.node, statement.code
    if node is None or not isinstance(code, ast.Assign) or not isinstance(code.targets[0], ast.Name):
        return None
    if not node.args or not isinstance(node.args[0], Node) or code.targets[0].id in program.mutated:
        return None
    owner = node.args[0]
    before, after = (program.captured.meta[one].get("example_value") for one in (owner, node))
    if not isinstance(before, Tensor) or not isinstance(after, Tensor):
        return None
    if before.dtype != after.dtype or before.device != after.device or _shape(before) != _shape(after):
        return None
    if not _gives_back(node, before):
        return None
    return _owner(code.value, node)


def _owner(value: ast.expr, node: Node) -> ast.expr | None:
    """The expression of the first argument."""
    if isinstance(value, ast.Call):
        return value.func.value if node.op == "call_method" and isinstance(value.func, ast.Attribute) else None
    if isinstance(value, ast.Subscript):
        return value.value
    return value.left if isinstance(value, ast.BinOp) else None


def _shape(tensor: Tensor) -> tuple[Any, ...]:
    return tuple(_size(size) for size in tensor.shape)


def _gives_back(node: Node, before: Tensor) -> bool:
    target = node.target
    if node.op == "call_method":
        if target in _CASTS:
            return not {"memory_format", "copy"} & set(node.kwargs) and not any(arg is True for arg in node.args[2:])
        if target == "contiguous":
            return not node.kwargs and node.args[0].op != "placeholder" and before.is_contiguous()  # type: ignore
        return target in ("expand", "view", "reshape", "expand_as", "view_as")
    if target is operator.getitem:
        parts = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
        return all(part is ... or isinstance(part, slice) for part in parts)
    return target is operator.add and type(node.args[1]) is int and node.args[1] == 0


# --- sizes ---


def _sizes_in_place(program: Program) -> None:
    """Write what is calculated from sizes where it is used."""
    given: dict[str, ast.expr] = {}
    gone: set[int] = set()
    for statement in program.statements:
        node, code = statement.node, statement.code
        if node is None or not isinstance(code, ast.Assign) or not isinstance(code.value, (ast.BinOp, ast.UnaryOp)):
            continue
        example = program.captured.meta[node].get("example_value")
        if isinstance(example, (int, torch.SymInt)) and not isinstance(example, bool):
            given[defined(code)[0]] = code.value
            gone.add(id(statement))
    program.statements = _filter(program.statements, gone)
    _substitute(program, given)


# --- in place on what nobody else has ---


def _not_in_place(program: Program) -> None:
    """``F.relu(x)`` for ``F.relu(x, inplace=True)``, where x is fresh and nobody reads it again."""
    statements = list(_all(program.statements))
    last = {name: at for at, statement in enumerate(statements) for name in names_in(statement.code, ast.Load)}
    last |= {name: len(statements) for value in (program.returned, *program.new.values()) for name in names_in(value)}
    fresh: set[str] = set()
    for at, statement in enumerate(statements):
        code = statement.code
        if not isinstance(code, ast.Assign) or not isinstance(code.targets[0], ast.Name):
            continue
        call = code.value
        if isinstance(call, ast.Call) and call.args and isinstance(call.args[0], ast.Name):
            keys = [key for key in call.keywords if key.arg == "inplace"]
            if keys and call.args[0].id in fresh and last[call.args[0].id] == at:
                call.keywords.remove(keys[0])
        name = ast.unparse(call.func) if isinstance(call, ast.Call) else ""
        plain = isinstance(call, ast.Call) and not any(key.arg == "inplace" for key in call.keywords)
        if isinstance(call, ast.BinOp) or (plain and name in _FRESH):
            fresh.add(code.targets[0].id)


_FRESH = frozenset(
    f"F.{name}"
    for name in [
        "linear",
        "conv1d",
        "conv2d",
        "conv3d",
        "conv_transpose1d",
        "conv_transpose2d",
        "conv_transpose3d",
        "batch_norm",
        "layer_norm",
        "group_norm",
        "instance_norm",
        "relu",
        "relu6",
        "silu",
        "gelu",
        "elu",
        "hardswish",
        "leaky_relu",
        "max_pool2d",
    ]
)


# --- the same computed twice ---


def _without_copies(program: Program) -> None:
    """Compute whole numbers and masks once."""
    seen: dict[str, str] = {}
    given: dict[str, ast.expr] = {}
    gone: set[int] = set()
    if program.mutated:
        return
    for statement in program.statements:
        node, code = statement.node, statement.code
        if node is None or not isinstance(code, ast.Assign) or not _is_pure(node):
            continue
        value = defined(code)[0]
        example = program.example(value)
        if not isinstance(example, Tensor) or example.is_floating_point():
            continue
        code.value = _Substitution(given).visit(code.value)
        text = f"{statement.levels} {ast.dump(code.value)}"  # within one call: equal calls stay equal
        if text in seen:
            given[value] = ast.Name(seen[text], ast.Load())
            gone.add(id(statement))
        else:
            seen[text] = value
    program.statements = _filter(program.statements, gone)
    _substitute(program, given)


def _is_pure(node: Node) -> bool:
    target = node.target
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    return name in _PURE


# --- values nobody reads ---


def _without_unread(program: Program) -> bool:
    read = Counter(_reads(program))
    gone = {
        id(statement)
        for statement in _all(program.statements)
        if _is_unread(statement.code, read) and (statement.node is None or _is_pure(statement.node))
    }
    program.statements = _filter(program.statements, gone)
    return bool(gone)


def _is_unread(code: ast.stmt, read: Counter[str]) -> bool:
    if isinstance(code, ast.Assign):
        return isinstance(code.targets[0], ast.Name) and not read[code.targets[0].id]
    return isinstance(code, ast.Expr)


def _reads(program: Program) -> Iterator[str]:
    for statement in program.statements:
        yield from names_in(statement.code, ast.Load)
    for value in (program.returned, *program.new.values()):
        yield from names_in(value)


# --- tuples ---


def _unpacked(program: Program) -> None:
    """``a, b = f(x)`` for a tuple that is only taken apart, in the statements behind it."""
    read = Counter(_reads(program))
    program.statements = _unpacked_in(program, program.statements, read)


def _unpacked_in(program: Program, statements: list[Statement], read: Counter[str]) -> list[Statement]:
    kept: list[Statement] = []
    at = 0
    while at < len(statements):
        statement = statements[at]
        at += 1
        kept.append(statement)
        if isinstance(statement.code, ast.With):
            statement.code.body = _unpacked_in(program, statement.code.body, read)  # type: ignore
            continue
        size = _tuple_size(program, statement)
        if not size:
            continue
        value = defined(statement.code)[0]
        parts: dict[int, str] = {}
        end = at
        while end < len(statements) and (part := _part_of(statements[end], value)) is not None and part[0] not in parts:
            parts[part[0]] = part[1]
            end += 1
        if len(parts) == read[value] and parts and max(parts) < size and size <= 8:
            names: list[ast.expr] = [ast.Name(parts.get(index, "_"), ast.Store()) for index in range(size)]
            statement.code.targets = [ast.Tuple(names, ast.Store())]  # type: ignore[attr-defined]
            at = end
    return kept


def _tuple_size(program: Program, statement: Statement) -> int:
    code = statement.code
    if statement.node is None or not isinstance(code, ast.Assign) or not isinstance(code.targets[0], ast.Name):
        return 0
    example = program.captured.meta[statement.node].get("example_value")
    return len(example) if isinstance(example, (tuple, list)) and not isinstance(example, torch.Size) else 0


def _part_of(statement: Statement, value: str) -> tuple[int, str] | None:
    code = statement.code
    if isinstance(code, ast.Assign) and isinstance(code.value, ast.Subscript) and isinstance(code.targets[0], ast.Name):
        whole, index = code.value.value, code.value.slice
        if isinstance(whole, ast.Name) and whole.id == value and isinstance(index, ast.Constant):
            return (index.value, code.targets[0].id) if isinstance(index.value, int) and index.value >= 0 else None
    return None
