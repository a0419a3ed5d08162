"""The names of values: those that the author of a module uses, as far as the lines of code tell them."""

from __future__ import annotations

import ast
import builtins
import inspect
import keyword
import linecache
import operator
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from torch import nn
from torch.fx import Node

from funcnet.program._statements import ForwardProgram, Item, Routine, expression_names, iter_items

RESERVED = frozenset(
    {*keyword.kwlist, *dir(builtins), "params", "buffers", "rng", "path", "torch", "F", "fn", "math", "operator"}
) - {"input"}
"""Names that no value has."""

_NEVER_FREE = 1 << 40
_OPERATORS: dict[object, type[ast.operator]] = {
    operator.add: ast.Add,
    operator.iadd: ast.Add,
    operator.mul: ast.Mult,
    operator.sub: ast.Sub,
}


class ValueNames:
    """The names of values at a line of a function; ``reserved`` are names that mean something else in the text.

    A name is free again once the last statement that reads its value is reached. So values have the names they have in
    the forward, ``x = F.relu(x)``, and no value is kept alive by a name of its own when it is no longer needed.
    """

    def __init__(self, program: ForwardProgram, function: Routine, reserved: set[str]) -> None:
        self.program, self.function = program, function
        self.path = function.call_key.path
        self.reserved = RESERVED | reserved
        self.names: dict[str, str] = {}
        self.holders: dict[str, str] = {}  # name -> the value that has it
        self.last_reads: dict[str, int] = {}
        self.number = -1  # of the statement at hand, which the writer counts; arguments are named before the first
        self.moves: list[tuple[str, str]] = []  # lines ``new = old`` that go before the statement at hand
        self._names_after: dict[str, str] = {}  # names from the next statement on
        self._read_now: list[str] = []
        self._assigned_now: set[str] = set()
        self._named_by_operation: set[str] = set()
        self._written_nodes = set(program.nodes.values())

    def start(self, items: Iterable[Item]) -> None:
        """Note where the values of a function are read for the last time."""
        function = self.function
        self.last_reads = {name: number for number, (_, reads) in enumerate(iter_items(items)) for name in reads}
        results = [name for value in function.new_buffers.values() for name in expression_names(value)]
        self.last_reads |= dict.fromkeys([*function.outputs, *results], _NEVER_FREE)

    def finish_line(self) -> None:
        """Note that the line of the statement at hand is written, which read values by their old names."""
        self.names.update(self._names_after)
        self._names_after.clear()

    def is_read_later(self, value: str) -> bool:
        """Whether a later statement than the one at hand reads a value."""
        return self.last_reads.get(value, -1) > self.number

    def fix_name(self, value: str, name: str) -> None:
        """Give a value a name, even if a different value has it."""
        self.names[value] = name
        self.holders[name] = value

    def name_argument(self, value: str) -> str:
        """Choose the name of an argument."""
        self.last_reads[value] = 0
        name = self._name_in_forward(value)
        if name is None or name in self.reserved or name in self.holders:
            return self.name_value(value, keep_current=True)
        self.fix_name(value, name)
        return name

    def name_targets(self, values: list[str], reads: list[str]) -> list[str]:
        """Choose the names of the values that the statement at hand assigns; ``_`` for those that nobody reads."""
        self._read_now, self._assigned_now = reads, set()
        for value in values:
            if value in self.last_reads:
                self.name_value(value)
                self._assigned_now.add(value)
        self._assigned_now = set()
        return [self.names[value] if value in self.last_reads else "_" for value in values]

    def name_value(self, value: str, *, keep_current: bool = False) -> str:
        """Choose the name of a value from here on; with ``keep_current``, no other value loses its name."""
        base = self._base_name(value)
        if base in ("l", "O", "I") or not base.isidentifier():
            base = f"{base}_" if base.isidentifier() else f"value_{base}"
        if not keep_current and not self._is_free(base):
            self._move_holder(base)
        name, count = base, 1
        while not self._is_free(name, keep_current):
            count += 1
            name = f"{base}_{count}" if base[-1:] != "_" else f"{base}{count}"
        self.fix_name(value, name)
        return name

    def _is_free(self, name: str, keep_current: bool = False) -> bool:
        holder = self.holders.get(name)
        if holder is None:
            return name not in self.reserved
        return self.last_reads.get(holder, -1) < self.number + (not keep_current)

    def _base_name(self, value: str) -> str:
        if value.startswith("%new:"):
            return re.sub(r"\W+", "_", value[5:][len(self.path) :].strip(".")) or "new_buffers"
        if ":" in value:  # a param from elsewhere, as an argument
            return re.sub(r"\W+", "_", value.rpartition(".")[2].rpartition(":")[2])
        if hint := self.program.hints.get(value):
            return hint
        name = self._carried_name()
        if name is None:
            self._named_by_operation.add(value)
            node = self.program.nodes.get(value)
            name = "value" if node is None else node.name
        return re.sub(r"(_\d+)+$", "", re.sub(r"\W+", "_", name)).strip("_") or "value"

    def _carried_name(self) -> str | None:
        """The name of the first value that the statement at hand reads, if nobody reads that value again.

        A name taken from the operation that made a value is not passed on to later values.
        """
        for value in self._read_now:
            if value in self.names and value.startswith("%") and value not in self.program.sizes:
                if self.is_read_later(value) or value in self._named_by_operation:
                    return None
                return self.names[value]
        return None

    def _name_in_forward(self, value: str) -> str | None:
        """What the forward of the module calls an argument."""
        tensors = [name for name in self.function.inputs if name.startswith("%") and name not in self.program.sizes]
        if value not in tensors or not self.path:
            return None
        traces = [
            self.program.captured.stack_trace(node)
            for item, reads in iter_items(self.function.items)
            if value in reads and (node := getattr(item, "node", None)) is not None
        ]
        module = self.program.module.get_submodule(self.path)
        other_hints = [self.program.hints.get(name) for name in tensors if name != value]
        return parameter_name(module, self.program.hints.get(value), traces, other_hints)

    def _move_holder(self, name: str) -> None:
        """Rename the value that has a name to what its later readers call it, as in ``residual = x``."""
        holder = self.holders.get(name)
        if holder is None:
            return
        new_name = self._name_at_readers(holder, name)
        if new_name is None or new_name in self.reserved or not self._is_free(new_name, keep_current=True):
            return
        del self.holders[name]
        if holder in self._assigned_now:
            self.fix_name(holder, new_name)
            return
        self.moves.append((new_name, name))
        self._names_after[holder] = new_name  # the statement at hand still reads it by its old name
        self.holders[new_name] = holder

    def _name_at_readers(self, value: str, name: str) -> str | None:
        """What the first reader of a value calls it, if not by a given name."""
        node = self.program.nodes.get(value)
        for reader, read_node in () if node is None else self._iter_readers(node):
            trace = self.program.captured.stack_trace(reader)
            symbol = _OPERATORS.get(reader.target)
            sides = [] if symbol is None else operand_variables(trace, symbol)
            for side, arg in zip(sides, reader.args, strict=False):
                if arg is read_node and side is not None and side != name and side not in self.reserved:
                    return side
            if sides or value not in self.program.named:
                continue
            variables = variables_read(trace)
            if name in variables:
                continue
            known = {self.program.hints.get(key) for key, owner in self.program.nodes.items() if owner in reader.args}
            unknown = [variable for variable in variables if variable not in known and variable not in self.reserved]
            if len(unknown) == 1 and unknown[0].isidentifier():
                return unknown[0]
        return None

    def _iter_readers(self, node: Node) -> Iterator[tuple[Node, Node]]:
        """The written operations that read a value, each with the node it reads.

        Operations that only pass the value on are looked through.
        """
        for user in node.users:
            if user in self._written_nodes or user.op == "output":
                yield user, node
            else:
                yield from self._iter_readers(user)


