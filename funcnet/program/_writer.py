"""The writer of programs: the lines of one function, with the names of its values and comments where a part begins."""

from __future__ import annotations

import ast
import copy
import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from funcnet.program._expressions import call_expression, shorten_calls, writes_in_place
from funcnet.program._statements import (
    Block,
    ForwardProgram,
    Item,
    Loop,
    ModuleCallKey,
    Routine,
    RoutineCall,
    Statement,
    expression_names,
    item_reads,
    iter_items,
    read_names,
    relative_path,
    replace_names,
    split_slot,
)
from funcnet.program._text import WIDTH, lines_of, symbol_of, text_of
from funcnet.program._value_names import ValueNames


class Writer:
    """Writes one function of a program, as a function of the params and buffers of the module at ``path``.

    ``reserved`` are names that mean something else in the text.
    """

    def __init__(
        self,
        program: ForwardProgram,
        function: Routine,
        reserved: set[str],
        width: int = WIDTH,
        path: str | None = None,
    ) -> None:
        self.program, self.function, self.width = program, function, width
        self.path = function.call_key.path if path is None else path
        self.names = ValueNames(program, function, reserved)
        self.lines: list[str] = []
        self.indent = 4
        self.commented: ModuleCallKey | None = None  # the part that the last comment is about
        self.conditions: dict[str, None] = {}  # what the lines assert

    def fix_arguments(self) -> None:
        """Give the arguments of the program the names that the caller uses."""
        for name, value in self.program.arguments.items():
            self.names.fix_name(value, name)

    def spell(self, name: str) -> str:
        """The text for a value or a slot at this line."""
        known = self.names.names.get(name)
        if known is not None:
            return known
        slot = split_slot(name)
        return name if slot is None else self.spell_slot(*slot)

    def spell_slot(self, kind: str, path: str) -> str:
        """The text that reads a param, a buffer or the rng of a module."""
        suffix = relative_path(path, self.path) or ""
        if kind != "rng":
            return kind + "".join(f'["{key}"]' for key in suffix.split(".") if key)
        if not self.path:
            return f'rng("{suffix}")'
        return f'rng(f"{{path}}.{suffix}")' if suffix else "rng(path)"

    def add_line(self, text: str) -> None:
        """Append a line, after the pending ``new = old`` lines that it needs."""
        indent = " " * self.indent
        self.lines += [f"{indent}{new} = {old}" for new, old in self.names.moves]
        self.names.moves.clear()
        self.lines.append(indent + text)

    def add_statement(self, head: str, value: ast.expr, tail: str = "") -> None:
        """Add the lines of a statement."""
        first, *others = lines_of(head, value, self.spell, self.indent, tail, self.width)
        self.add_line(first[self.indent :])
        self.lines += others
        self.names.finish_line()

    def add_comment(self, path: str, title: str) -> None:
        """Add a comment that names the part that begins, unless the last comment named it."""
        call_key = ModuleCallKey("", path, title)
        if call_key == self.commented:
            return
        suffix = relative_path(path, self.path)
        suffix = path if suffix is None else suffix
        if self.commented is not None or suffix:
            self.lines.append(" " * self.indent + f"# {f'{suffix}: {title}' if suffix else title}")
        self.commented = call_key

    def body(self, items: Sequence[Item]) -> list[str]:
        """The lines of the function after its head."""
        self.names.start(items)
        self.names.number = -1
        for size, (tensor, axis) in self.function.sizes.items():
            if size in self.names.last_reads:
                text = f"{self.spell(tensor)}.shape[{axis}]"
                self.add_line(f"{self.names.name_value(size)} = {text}")
        self.names.number += 1
        self._write_items(items)
        return self.lines

    def _write_items(self, items: Iterable[Item]) -> None:
        for item in items:
            if isinstance(item, Loop):
                self._write_loop(item)
            elif isinstance(item, RoutineCall):
                self._write_call(item)
            elif isinstance(item, Block):
                self._write_block(item)
                continue
            else:
                self._write_statement(item)
            self.names.number += 1

    def _comment_on(self, item: Statement | Block) -> None:
        call_key = item.call_keys[-1] if item.call_keys else None
        if call_key is not None and relative_path(call_key.path, self.path) is not None:
            self.add_comment(call_key.path, call_key.title)
        elif isinstance(item, Block) or self.program.sizes.keys().isdisjoint(item.targets):
            self.add_comment(self.path, self.function.call_key.title)

    def _write_block(self, block: Block) -> None:
        self._comment_on(block)
        self.add_line(f"with {', '.join(text_of(context, self.spell) for context in block.contexts)}:")
        self.names.number += 1
        self.indent += 4
        self._write_items(block.body)
        self.indent -= 4

    def _write_statement(self, statement: Statement) -> None:
        self._comment_on(statement)
        if statement.asked_at:
            self._write_assertion(statement)
            return
        if statement.written is not None:
            symbol = "" if statement.operator is None else symbol_of(statement.operator)
            self.add_statement(f"{text_of(statement.written, self.spell)} {symbol}= ", statement.value)
            return
        names = self.names.name_targets(statement.targets, list(item_reads(statement)))
        if names == ["_"]:  # no statement reads the value: the operation is kept for its other effects
            names = []
            if statement.result in self.program.sizes:
                return
        self.add_statement(f"{', '.join(names)} = " if names else "", statement.value)

    def _write_assertion(self, statement: Statement) -> None:
        condition = text_of(statement.value, self.spell)
        self.conditions.setdefault(condition)
        self.add_statement("assert ", statement.value, f', "as captured for {statement.asked_at}"')

    def _write_call(self, routine_call: RoutineCall) -> None:
        self.add_comment(routine_call.call_key.path, routine_call.call_key.title)
        results = [*routine_call.results, *([routine_call.new_buffers_value] if routine_call.new_buffers_value else [])]
        names = self.names.name_targets(results, routine_call.arguments)
        call = self.routine_call(routine_call.function, routine_call.arguments, routine_call.call_key.path)
        self.add_statement(f"{', '.join(names)} = " if names else "", call)

    def routine_call(self, function: Routine, arguments: Sequence[str], path: str, tail: str | None = None) -> ast.Call:
        """The call of a function for the module at a path; in a loop, ``tail`` is the path after the number."""
        keys = self._keys_from_here(path, tail)
        brackets = "".join("[str(i)]" if key is None else f'["{key}"]' for key in keys)
        args = [ast.Name(kind + brackets) for kind in ("params", "buffers") if kind in function.kinds]
        args += [ast.Name(name) for name in arguments]
        if "rng" in function.kinds:
            text = ".".join([*(["{path}"] if self.path else []), *("{i}" if key is None else key for key in keys)])
            args += [ast.Name("rng"), ast.Name(f'f"{text}"' if "{" in text else f'"{text}"')]
        return call_expression(function.name, args)

    def _keys_from_here(self, path: str, tail: str | None) -> list[str | None]:
        """The keys that lead to a module from the one whose function is written; None for the number of a loop."""
        keys: list[str | None] = [key for key in (relative_path(path, self.path) or "").split(".") if key]
        if tail is not None:
            keys += [None, *(key for key in tail.split(".") if key)]
        return keys

    def _write_loop(self, loop: Loop) -> None:
        names, first, final = self.names, loop.calls_in_loop[0], loop.calls_in_loop[-1]
        carried = self._names_of_carried(loop)
        last = relative_path(final.call_key.path, self.path) or ""
        self.commented = None
        self.add_comment(f"{first.call_key.path} to {last}", final.call_key.title)
        arguments = [
            carried[loop.carried[position]] if position in loop.carried else self.spell(value)
            for position, value in enumerate(first.arguments)
        ]
        for result, value in enumerate(final.results):
            if result in carried:
                names.fix_name(value, carried[result])
        targets = [
            carried[result] if result in carried else (names.name_value(value) if value in names.last_reads else "_")
            for result, value in enumerate(final.results)
        ]
        if loop.new_buffers_value is not None:
            new_buffers_value = names.name_value(loop.new_buffers_value)
            self.add_line(f"{new_buffers_value} = {{}}")
            targets.append(f"{new_buffers_value}[str(i)]")
        count = len(loop.calls_in_loop)
        self.add_line(f"for i in {f'range({loop.start}, {loop.start + count})' if loop.start else f'range({count})'}:")
        self.indent += 4
        call = self.routine_call(first.function, arguments, loop.head, loop.tail)
        self.add_statement(f"{', '.join(targets)} = " if targets else "", call)
        self.indent -= 4
        self.commented = ModuleCallKey("", f"{first.call_key.path} to {last}", "")

    def _names_of_carried(self, loop: Loop) -> dict[int, str]:
        """Variable names of the values passed from one iteration to the next, by result position."""
        names, first, final = self.names, loop.calls_in_loop[0], loop.calls_in_loop[-1]
        carried: dict[int, str] = {}
        for position, result in loop.carried.items():
            if result in carried:
                continue
            start = first.arguments[position]
            name = names.names.get(start)
            if name is None or names.is_read_later(start):
                names.number -= 1
                name = names.name_value(final.results[result])
                names.number += 1
                self.add_line(f"{name} = {self.spell(start)}")
            carried[result] = name
        return carried


