"""Programs without statements that have no effect on the outputs: views of all of a tensor, repeated masks, copies."""

from __future__ import annotations

import ast
import operator
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.fx import Node

from funcnet._torch_functions import CASTS, FRESH_RESULTS, RESHAPES, is_pure
from funcnet._torch_tracer import (
    size_expression,
)
from funcnet.program._expressions import call_expression, constant_value, dotted_name, name_of_function, shorten_calls
from funcnet.program._statements import (
    Block,
    ForwardProgram,
    Statement,
    StatementOrBlock,
    expression_names,
    filter_statements,
    is_value,
    iter_reads,
    iter_statements,
    map_expressions,
    read_names,
    replace_names,
)
from funcnet.program._text import text_of


def simplify(program: ForwardProgram) -> None:
    """Remove what has no effect from a program; it still computes the same bits."""
    _inline_sizes(program)
    _drop_identities(program)
    _drop_needless_in_place(program)
    _merge_equal_statements(program)
    _shorten_masks(program)
    while _drop_unread(program):
        pass
    program.statements = _unpack_tuples(program, program.statements, Counter(iter_reads(program)))
    map_expressions(program, lambda expression: shorten_calls(expression, assume_cpu=True))


def _replace_values(program: ForwardProgram, expressions: Mapping[str, ast.expr]) -> None:
    """Replace values by expressions, and remove the statements that assign those."""
    program.statements = filter_statements(program.statements, lambda statement: statement.result not in expressions)
    map_expressions(program, lambda expression: replace_names(expression, expressions))


def _iter_operations(steps: Sequence[StatementOrBlock]) -> Iterator[tuple[Statement, str, Node]]:
    """The statements outside of blocks that assign one value of one operation: (statement, value, operation)."""
    for step in steps:
        if isinstance(step, Statement) and step.result is not None and step.node is not None:
            yield step, step.result, step.node


def _inline_sizes(program: ForwardProgram) -> None:
    """Write what is calculated from sizes where it is used."""
    expressions: dict[str, ast.expr] = {}
    for statement, value, node in _iter_operations(program.statements):
        example = program.captured.example(node)
        is_size = isinstance(example, (int, torch.SymInt)) and not isinstance(example, bool)
        if is_size and isinstance(statement.value, (ast.BinOp, ast.UnaryOp)):
            expressions[value] = statement.value
    _replace_values(program, expressions)


def _drop_identities(program: ForwardProgram) -> None:
    """Drop operations that return their argument unchanged."""
    expressions: dict[str, ast.expr] = {}
    for statement, value, node in _iter_operations(list(iter_statements(program.statements))):
        argument = None if value in program.mutated else _unchanged_argument(program, statement.value, node)
        if argument is None:
            continue
        expressions[value] = argument
        program.nodes.pop(value, None)
        if isinstance(argument, ast.Name):
            is_better_name = value in program.named and argument.id not in program.named
            if value in program.named_by_caller or is_better_name:
                program.hints[argument.id] = program.hints[value]  # the author names it here
    _replace_values(program, expressions)


def _unchanged_argument(program: ForwardProgram, expression: ast.expr, node: Node) -> ast.expr | None:
    """The expression of the first argument, if the operation returns it unchanged."""
    argument = node.args[0] if node.args else None
    if not isinstance(argument, Node):
        return None
    before, after = program.captured.example(argument), program.captured.example(node)
    if not isinstance(before, Tensor) or not isinstance(after, Tensor):
        return None
    if before.dtype != after.dtype or before.device != after.device or _shape_of(before) != _shape_of(after):
        return None
    if not _gives_back_argument(node, argument, before):
        return None
    if isinstance(expression, ast.Call):
        is_method = node.op == "call_method" and isinstance(expression.func, ast.Attribute)
        return expression.func.value if is_method else None  # type: ignore[attr-defined]  # of an Attribute
    if isinstance(expression, ast.Subscript):
        return expression.value
    return expression.left if isinstance(expression, ast.BinOp) else None


def _shape_of(tensor: Tensor) -> tuple[object, ...]:
    return tuple(size_expression(size) for size in tensor.shape)


