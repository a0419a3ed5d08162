"""A captured forward as statements over values, each of which is assigned once: what every pass works on.

An expression is a tree of ``ast`` nodes. A name in it that starts with ``%`` or contains ``:`` stands for a value, and
only the writer decides how it is spelled:

* ``%12`` is a value that a statement assigns, and ``%new:a`` the new buffers that the call of a part gives;
* ``params:a.b``, ``buffers:a.b``, ``rng:a.b`` and ``self:a.b`` stand for what a part at a path has: these are slots.

Other names, such as ``F``, mean what they mean at the top of the text.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from torch import nn
from torch.fx import Node

if TYPE_CHECKING:
    from funcnet.program._capture import Captured


class ModuleCallKey(NamedTuple):
    """A call of a module that was running: a key that tells its calls apart, its path, and the name of its class."""

    key: str
    path: str
    title: str


@dataclass
class Statement:
    """One operation: ``targets = value``, a write in place, a call for its effect, or ``assert value``."""

    value: ast.expr  # the expression on the right
    # the values it assigns; several take a tuple apart, ``_`` stands for unread ones
    targets: list[str] = field(default_factory=list)
    written: ast.expr | None = None  # what it writes to in place: ``x[0]`` in ``x[0] = y``, ``x`` in ``x += y``
    operator: ast.operator | None = None  # that of ``x += y``
    call_keys: tuple[ModuleCallKey, ...] = ()  # the calls of modules that were running, outermost first
    node: Node | None = None  # the operation in the graph, if it is one
    asked_at: str = ""  # of an assertion: the line whose question it answers

    @property
    def result(self) -> str | None:
        """The one value that it assigns; None if it assigns none or several."""
        return self.targets[0] if len(self.targets) == 1 else None


@dataclass
class Block:
    """A ``with`` statement: the expressions of its contexts, and the statements in it."""

    contexts: list[ast.expr]
    body: list[StatementOrBlock] = field(default_factory=list)

    @property
    def call_keys(self) -> tuple[ModuleCallKey, ...]:
        """The calls of modules that all statements of the block are in."""
        shared: list[ModuleCallKey] = []
        for call_keys in zip(*(step.call_keys for step in self.body), strict=False):
            if len(set(call_keys)) > 1:
                break
            shared.append(call_keys[0])
        return tuple(shared)


StatementOrBlock: TypeAlias = "Statement | Block"


@dataclass
class ForwardProgram:
    """A forward as statements, what it returns, and what is known of its values."""

    captured: Captured
    module: nn.Module
    title: str
    buffer_paths: list[str]  # paths of all buffers of the module
    statements: list[StatementOrBlock] = field(default_factory=list)
    arguments: dict[str, str] = field(default_factory=dict)  # the values of arguments by name
    returned: ast.expr = field(default_factory=lambda: ast.Constant(None))
    new_buffers: dict[str, ast.expr] = field(default_factory=dict)  # the buffers that are replaced, by path
    # value -> what the author calls it; empty if the author has no name
    hints: dict[str, str] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)  # values that the author has a variable for
    # values with the name that the caller of a function has for its result
    named_by_caller: set[str] = field(default_factory=set)
    nodes: dict[str, Node] = field(default_factory=dict)  # value -> the operation that computes it
    sizes: dict[str, object] = field(default_factory=dict)  # values that are free sizes -> their symbols
    mutated: set[str] = field(default_factory=set)  # values that are written to in place
    drawing_paths: list[str] = field(default_factory=list)  # of modules that draw
    copied_buffers: list[str] = field(default_factory=list)  # paths of those that are written to in place, on a copy

    def example(self, value: str) -> object:
        """What the tracer has for a value: a fake tensor, a size, or a tuple of those."""
        node = self.nodes.get(value)
        return None if node is None else self.captured.example(node)

    def results(self) -> Iterator[ast.expr]:
        """The expressions that are evaluated after all statements."""
        yield self.returned
        yield from self.new_buffers.values()


@dataclass
class Routine:
    """A function of a program: the main one, or one made of the calls of equal modules."""

    name: str
    call_key: ModuleCallKey  # the call of a module that it is made from
    inputs: list[str]  # the values from outside that are passed to it, in the order of its arguments
    outputs: list[str]  # the values that it returns
    items: list[Item] = field(default_factory=list)
    new_buffers: dict[str, ast.expr] = field(default_factory=dict)  # path of a buffer that it replaces -> the new value
    sizes: dict[str, tuple[str, int]] = field(default_factory=dict)  # size -> the tensor and axis it is read from
    kinds: frozenset[str] = frozenset()  # the kinds of slots below its path that it reads


@dataclass
class RoutineCall:
    """A call of a function in a different one; ``new_buffers_value`` is the value that holds its new buffers."""

    function: Routine
    call_key: ModuleCallKey
    arguments: list[str]
    results: list[str]
    new_buffers_value: str | None = None


@dataclass
class Loop:
    """Calls of one function in a row, at paths that differ in one number."""

    calls_in_loop: list[RoutineCall]
    head: str  # the path before the number
    tail: str  # the path after the number
    start: int  # the first number
    carried: dict[int, int]  # argument position -> position of the previous call's result that is passed to it
    new_buffers_value: str | None = None  # the value that holds all new buffers


Item: TypeAlias = "Statement | Block | RoutineCall | Loop"


def iter_items(items: Iterable[Item]) -> Iterator[tuple[Item, list[str]]]:
    """Items one by one, those in blocks included, with the values that each of them reads itself."""
    for item in items:
        if isinstance(item, Block):
            yield item, [name for context in item.contexts for name in expression_names(context)]
            yield from iter_items(item.body)
        else:
            yield item, list(item_reads(item))


def item_reads(item: Item) -> Iterator[str]:
    """Values and slots that an item reads, those in a block included."""
    if isinstance(item, Loop):
        yield from (name for routine_call in item.calls_in_loop for name in routine_call.arguments)
    elif isinstance(item, RoutineCall):
        yield from item.arguments
    else:
        yield from read_names(item)


def is_value(name: str) -> bool:
    """Whether a name stands for a value or a slot, not for a function or module.

    >>> is_value("%12"), is_value("params:fc.weight"), is_value("F")
    (True, True, False)
    """
    return name.startswith("%") or ":" in name


def split_slot(name: str) -> tuple[str, str] | None:
    """The kind and path of a slot; None for any other name.

    >>> split_slot("params:fc.weight"), split_slot("%new:fc")
    (('params', 'fc.weight'), None)
    """
    kind, colon, path = name.partition(":")
    return (kind, path) if colon and not kind.startswith("%") else None


def relative_path(path: str, base: str) -> str | None:
    """A path as seen from a module at another path; None if it is not within that module.

    >>> relative_path("a.b.c", "a"), relative_path("a", "a"), relative_path("ab", "a")
    ('b.c', '', None)
    """
    if path == base or not base:
        return "" if path == base else path
    return path[len(base) + 1 :] if path.startswith(f"{base}.") else None


def expression_names(node: ast.AST) -> Iterator[str]:
    """Values and slots that an expression names, in the order of its text."""
    if isinstance(node, ast.Name):
        if is_value(node.id):
            yield node.id
        return
    for child in ast.iter_child_nodes(node):
        yield from expression_names(child)


def read_names(step: StatementOrBlock) -> Iterator[str]:
    """Values and slots that a statement reads, those in a block included."""
    if isinstance(step, Block):
        for context in step.contexts:
            yield from expression_names(context)
        for inner in step.body:
            yield from read_names(inner)
        return
    parts = [step.value, step.written] if step.operator is None else [step.written, step.value]
    for part in parts:
        if part is not None:
            yield from expression_names(part)


def assigned_names(step: StatementOrBlock) -> list[str]:
    """The values that a statement assigns, those in a block included."""
    if isinstance(step, Block):
        return [name for inner in step.body for name in assigned_names(inner)]
    return [name for name in step.targets if is_value(name)]


def iter_statements(steps: Iterable[StatementOrBlock]) -> Iterator[Statement]:
    """All statements in order, those in blocks included."""
    for step in steps:
        if isinstance(step, Block):
            yield from iter_statements(step.body)
        else:
            yield step


def iter_reads(program: ForwardProgram) -> Iterator[str]:
    """Everything that a program reads, once for each time."""
    for step in program.statements:
        yield from read_names(step)
    for result in program.results():
        yield from expression_names(result)


class _Replacement(ast.NodeTransformer):
    def __init__(self, expression_of: Callable[[str], ast.expr | None]) -> None:
        self.expression_of = expression_of

    def visit_Name(self, node: ast.Name) -> ast.expr:
        expression = self.expression_of(node.id)
        return node if expression is None else self.visit(expression)


def replace_names(expression: ast.expr, expressions: Mapping[str, ast.expr]) -> ast.expr:
    """An expression with some names replaced by expressions; the given expression is changed itself where it can be."""
    result: ast.expr = _Replacement(expressions.get).visit(expression)
    return result


def map_expressions(program: ForwardProgram, change: Callable[[ast.expr], ast.expr]) -> None:
    """Replace every expression of a program by what ``change`` returns for it."""
    _map_steps(program.statements, change)
    program.returned = change(program.returned)
    program.new_buffers = {path: change(value) for path, value in program.new_buffers.items()}


def _map_steps(steps: Sequence[StatementOrBlock], change: Callable[[ast.expr], ast.expr]) -> None:
    for step in steps:
        if isinstance(step, Block):
            step.contexts = [change(context) for context in step.contexts]
            _map_steps(step.body, change)
        else:
            step.value = change(step.value)
            step.written = None if step.written is None else change(step.written)


def filter_statements(steps: Sequence[StatementOrBlock], keep: Callable[[Statement], bool]) -> list[StatementOrBlock]:
    """The statements for which ``keep`` is true; a block that becomes empty is removed as well."""
    remaining: list[StatementOrBlock] = []
    for step in steps:
        if isinstance(step, Block):
            step.body = filter_statements(step.body, keep)
        if step.body if isinstance(step, Block) else keep(step):
            remaining.append(step)
    return remaining
