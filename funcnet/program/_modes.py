"""What a program does in training, as code for both modes of a class."""

from __future__ import annotations

import ast
from collections import Counter

from torch.fx import Node

from funcnet._torch_functions import RECURRENT, recurrent_mode_position
from funcnet.program._expressions import constant_value, dotted_name, name_of_function
from funcnet.program._statements import (
    ForwardProgram,
    Statement,
    assigned_names,
    expression_names,
    filter_statements,
    iter_statements,
    read_names,
)
from funcnet.tree import join

_TRAINING = "self.training"


def use_module_mode(program: ForwardProgram) -> dict[str, Node | None]:
    """Make a program draw, and update running averages, in training mode only, as a module does.

    Returns:
        The path of each part that draws by a function without a mode argument, and the operation that draws.
    """
    _use_running_averages(program)
    always_drawing: dict[str, Node | None] = {}
    for statement in iter_statements(program.statements):
        calls = _DrawingCalls()
        statement.value = calls.visit(statement.value)
        if calls.draws_in_any_mode:
            path = statement.call_keys[-1].path if statement.call_keys else ""
            always_drawing[path] = statement.node
    return always_drawing


def _use_running_averages(program: ForwardProgram) -> None:
    """Give ``F.batch_norm`` the running averages themselves, which it then updates, and no copies of them."""
    copies = _copies_of_buffers(program)
    statements = [step for step in program.statements if isinstance(step, Statement)]
    norms = [call for statement in statements if (call := _training_norm(statement)) is not None]
    counts = Counter(name for step in program.statements for name in read_names(step))
    averages = {name for call in norms for name in _averages_in(call) if name in copies and counts[name] == 1}
    for call in norms:
        names = _averages_in(call)
        if len(names) == 2 and averages.issuperset(names):
            call.args[1:3] = [ast.Name(copies[name]) for name in names]
            for key in call.keywords:
                if key.arg == "training":
                    key.value = dotted_name(_TRAINING)
        else:
            averages -= set(names)
    program.statements = filter_statements(program.statements, lambda statement: statement.result not in averages)
    for path in [path for path, value in program.new_buffers.items() if averages & set(expression_names(value))]:
        del program.new_buffers[path]
    _count_in_training(program, {copies[name].removeprefix("buffers:").rpartition(".")[0] for name in averages})


def _count_in_training(program: ForwardProgram, averaged: set[str]) -> None:
    """Add the mode, which is 0 or 1, to the counts of batches of norms whose averages are updated in place."""
    counts = [program.new_buffers.get(join(path, "num_batches_tracked")) for path in averaged]
    values = {count.id for count in counts if isinstance(count, ast.Name)}
    for step in program.statements:
        expression = step.value if isinstance(step, Statement) else None
        if isinstance(expression, ast.BinOp) and values & {*assigned_names(step), *expression_names(expression)}:
            expression.right = dotted_name(_TRAINING)


def _copies_of_buffers(program: ForwardProgram) -> dict[str, str]:
    """Value that is a copy of a buffer -> the buffer."""
    copies: dict[str, str] = {}
    for step in program.statements:
        function = step.value.func if isinstance(step, Statement) and isinstance(step.value, ast.Call) else None
        if isinstance(step, Statement) and isinstance(function, ast.Attribute) and function.attr == "clone":
            buffers = [name for name in expression_names(function) if name.startswith("buffers:")]
            if len(buffers) == 1 and step.result is not None:
                copies[step.result] = buffers[0]
    return copies


def _averages_in(norm: ast.Call) -> list[str]:
    return [name for arg in norm.args[1:3] for name in expression_names(arg)]


def _training_norm(statement: Statement) -> ast.Call | None:
    """The call of ``F.batch_norm`` in training mode, if that is all a statement does."""
    call = statement.value
    if not isinstance(call, ast.Call) or name_of_function(call) not in ("F.batch_norm", "torch.batch_norm"):
        return None
    modes = [key.value for key in call.keywords if key.arg == "training"]
    return call if modes and constant_value(modes[0]) is True else None


class _DrawingCalls(ast.NodeTransformer):
    """Replaces calls of funcnet's random functions by torch's, with ``self.training`` as the mode."""

    def __init__(self) -> None:
        self.draws_in_any_mode = False

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        name = name_of_function(node)
        if not name.startswith("fn."):
            return node
        node.keywords = [key for key in node.keywords if key.arg != "rng"]
        training = dotted_name(_TRAINING)
        if name == "fn.random.dropout":
            return ast.Call(dotted_name("F.dropout"), node.args, [ast.keyword("training", training)])
        if name == "fn.random.scaled_dot_product_attention":
            node.func = dotted_name("F.scaled_dot_product_attention")
            for key in node.keywords:
                if key.arg == "dropout_p":
                    key.value = ast.IfExp(training, key.value, ast.Constant(0.0))
        if name == "fn.random.drawn":
            node.func, node.args = node.args[0], node.args[1:]
            modes = [key for key in node.keywords if key.arg == "training"]
            if name_of_function(node) in [f"torch.{recurrent}" for recurrent in RECURRENT]:
                values = [constant_value(arg) for arg in node.args]
                node.args[recurrent_mode_position(values)] = training
            elif modes:
                modes[0].value = training
            else:
                self.draws_in_any_mode = True
        return node