def _gives_back_argument(node: Node, argument: Node, before: Tensor) -> bool:
    """Whether an operation returns its first argument unchanged, given that shape and dtype are the same."""
    target = node.target
    if node.op == "call_method":
        if target in CASTS:
            return not {"memory_format", "copy"} & set(node.kwargs) and not any(arg is True for arg in node.args[2:])
        if target == "contiguous":
            return not node.kwargs and argument.op != "placeholder" and before.is_contiguous()
        return target in RESHAPES
    if target is operator.getitem:
        parts = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
        return all(part is ... or isinstance(part, slice) for part in parts)
    return target is operator.add and type(node.args[1]) is int and node.args[1] == 0


def _drop_needless_in_place(program: ForwardProgram) -> None:
    """``F.relu(x)`` for ``F.relu(x, inplace=True)``, where x is new memory and nobody reads it again."""
    statements = list(iter_statements(program.statements))
    last_reads = {name: number for number, statement in enumerate(statements) for name in read_names(statement)}
    last_reads |= {name: len(statements) for result in program.results() for name in expression_names(result)}
    new_memory: set[str] = set()
    for number, statement in enumerate(statements):
        call, is_in_place = statement.value, False
        if statement.result is None:
            continue
        if isinstance(call, ast.Call):
            keys = [key for key in call.keywords if key.arg == "inplace"]
            argument = call.args[0] if call.args else None
            if (
                keys
                and isinstance(argument, ast.Name)
                and argument.id in new_memory
                and last_reads[argument.id] == number
            ):
                call.keywords.remove(keys.pop())
            is_in_place = bool(keys)
        if isinstance(call, ast.BinOp) or (not is_in_place and name_of_function(call) in FRESH_RESULTS):
            new_memory.add(statement.result)


def _merge_equal_statements(program: ForwardProgram) -> None:
    """Compute equal whole numbers and masks only once."""
    values: dict[str, str] = {}  # text of an expression -> the value that has it
    expressions: dict[str, ast.expr] = {}
    for statement, value, node in _iter_operations([] if program.mutated else program.statements):
        example = program.example(value)
        if is_pure(node.target) and isinstance(example, Tensor) and not example.is_floating_point():
            statement.value = replace_names(statement.value, expressions)
            # within one call of a module: equal calls stay equal
            first = values.setdefault(f"{statement.call_keys} {text_of(statement.value)}", value)
            if first != value:
                expressions[value] = ast.Name(first)
    _replace_values(program, expressions)


def _drop_unread(program: ForwardProgram) -> bool:
    """Drop statements whose values nobody reads and that have no other effect. Returns whether there was one."""
    read, count = set(iter_reads(program)), len(list(iter_statements(program.statements)))

    def is_needed(statement: Statement) -> bool:
        is_read = bool(statement.written or statement.asked_at) or not read.isdisjoint(statement.targets)
        return is_read or (statement.node is not None and not is_pure(statement.node.target))

    program.statements = filter_statements(program.statements, is_needed)
    return len(list(iter_statements(program.statements))) < count


def _unpack_tuples(
    program: ForwardProgram, steps: list[StatementOrBlock], counts: Counter[str]
) -> list[StatementOrBlock]:
    """``a, b = f(x)`` for a tuple that is only unpacked, in the statements after it."""
    result: list[StatementOrBlock] = []
    index = 0
    while index < len(steps):
        step = steps[index]
        index += 1
        result.append(step)
        if isinstance(step, Block):
            step.body = _unpack_tuples(program, step.body, counts)
            continue
        example = None if step.node is None else program.captured.example(step.node)
        size = len(example) if isinstance(example, (tuple, list)) and not isinstance(example, torch.Size) else 0
        if step.result is None or not 2 <= size <= 8:
            continue
        parts: dict[int, str] = {}
        end = index
        while end < len(steps) and (part := _part_of(steps[end], step.result)) is not None and part[0] not in parts:
            parts[part[0]] = part[1]
            end += 1
        if parts and len(parts) == counts[step.result] and max(parts) < size:
            step.targets = [parts.get(position, "_") for position in range(size)]
            index = end
    return result


def _part_of(step: StatementOrBlock, value: str) -> tuple[int, str] | None:
    """The position of the item of a tuple that a statement reads, and the value that it assigns."""
    if isinstance(step, Statement) and step.result is not None and isinstance(step.value, ast.Subscript):
        sequence, index = step.value.value, constant_value(step.value.slice)
        if isinstance(sequence, ast.Name) and sequence.id == value and isinstance(index, int) and index >= 0:
            return index, step.result
    return None