_FRAME = re.compile(r'File "(.+)", line (\d+), in ')


def frames_of(trace: str) -> list[tuple[str, int]]:
    """File and line of each frame of a stack trace, outermost first; without frames that are not in files."""
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
    spans = {node: (node.end_lineno or node.lineno) - node.lineno for node in _statements_in(file)}
    matches = [node for node, span in spans.items() if 0 <= line - node.lineno <= span]
    return min(matches, key=spans.__getitem__, default=None)


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
    """The local variable in which the tracer saw a value being stored; None if there was none.

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
"""Files whose code passes values on under meaningless names."""


def name_around(trace: str) -> str | None:
    """The variable assigned by the innermost statement around an operation that assigns one."""
    for file, line in reversed(frames_of(trace)):
        variables = assigned_variables(statement_at(file, line))
        if variables and variables[0] != "_" and not file.endswith(_PASSING_ON):
            return variables[0]
    return None


_FRAME_WITH_FUNCTION = re.compile(r'File "([^<"]+)", line (\d+), in (\w+)')


def name_at_caller(trace: str, readers: Sequence[str]) -> str | None:
    """What a value is called outside of the function that makes it: ``mask``, for ``mask = causal_mask(...)``.

    None if that function is the forward of a module, whose calls have lines of their own, or if it is read inside:
    ``trace`` is the stack trace of the operation that makes it, and ``readers`` are those of the ones that read it.
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
    return next((index for index, (left_item, right_item) in pairs if left_item != right_item), len(right))


def parameter_name(
    module: nn.Module, hint: str | None, traces: Sequence[str], other_hints: Sequence[str | None]
) -> str | None:
    """What the forward of a module calls an argument, by the stack traces of the operations that read it.

    ``hint`` is what the argument is called outside, and ``other_hints`` what the others are.
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
    """The variables left and right of the one operator on the line of an operation; None for any other operand.

    The list is empty if the line has no such operator, or several.
    """
    statement = _innermost_statement(trace)
    if statement is None:
        return []
    nodes = [node for node in ast.walk(statement) if isinstance(node, ast.BinOp) and isinstance(node.op, symbol)]
    if len(nodes) != 1:
        return []
    return [side.id if isinstance(side, ast.Name) else None for side in (nodes[0].left, nodes[0].right)]
