"""What the author of a module calls values: read from the lines that an operation comes from."""

from __future__ import annotations

import ast
import inspect
import linecache
import re
from functools import lru_cache
from typing import Any

from torch.fx import Node

_FRAME = re.compile(r'File "(.+)", line (\d+), in ')


def frames(trace: str) -> list[tuple[str, int]]:
    """File and line of each frame of a stack trace, outermost first; without those that are no files."""
    return [(file, int(line)) for file, line in _FRAME.findall(trace) if not file.startswith("<")]


@lru_cache(maxsize=64)
def _statements(file: str) -> list[ast.stmt]:
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:
        return []
    kinds = (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Return, ast.Expr)
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


@lru_cache(maxsize=100_000)
def statement_at(file: str, line: int) -> ast.stmt | None:
    """The simple statement on a line of a file."""
    found = [one for one in _statements(file) if one.lineno <= line <= (one.end_lineno or one.lineno)]
    return min(found, key=lambda one: (one.end_lineno or one.lineno) - one.lineno, default=None)


def targets(statement: ast.stmt | None) -> list[str]:
    """The names that a statement assigns."""
    found: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        found = statement.targets[:1]
    elif isinstance(statement, (ast.AnnAssign, ast.AugAssign)):
        found = [statement.target]
    names = found[0].elts if found and isinstance(found[0], (ast.Tuple, ast.List)) else found
    return [name.id for name in names if isinstance(name, ast.Name)]


def stored_name(node: Node, trace: str) -> str | None:
    """The local variable that the tracer saw a value being stored in; None if it was not.

    The tracer makes names its own by numbers: one that the author gave is read from the line.
    """
    name = _plain(node.name)
    target = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    if name == _plain(re.sub(r"\W+", "_", str(target)).lower()):
        return None
    places = frames(trace)
    numbered = [one for one in targets(statement_at(*places[-1])) if _plain(one) == name] if places else []
    return numbered[0] if len(numbered) == 1 else name


def _plain(name: str) -> str:
    return re.sub(r"(_\d+)+$", "", name).strip("_")


_PASSING_ON = ("torch/nn/modules/container.py", "transformers/utils/generic.py", "utils/output_capturing.py")


def name_around(trace: str) -> str | None:
    """What the innermost statement that assigns anything calls it, on the way out from an operation."""
    for file, line in reversed(frames(trace)):
        names = targets(statement_at(file, line))
        if names and names[0] != "_" and not file.endswith(_PASSING_ON):
            return names[0]
    return None


def name_behind(trace: str, readers: list[str]) -> str | None:
    """What a value is called outside of the function that makes it: ``mask``, for ``mask = causal_mask(...)``.

    None if that function is the forward of a module, whose calls have lines of their own, or if it is read inside.
    """
    own = _CALLS.findall(trace)
    shared = [_common(own, _CALLS.findall(reader)) for reader in readers]
    if not shared or min(shared) + 1 >= len(own):
        return None
    at = min(shared)
    if any(name in ("forward", "__call__", "_call_impl") for _, _, name in own[at + 1 :]) or own[at][2] != "forward":
        return None
    names = targets(statement_at(own[at][0], int(own[at][1])))
    return names[0] if len(names) == 1 and names[0] != "_" else None


_CALLS = re.compile(r'File "([^<"]+)", line (\d+), in (\w+)')


def _common(left: list[Any], right: list[Any]) -> int:
    return next((at for at, (one, other) in enumerate(zip(left, right, strict=False)) if one != other), len(right))


def parameter_name(module: Any, value: str | None, traces: list[str], others: list[str | None]) -> str | None:
    """What the forward of a module calls an argument, read from the lines that read it.

    Args:
        module: the module.
        value: what the argument is called outside.
        traces: the stack traces of the operations that read it.
        others: what the other arguments are called outside.
    """
    parameters = inspect.signature(module.forward).parameters.values()
    names = [one.name for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    if value in names:
        return value
    if len(names) == 1 and not others:
        return names[0]
    for trace in traces:
        for file, line in reversed(frames(trace)):
            statement = statement_at(file, line)
            read = {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)} if statement else set()
            found = [name for name in names if name in read and name not in others]
            if len(found) == 1:
                return found[0]
            if found:
                break
    return None


def names_read(trace: str) -> list[str]:
    """The names that the line of an operation itself reads, without those it calls."""
    places = frames(trace)
    statement = statement_at(*places[-1]) if places else None
    value = getattr(statement, "value", None)
    if value is None:
        return []
    called = {id(node.func) for node in ast.walk(value) if isinstance(node, ast.Call)}
    names = [node for node in ast.walk(value) if isinstance(node, ast.Name)]
    kept = [name.id for name in names if id(name) not in called and name.id != "self"]
    return list(dict.fromkeys(kept))


def operands_read(trace: str, symbol: type[ast.operator] | None) -> list[str | None]:
    """The names that stand left and right of the one operator on the line of an operation; None for what is no name."""
    places = frames(trace)
    statement = statement_at(*places[-1]) if places and symbol is not None else None
    if statement is None:
        return []
    found = [node for node in ast.walk(statement) if isinstance(node, ast.BinOp) and isinstance(node.op, symbol)]  # type: ignore
    if len(found) != 1:
        return []
    sides = (found[0].left, found[0].right)
    return [side.id if isinstance(side, ast.Name) else None for side in sides]
