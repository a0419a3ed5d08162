"""The names of values: those that the author of a module uses, as far as the lines of code tell them."""

from __future__ import annotations

import ast
import builtins
import keyword
import operator
import re
from collections.abc import Iterable, Iterator

from torch.fx import Node

from funcnet.program._author_names import operand_variables, parameter_name, variables_read
from funcnet.program._statements import Function, Item, Program, expression_names, iter_items

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
    """Which value has which name at a line of a function.

    A name is free again once the last statement that reads its value is reached. So values have the names they have in
    the forward, ``x = F.relu(x)``, and no value is kept alive by a name of its own when it is no longer needed.

    Args:
        program: the program.
        function: the function of it that is written.
        reserved: names that mean something else in the text.
    """

    def __init__(self, program: Program, function: Function, reserved: set[str]) -> None:
        self.program, self.function = program, function
        self.path = function.level.path
        self.reserved = RESERVED | reserved
        self.names: dict[str, str] = {}
        self.holders: dict[str, str] = {}  # name -> the value that has it
        self.last_reads: dict[str, int] = {}
        self.number = -1  # of the statement at hand; arguments are named before the first
        self.moves: list[tuple[str, str]] = []  # lines ``new = old`` that go before the statement at hand
        self._names_after: dict[str, str] = {}  # names from the next statement on
        self._read_now: list[str] = []
        self._assigned_now: set[str] = set()
        self._named_by_operation: set[str] = set()
        self._recorded_nodes = set(program.nodes.values())

    def start(self, items: Iterable[Item]) -> None:
        """Note where the values of a function are read for the last time."""
        function = self.function
        self.last_reads = {name: number for number, (_, reads) in enumerate(iter_items(items)) for name in reads}
        results = [name for value in function.new_buffers.values() for name in expression_names(value)]
        self.last_reads |= dict.fromkeys([*function.outputs, *results], _NEVER_FREE)

    def next_statement(self) -> None:
        """Go on to the next statement."""
        self.number += 1

    def finish_line(self) -> None:
        """Note that the line of the statement at hand is written, which read values by their old names."""
        self.names.update(self._names_after)
        self._names_after.clear()

    def is_read_later(self, value: str) -> bool:
        """Whether anything behind the statement at hand reads a value."""
        return self.last_reads.get(value, -1) > self.number

    # --- choices ---

    def fix_name(self, value: str, name: str) -> None:
        """Give a value a name, whoever had it."""
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
        """Choose the name of a value from here on.

        Args:
            value: the value.
            keep_current: leave every name with the value that has it, those that are read for the last time included.
        """
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
            rest = value[5:][len(self.path) :].strip(".")
            return re.sub(r"\W+", "_", rest) or "new_buffers"
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

        A name that only says by which operation the value was made is not handed on to what is made of it.
        """
        for value in self._read_now:
            if value in self.names and value.startswith("%") and value not in self.program.sizes:
                if self.is_read_later(value) or value in self._named_by_operation:
                    return None
                return self.names[value]
        return None

    def _name_in_forward(self, value: str) -> str | None:
        """What the forward of the module calls an argument."""
        tensors = [name for name in self.function.free if name.startswith("%") and name not in self.program.sizes]
        if value not in tensors or not self.path:
            return None
        traces = [
            self.program.captured.stack_trace(node)
            for item, reads in iter_items(self.function.items)
            if value in reads and (node := getattr(item, "node", None)) is not None
        ]
        module = self.program.module.get_submodule(self.path)
        others = [self.program.hints.get(name) for name in tensors if name != value]
        return parameter_name(module, self.program.hints.get(value), traces, others)

    # --- values that give their name to another one ---

    def _move_holder(self, name: str) -> None:
        """Let the value that has a name be called as its later readers call it, as in ``residual = x``."""
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
        """The operations that read a value, and as what; through those that only pass it on."""
        for user in node.users:
            if user in self._recorded_nodes or user.op == "output":
                yield user, node
            else:
                yield from self._iter_readers(user)
