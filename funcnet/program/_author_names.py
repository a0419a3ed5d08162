"""What the author of a module calls values: read from the lines of code that an operation comes from."""

from __future__ import annotations

import ast
import inspect
import linecache
import re
from collections.abc import Sequence
from functools import lru_cache

from torch import nn
from torch.fx import Node

_FRAME = re.compile(r'File "(.+)", line (\d+), in ')


def frames_of(trace: str) -> list[tuple[str, int]]:
    """File and line of each frame of a stack trace, outermost first; without those that are no files."""
    return [(file, int(line)) for file, line in _FRAME.findall(trace) if not file.startswith("<")]


@lru_cache(maxsize=64)
def _statements_in(file: str) -> list[ast.stmt]:
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:
        return []
    kinds = (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Return, ast.Expr)
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


@lru_cache(maxsize=100_000)
def statement_at(file: str, line: int) -> ast.stmt | None:
    """The simple statement on a line of a file."""
    statements = _statements_in(file)
    matches = [statement for statement in statements if statement.lineno <= line <= _last_line(statement)]
    return min(matches, key=lambda statement: _last_line(statement) - statement.lineno, default=None)


def _last_line(statement: ast.stmt) -> int:
    return statement.end_lineno or statement.lineno


def _innermost_statement(trace: str) -> ast.stmt | None:
    frames = frames_of(trace)
    return statement_at(*frames[-1]) if frames else None


def assigned_variables(statement: ast.stmt | None) -> list[str]:
    """The variables that a statement assigns."""
    targets: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        targets = statement.targets[:1]
    elif isinstance(statement, (ast.AnnAssign, ast.AugAssign)):
        targets = [statement.target]
    parts = targets[0].elts if targets and isinstance(targets[0], (ast.Tuple, ast.List)) else targets
    return [part.id for part in parts if isinstance(part, ast.Name)]


def name_of_variable(node: Node, trace: str) -> str | None:
    """The local variable that the tracer saw a value being stored in; None if it was not stored in one.

    The tracer tells its names apart by numbers: a number that the author gave is read from the line.
    """
    name = _without_numbers(node.name)
    target = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    if name == _without_numbers(re.sub(r"\W+", "_", str(target)).lower()):
        return None
    variables = assigned_variables(_innermost_statement(trace))
    matches = [variable for variable in variables if _without_numbers(variable) == name]
    return matches[0] if len(matches) == 1 else name


def _without_numbers(name: str) -> str:
    return re.sub(r"(_\d+)+$", "", name).strip("_")


_PASSING_ON = ("torch/nn/modules/container.py", "transformers/utils/generic.py", "utils/output_capturing.py")
"""Files whose code hands values on under names that mean nothing."""


def name_around(trace: str) -> str | None:
    """What the innermost statement that assigns anything calls it, on the way out from an operation."""
    for file, line in reversed(frames_of(trace)):
        variables = assigned_variables(statement_at(file, line))
        if variables and variables[0] != "_" and not file.endswith(_PASSING_ON):
            return variables[0]
    return None


_FRAME_WITH_FUNCTION = re.compile(r'File "([^<"]+)", line (\d+), in (\w+)')


def name_at_caller(trace: str, readers: Sequence[str]) -> str | None:
    """What a value is called outside of the function that makes it: ``mask``, for ``mask = causal_mask(...)``.

    None if that function is the forward of a module, whose calls have lines of their own, or if it is read inside.

    Args:
        trace: the stack trace of the operation that makes the value.
        readers: those of the operations that read it.
    """
    frames = _FRAME_WITH_FUNCTION.findall(trace)
    shared = [_count_shared(frames, _FRAME_WITH_FUNCTION.findall(reader)) for reader in readers]
    if not shared or min(shared) + 1 >= len(frames):
        return None
    index = min(shared)
    inner_functions = [function for _, _, function in frames[index + 1 :]]
    if {"forward", "__call__", "_call_impl"} & set(inner_functions) or frames[index][2] != "forward":
        return None
    variables = assigned_variables(statement_at(frames[index][0], int(frames[index][1])))
    return variables[0] if len(variables) == 1 and variables[0] != "_" else None


def _count_shared(left: Sequence[object], right: Sequence[object]) -> int:
    """How many items two sequences start with in common."""
    pairs = enumerate(zip(left, right, strict=False))
    return next((index for index, (mine, yours) in pairs if mine != yours), len(right))


def parameter_name(
    module: nn.Module, hint: str | None, traces: Sequence[str], other_hints: Sequence[str | None]
) -> str | None:
    """What the forward of a module calls an argument, read from the lines that read it.

    Args:
        module: the module.
        hint: what the argument is called outside.
        traces: the stack traces of the operations that read it.
        other_hints: what the other arguments are called outside.
    """
    parameters = inspect.signature(module.forward).parameters.values()
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    names = [parameter.name for parameter in parameters if parameter.kind not in variadic]
    if hint in names:
        return hint
    if len(names) == 1 and not other_hints:
        return names[0]
    for trace in traces:
        for file, line in reversed(frames_of(trace)):
            statement = statement_at(file, line)
            read = {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)} if statement else set()
            matches = [name for name in names if name in read and name not in other_hints]
            if len(matches) == 1:
                return matches[0]
            if matches:
                break
    return None


def variables_read(trace: str) -> list[str]:
    """The variables that the line of an operation itself reads, without the functions it calls."""
    value = getattr(_innermost_statement(trace), "value", None)
    if value is None:
        return []
    functions = {id(node.func) for node in ast.walk(value) if isinstance(node, ast.Call)}
    names = [node for node in ast.walk(value) if isinstance(node, ast.Name)]
    return list(dict.fromkeys(name.id for name in names if id(name) not in functions and name.id != "self"))


def operand_variables(trace: str, symbol: type[ast.AST]) -> list[str | None]:
    """The variables left and right of the one operator on the line of an operation; None for an operand that is none.

    The list is empty if the line has no such operator, or several.
    """
    statement = _innermost_statement(trace)
    if statement is None:
        return []
    nodes = [node for node in ast.walk(statement) if isinstance(node, ast.BinOp) and isinstance(node.op, symbol)]
    if len(nodes) != 1:
        return []
    return [side.id if isinstance(side, ast.Name) else None for side in (nodes[0].left, nodes[0].right)]
