"""A captured forward as a list of statements over values, each assigned once."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch.fx import Node

from funcnet.program._authors import name_around, name_behind, stored_name
from funcnet.program._capture import Captured
from funcnet.program._emit import Emitted, _Emitter
from funcnet.program._trace_inputs import Inputs
from funcnet.program._words import Words

UNNAMED = ""
"""The hint for a value that the author has no name for."""


class Level(NamedTuple):
    """A module that was running: what tells its calls apart, its path, and the name of its class."""

    key: str
    path: str
    title: str


@dataclass
class Statement:
    """A statement, the modules that were running, outermost first, and the operation it is for.

    In ``code`` a value is a name like ``%12``; ``params:a.b``, ``buffers:a.b`` and ``rng:a.b`` are names too.
    """

    code: ast.stmt
    levels: tuple[Level, ...]
    node: Node | None = None


@dataclass
class Program:
    """Statements, what they return, and the buffers they make new, by path.

    ``hints`` says what values are called; ``stored`` are those that the author has a variable for; ``nodes`` the
    operations they come from; ``sizes`` the values that are sizes, and the symbols of those;
    ``arguments`` those of the function; ``mutated`` those written to in place; ``named`` those with the
    name that the caller of a function has for its result; ``module`` is what was captured.
    """

    captured: Captured
    title: str
    buffers: list[str]
    statements: list[Statement] = field(default_factory=list)
    returned: ast.expr = field(default_factory=lambda: ast.Constant(None))
    new: dict[str, ast.expr] = field(default_factory=dict)
    hints: dict[str, str] = field(default_factory=dict)
    stored: set[str] = field(default_factory=set)
    nodes: dict[str, Node] = field(default_factory=dict)
    sizes: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, str] = field(default_factory=dict)
    mutated: set[str] = field(default_factory=set)
    named: set[str] = field(default_factory=set)
    module: Any = None

    def example(self, value: str) -> Any:
        """The tensor without numbers that stands for a value."""
        node = self.nodes.get(value)
        return None if node is None else self.captured.meta.get(node, {}).get("example_value")

    def trace(self, node: Node) -> str:
        """The stack trace of an operation."""
        return self.captured.meta.get(node, {}).get("stack_trace") or ""


class _Recorder(_Emitter):
    """The emitter of a trace, which also keeps from which operation each line comes."""

    def run(self) -> Emitted:
        self.tags: list[Node | None] = []
        self._tag(None)
        return super().run()

    def _sizes(self) -> None:
        super()._sizes()
        self._tag(None)
        symbols = self.captured.symbols
        self.symbols = {self.names[node]: symbols[node] for node in symbols if node in self.names}

    def _statement(self, node: Node) -> None:
        super()._statement(node)
        self._tag(node)

    def _tag(self, node: Node | None) -> None:
        lines = len(self.scope.lines)
        del self.tags[lines:]
        self.tags += [node] * (lines - len(self.tags))


def recorded(
    captured: Captured,
    inputs: Inputs,
    words: Words,
    title: str,
    buffers: list[str],
    given: Mapping[str, tuple[str, Any]],
) -> Program:
    """The statements of a captured forward; ``given`` as from :func:`funcnet.program._source_inputs.arguments`.

    Raises:
        ConversionError: if something in it cannot be written down; names the line.
    """
    first = _Recorder(captured, inputs, words, set(), set())
    first.run()
    second = _Recorder(captured, inputs, words, words.roots, first.returned)
    emitted = second.run()
    program = Program(captured, title, buffers)
    _Reading(program, second.tags).all(emitted, inputs, second.symbols, given)
    return program


class _Reading:
    """From text to statements, with a name of its own for every assignment."""

    def __init__(self, program: Program, tags: list[Node | None]) -> None:
        self.program, self.tags = program, tags
        self.now: dict[str, str] = {}  # what a name in the text stands for at this line
        self.counter = 0

    def all(
        self, emitted: Emitted, inputs: Inputs, symbols: Mapping[str, Any], given: Mapping[str, tuple[str, Any]]
    ) -> None:
        program = self.program
        for name, (place, _) in given.items():
            value = self._fresh(name)
            program.arguments[place] = value
            program.stored.add(value)
            self.now[place] = value
        held = program.captured.held
        for number, tensor in enumerate(inputs.tensors):
            node = next((node for node, place in held.items() if place == ("input", number)), None)
            place = inputs.inside(tensor.place)
            if place in program.arguments and node is not None:
                program.nodes[program.arguments[place]] = node
        text = "\n".join(emitted.lines)
        program.statements = [self._statement(code) for code in ast.parse(text).body]
        program.sizes = {self.now[name]: symbol for name, symbol in symbols.items() if name in self.now}
        program.returned = self._expression(emitted.returned)
        program.new = {path: self._expression(text) for path, text in emitted.new.items()}

    def _fresh(self, hint: str) -> str:
        self.counter += 1
        value = f"%{self.counter}"
        self.program.hints[value] = hint
        return value

    def _expression(self, text: str) -> ast.expr:
        return self._renamed(ast.parse(text, mode="eval").body)

    def _renamed(self, node: Any) -> Any:
        return _Places(self.now).visit(node)

    def _statement(self, code: ast.stmt) -> Statement:
        node = self.tags[code.lineno - 1]
        if isinstance(code, ast.With):
            code.items = [self._renamed(item) for item in code.items]
            inner = [self._statement(one) for one in code.body]
            code.body = inner  # type: ignore[assignment]
            return Statement(code, _common([one.levels for one in inner]), node)
        if isinstance(code, ast.Assign) and isinstance(code.targets[0], ast.Name):
            code.value = self._renamed(code.value)
            name = code.targets[0].id
            self.now[name] = value = self._fresh(re.sub(r"(_\d+)+$", "", name))
            code.targets = [ast.Name(value, ast.Store())]
            self._describe(value, node, code)
        else:
            code = self._renamed(code)
            if isinstance(code, ast.AugAssign) and isinstance(code.target, ast.Name):
                code.target.ctx = ast.Load()  # written to, and no new value
            self.program.mutated |= set(roots_written(code))
        self.program.mutated |= set(_written_in_calls(code))
        return Statement(code, self._levels(node), node)

    def _describe(self, value: str, node: Node | None, code: ast.Assign) -> None:
        program = self.program
        if node is None:
            program.stored.add(value)
            return
        if (
            isinstance(code.value, ast.Call)
            and isinstance(code.value.func, ast.Attribute)
            and code.value.func.attr == "clone"
            and isinstance(code.value.func.value, ast.Name)
            and node.target != "clone"
        ):
            program.stored.add(value)  # a copy of what is written to, which has the name of that
            return
        program.nodes[value] = node
        base = re.sub(r"(_\d+)+$", "", program.hints[value])
        if node.target in ("add_", operator.iadd) and base in {path.rpartition(".")[2] for path in program.buffers}:
            program.stored.add(value)  # a count, as it is now
            return
        name = stored_name(node, program.trace(node))
        if name == "input" and any(level.title == "Sequential" for level in self._levels(node)):
            name = None
        outer = name_behind(program.trace(node), [program.trace(user) for user in node.users if user.op != "output"])
        if outer is not None:
            program.named.add(value)
        name = outer or name
        if name is not None:
            program.stored.add(value)
        program.hints[value] = name or name_around(program.trace(node)) or UNNAMED

    def _levels(self, node: Node | None) -> tuple[Level, ...]:
        if node is None:
            return ()
        captured = self.program.captured
        stack = captured.meta[node].get("nn_module_stack") or {}
        levels = []
        for key in stack:
            found = captured.modules.get(str(key).split("@")[0])
            if found is not None and found[0]:
                levels.append(Level(str(key), *found))
        return tuple(levels)


class _Places(ast.NodeTransformer):
    """Replaces names by values, and ``params["a"]["b"]`` and ``rng("a.b")`` by names."""

    def __init__(self, now: Mapping[str, str]) -> None:
        self.now = now

    def visit_Name(self, node: ast.Name) -> Any:
        return ast.Name(self.now.get(node.id, node.id), node.ctx)

    def visit_Subscript(self, node: ast.Subscript) -> Any:
        if ast.unparse(node) in self.now:  # one of several inputs that the forward takes as one
            return ast.Name(self.now[ast.unparse(node)], ast.Load())
        keys: list[str] = []
        below: ast.expr = node
        while isinstance(below, ast.Subscript) and _is_text(below.slice):
            keys.insert(0, ast.literal_eval(below.slice))
            below = below.value
        if isinstance(below, ast.Name) and below.id in ("params", "buffers") and below.id not in self.now:
            return ast.Name(f"{below.id}:{'.'.join(keys)}", ast.Load())
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> Any:
        if isinstance(node.func, ast.Name) and node.func.id == "rng" and isinstance(node.args[0], ast.Constant):
            return ast.Name(f"rng:{node.args[0].value!s}", ast.Load())
        return self.generic_visit(node)


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _common(chains: list[tuple[Level, ...]]) -> tuple[Level, ...]:
    shared = []
    for levels in zip(*chains, strict=False):
        if len(set(levels)) > 1:
            break
        shared.append(levels[0])
    return tuple(shared)


# --- what statements read and write ---


def expressions(code: Any) -> Iterator[ast.AST]:
    """The expressions of a statement, those inside a block included."""
    if isinstance(code, ast.With):
        for item in code.items:
            yield item.context_expr
        for inner in code.body:
            yield from expressions(inner.code if isinstance(inner, Statement) else inner)
    else:
        yield code


def names_in(code: Any, kind: type[ast.expr_context] | None = None) -> Iterator[str]:
    """Values and places that a statement names, in the order of the text."""
    for part in expressions(code):
        yield from _ordered(part, kind)


def _ordered(node: ast.AST, kind: type[ast.expr_context] | None) -> Iterator[str]:
    if isinstance(node, ast.Name):
        if (kind is None or isinstance(getattr(node, "ctx", ast.Load()), kind)) and is_value(node.id):
            yield node.id
        return
    children = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.Assign):
        children = [node.value, *node.targets]
    for child in children:
        yield from _ordered(child, kind)


def is_value(name: str) -> bool:
    """Whether a name is a value or a place, and no function or module."""
    return name.startswith("%") or ":" in name


def defined(code: Any) -> list[str]:
    """The values a statement assigns."""
    return list(names_in(code, ast.Store))


def roots_written(code: ast.stmt) -> Iterator[str]:
    """The values that a statement writes to in place."""
    if isinstance(code, ast.AugAssign):
        yield from names_in(code.target)
    elif isinstance(code, ast.Assign):
        for target in code.targets:
            if isinstance(target, ast.Subscript):
                yield from names_in(target.value)


def _written_in_calls(code: ast.stmt) -> Iterator[str]:
    for node in ast.walk(code):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name = node.func.attr
            if name.endswith("_") and not name.endswith("__"):
                yield from names_in(node.func.value)
                yield from (value for arg in node.args[:1] for value in names_in(arg))
        if isinstance(node, ast.Call) and any(key.arg in ("inplace", "out") for key in node.keywords):
            yield from (value for value in names_in(node))
        elif (isinstance(node, ast.Call) and "batch_norm" in ast.dump(node.func)) or (
            isinstance(node, ast.Call) and "instance_norm" in ast.dump(node.func)
        ):
            yield from (value for arg in node.args[1:5] for value in names_in(arg))