_BATCHES = (2, 3, 8, 129)  # values to try for a free size
_MOST_ELEMENTS = 1 << 20  # larger masks are left alone


def _shorten_masks(program: ForwardProgram) -> None:
    """Write ``torch.ones(6, 6).tril()`` for a boolean mask that several statements calculate from positions."""
    if program.mutated or len(program.sizes) > 1:
        return
    positions = _statements_from_sizes(program)
    makers = {id(statement) for statement in positions.values()}
    read_outside = {name for step in program.statements if id(step) not in makers for name in read_names(step)}
    read_outside |= {name for result in program.results() for name in expression_names(result)}
    for value, statement in positions.items():
        example = program.example(value)
        if value not in read_outside or not isinstance(example, Tensor) or example.dtype != torch.bool:
            continue
        if not example.dim() or _count_statements(value, positions) < 3:
            continue
        shape = [size_expression(size) for size in example.shape]
        names = {symbol: name for name, symbol in program.sizes.items()}
        if all(isinstance(size, int) or size in names for size in shape):
            masks = [_compute_mask(positions, value, dict.fromkeys(program.sizes, batch)) for batch in _BATCHES]
            kind = _common_kind(masks)
            sizes = [ast.Constant(size) if isinstance(size, int) else ast.Name(names[size]) for size in shape]
            statement.value = statement.value if kind is None else _mask_expression(kind, sizes)


def _statements_from_sizes(program: ForwardProgram) -> dict[str, Statement]:
    """The statements whose values depend on nothing but sizes, by value, in order."""
    result: dict[str, Statement] = {}
    for statement, value, _ in _iter_operations(program.statements):
        makers = [result.get(name) for name in read_names(statement) if name not in program.sizes]
        # a value that is passed to a part is not computed again there
        is_local = all(maker is not None and maker.call_keys == statement.call_keys for maker in makers)
        example = program.example(value)
        holds_whole_numbers = isinstance(example, Tensor) and not example.is_floating_point()
        if is_local and holds_whole_numbers and _calls_only_torch(statement.value):
            result[value] = statement
    return result


def _calls_only_torch(expression: ast.expr) -> bool:
    names = {node.id for node in ast.walk(expression) if isinstance(node, ast.Name) and not is_value(node.id)}
    return names <= {"torch"}


def _count_statements(value: str, makers: Mapping[str, Statement]) -> int:
    """How many statements are needed to compute a value."""
    needed: set[str] = set()
    waiting = [value]
    while waiting:
        name = waiting.pop()
        if name in makers and name not in needed:
            needed.add(name)
            waiting += read_names(makers[name])
    return len(needed)


def _compute_mask(makers: Mapping[str, Statement], value: str, sizes: Mapping[str, int]) -> Tensor | None:
    """The tensor that a value becomes for given sizes."""

    def python_name(name: str) -> str:
        return f"v{name[1:]}" if is_value(name) else name

    namespace: dict[str, object] = {"torch": torch, **{python_name(name): size for name, size in sizes.items()}}
    try:
        for name, statement in makers.items():
            namespace[python_name(name)] = eval(text_of(statement.value, python_name), namespace)
            if name == value:
                break
    except Exception:
        return None
    mask = namespace[python_name(value)]
    return mask if isinstance(mask, Tensor) and mask.numel() <= _MOST_ELEMENTS else None


def _common_kind(masks: list[Tensor | None]) -> str | None:
    """The kind that all these masks have: "full", "tril" or "triu"; None if there is none."""
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


def _mask_expression(kind: str, sizes: Sequence[ast.expr]) -> ast.expr:
    dtype = {"dtype": dotted_name("torch.bool")}
    if kind == "full":
        return call_expression("torch.ones", sizes, dtype)
    square = ast.Attribute(call_expression("torch.ones", sizes[-2:], dtype), kind)
    triangle = call_expression(square, [ast.Constant(1)] if kind == "triu" else [])
    return triangle if len(sizes) == 2 else call_expression(ast.Attribute(triangle, "expand"), sizes)