def definition_lines(name: str, arguments: Sequence[str], indent: int = 0) -> list[str]:
    """The head of a function: ``def name(arguments):``."""
    call = ast.Call(ast.Name(name), [ast.Name(argument) for argument in arguments], [])
    return lines_of("def ", call, indent=indent, tail=":")


def return_lines(program: ForwardProgram, writer: Writer, unchanged: str | None = None) -> list[str]:
    """The last lines of a forward, which return its output and all buffers; ``unchanged`` if none of them is new."""
    lines: list[str] = []
    tail = f", {unchanged}" if unchanged else ""
    if writer.function.new_buffers:
        tree = buffer_tree(program, writer.function.new_buffers, "")
        lines, tail = lines_of("new_buffers = ", tree, writer.spell, 4), ", new_buffers"
    line = f"    return {text_of(program.returned, writer.spell)}{tail}"
    if len(line) <= WIDTH and (not tail or isinstance(program.returned, ast.Name)):
        return [*lines, line]
    return [*lines, *lines_of("output = ", program.returned, writer.spell, 4), f"    return output{tail}"]


def buffer_tree(program: ForwardProgram, new_buffers: Mapping[str, ast.expr], base: str) -> ast.expr:
    """The expression for all buffers below a path, with the new ones at their paths."""
    inside = f"{base}." if base else ""
    names = dict.fromkeys(path[len(inside) :].split(".")[0] for path in program.buffer_paths if path.startswith(inside))
    pairs: dict[str | None, ast.expr] = {}
    for name in names:
        path = f"{inside}{name}"
        if path in new_buffers:
            pairs[name] = new_buffers[path]
        elif any(key.startswith(f"{path}.") for key in new_buffers):
            pairs[name] = buffer_tree(program, new_buffers, path)
        elif f"{base}.*" in new_buffers and any(key.startswith(f"{path}.") for key in program.new_buffers):
            pairs.setdefault(None, new_buffers[f"{base}.*"])  # the buffers of a loop are in one dict
        else:
            pairs[name] = ast.Name(f"buffers:{path}")
    keys: list[ast.expr | None] = [None if name is None else ast.Constant(name) for name in pairs]
    return pairs[None] if keys == [None] else ast.Dict(keys, [*pairs.values()])


