"""What a program does in training, as code for both modes."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

from torch.fx import Node

from funcnet.program._program import Program, Statement, names_in


def in_either_mode(program: Program) -> dict[str, Node | None]:
    """Draw as a module draws, and update running averages as it does: in training only.

    Returns the paths of the parts that draw by a function that knows no mode, and the operation that does.
    """
    _averages(program)
    drawing: dict[str, Node | None] = {}

    def through(statements: Sequence[Statement]) -> None:
        for statement in statements:
            if isinstance(statement.code, ast.With):
                through(statement.code.body)  # type: ignore[arg-type]
                continue
            change = _Drawing()
            statement.code = change.visit(statement.code)
            if change.always:
                drawing[statement.levels[-1].path if statement.levels else ""] = statement.node

    through(program.statements)
    return drawing


def _averages(program: Program) -> None:
    """Give ``F.batch_norm`` the running averages themselves, which it then updates."""
    copied: dict[str, str] = {}  # a copy of a buffer -> the buffer
    for statement in program.statements:
        code = statement.code
        if not isinstance(code, ast.Assign) or not isinstance(code.targets[0], ast.Name):
            continue
        if isinstance(code.value, ast.Call) and ast.unparse(code.value.func).endswith(".clone"):
            owners = [name for name in names_in(code.value) if name.startswith("buffers:")]
            if len(owners) == 1:
                copied[code.targets[0].id] = owners[0]
    norms = [call for statement in program.statements if (call := _norm(statement)) is not None]
    held = {name for call in norms for arg in call.args[1:3] for name in names_in(arg)} & copied.keys()
    readers = [name for statement in program.statements for name in names_in(statement.code, ast.Load)]
    held = {name for name in held if readers.count(name) == 1}
    for call in norms:
        names = [name for arg in call.args[1:3] for name in names_in(arg)]
        if len(names) == 2 and held.issuperset(names):
            call.args[1:3] = [ast.Name(copied[name], ast.Load()) for name in names]
            for key in call.keywords:
                if key.arg == "training":
                    key.value = ast.Name("self.training")
        else:
            held -= set(names)
    program.statements = [one for one in program.statements if not held & set(names_in(one.code, ast.Store))]
    kept = {path: value for path, value in program.new.items() if not held & set(names_in(value))}
    averaged = {copied[name].rpartition(".")[0] for name in held}
    counts = {value.id for path, value in kept.items() if _counts(path, value, averaged)}  # type: ignore[attr-defined]
    for statement in program.statements:
        code = statement.code
        if isinstance(code, ast.Assign) and isinstance(code.value, ast.BinOp) and counts & set(names_in(code)):
            code.value.right = ast.Name("self.training")
    program.new = kept


def _counts(path: str, value: ast.expr, averaged: set[str]) -> bool:
    holder, _, name = path.rpartition(".")
    return name == "num_batches_tracked" and f"buffers:{holder}" in averaged and isinstance(value, ast.Name)


def _norm(statement: Statement) -> ast.Call | None:
    """The call of ``F.batch_norm`` in training that a statement is."""
    code = statement.code
    call = code.value if isinstance(code, ast.Assign) else None
    if not isinstance(call, ast.Call) or ast.unparse(call.func) not in ("F.batch_norm", "torch.batch_norm"):
        return None
    modes = [key.value for key in call.keywords if key.arg == "training"]
    return call if modes and isinstance(modes[0], ast.Constant) and modes[0].value is True else None


class _Drawing(ast.NodeTransformer):
    def __init__(self) -> None:
        self.always = False  # whether it draws in any mode

    def visit_Call(self, node: ast.Call) -> Any:
        self.generic_visit(node)
        name = ast.unparse(node.func)
        node.keywords = [key for key in node.keywords if not (key.arg == "rng" and name.startswith("fn."))]
        if name == "fn.random.dropout":
            return ast.Call(ast.Name("F.dropout"), node.args, [ast.keyword("training", ast.Name("self.training"))])
        if name == "fn.random.scaled_dot_product_attention":
            node.func = ast.Name("F.scaled_dot_product_attention")
            for key in node.keywords:
                if key.arg == "dropout_p":
                    key.value = ast.IfExp(ast.Name("self.training"), key.value, ast.Constant(0.0))
        if name == "fn.random.drawn":
            drawn = ast.unparse(node.args[0])
            node.func, node.args = node.args[0], node.args[1:]
            if drawn in ("torch.lstm", "torch.gru", "torch.rnn_tanh", "torch.rnn_relu"):
                constants = [at for at, arg in enumerate(node.args) if isinstance(arg, ast.Constant)]
                # of has_biases, num_layers, dropout, train the first is the first flag
                start = next(at for at in constants if isinstance(ast.literal_eval(node.args[at]), bool))
                node.args[start + 3] = ast.Name("self.training")
            elif any(key.arg == "training" for key in node.keywords):
                for key in node.keywords:
                    if key.arg == "training":
                        key.value = ast.Name("self.training")
            else:
                self.always = True
        return node
