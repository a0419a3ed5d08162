"""What a forward asked of tensors and of torch while it was captured, as conditions that its code asserts."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence

import torch
from torch.fx import Node

from funcnet.program._capture import Captured
from funcnet.program._expressions import call_expression

Condition = tuple[ast.expr, bool]
"""An expression that must be true, and whether it is so for a whole call, wherever it is asked in it."""


def iter_conditions(
    node: Node,
    captured: Captured,
    input_devices: Sequence[tuple[ast.expr, torch.device]],
    value_expression: Callable[[object], ast.expr],
) -> Iterator[Condition]:
    """The conditions under which the question of a node has the answer that it had in the capture.

    ``input_devices`` are those of the tensor inputs, with the expressions that read them; ``value_expression`` gives
    the expression for a value of the graph.
    """
    subject, question, args, answer = node.args

    def state(function: str, *args: object) -> ast.expr:
        return call_expression(f"torch.{function}", [value_expression(arg) for arg in args])

    def condition(expression: ast.expr, answer: object) -> ast.expr:
        if isinstance(answer, bool):
            return expression if answer else ast.UnaryOp(ast.Not(), expression)
        return ast.Compare(expression, [ast.Is() if answer is None else ast.Eq()], [value_expression(answer)])

    if not isinstance(subject, Node):
        yield condition(state(str(question), *args), answer), True  # type: ignore[misc]  # a list
        return
    source = captured.inputs.get(subject)
    if question == "device":  # what is computed has that of the inputs
        for expression, device in input_devices:
            yield condition(expression, device), True
    elif question == "dtype" and source is None:  # what is computed has that of the inputs, or that of autocast
        kind = captured.example(subject).device.type
        is_enabled = torch.is_autocast_enabled(kind)
        yield condition(state("is_autocast_enabled", kind), is_enabled), True
        if is_enabled:
            yield condition(state("get_autocast_dtype", kind), torch.get_autocast_dtype(kind)), True
    else:
        expression = value_expression(subject)
        if question != "bool":
            expression = ast.Attribute(expression, str(question))
        if args is not None:
            keywords = {name: value_expression(value) for name, value in node.kwargs.items()}
            expression = call_expression(expression, [value_expression(arg) for arg in args], keywords)  # type: ignore[union-attr]
        is_for_call = question == "dtype" and source is not None and source.kind == "input"
        yield condition(expression, answer), is_for_call