def inline_statements(program: ForwardProgram, function: Routine) -> list[Item]:
    """The items of a function; a value that the author has no name for is written where the next statement uses it."""
    counts: Counter[str] = Counter(name for _, reads in iter_items(function.items) for name in reads)
    counts.update(function.outputs)
    counts.update(name for value in function.new_buffers.values() for name in expression_names(value))
    return _inline_items(program, function.items, counts, function.call_key.path)


def _inline_items(program: ForwardProgram, items: Sequence[Item], counts: Counter[str], path: str) -> list[Item]:
    result: list[Item] = []
    for item in items:
        if isinstance(item, Block):
            body = _inline_items(program, item.body, counts, path)
            result.append(Block(item.contexts, body))  # type: ignore[arg-type]  # a block holds no calls of functions
            continue
        while isinstance(item, Statement) and result:
            merged = _merge(program, result[-1], item, counts, path)
            if merged is None:
                break
            result.pop()
            item = merged
        result.append(item)
    return result


def _merge(program: ForwardProgram, before: Item, item: Statement, counts: Counter[str], path: str) -> Statement | None:
    """A statement that contains the value of the previous one; None if they should stay separate."""
    if not isinstance(before, Statement) or before.call_keys != item.call_keys or before.node is None:
        return None
    value = before.result
    if value is None or value in program.named or counts[value] != 1 or value in program.mutated:
        return None
    if any(name.startswith("rng:") for name in expression_names(before.value)) or writes_in_place(before.value):
        return None
    if list(read_names(item)).count(value) != 1 or value not in expression_names(item.value):
        return None
    if item.written is not None and item.operator is None:
        return None
    # of a copy: the statement stays as it is if the merged one turns out too long
    expression = replace_names(copy.deepcopy(item.value), {value: before.value})
    text = text_of(expression, lambda name: _estimated_name(program, name, path))
    targets = item.targets if item.written is None else []
    head = sum(len(_estimated_name(program, name, path)) + 2 for name in targets) + 4
    if 4 + len(text) + head > WIDTH:
        return None
    expression = shorten_calls(expression, assume_cpu=True)
    return dataclasses.replace(item, value=expression)


def _estimated_name(program: ForwardProgram, name: str, path: str) -> str:
    """A guess at the text for a name, for estimates of line lengths."""
    if name.startswith("%"):
        return program.hints.get(name) or "value"
    slot = split_slot(name)
    if slot is None:
        return name
    suffix = relative_path(slot[1], path)
    if suffix is None:  # it becomes an argument
        return slot[1].rpartition(".")[2]
    return slot[0] + "".join(f'["{key}"]' for key in suffix.split(".") if key)
