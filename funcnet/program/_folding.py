"""Statements grouped by the calls of modules they come from, and equal calls made one function."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from funcnet._torch_tracer import (
    size_expression,
)
from funcnet.program._loops import make_loops
from funcnet.program._statements import (
    Block,
    ForwardProgram,
    Item,
    Loop,
    ModuleCallKey,
    Routine,
    RoutineCall,
    StatementOrBlock,
    assigned_names,
    expression_names,
    is_value,
    read_names,
    relative_path,
    split_slot,
)
from funcnet.program._text import Spell, symbol_of, text_of

SHORTEST = 3
"""The number of statements that are worth a function."""


@dataclass
class ModuleCall:
    """One call of a module, with its own statements and the calls within."""

    call_key: ModuleCallKey
    items: list[StatementOrBlock | ModuleCall] = field(default_factory=list)
    text: str = ""  # what it does, with numbered values: equal calls have equal texts
    inputs: list[str] = field(default_factory=list)  # the values that it reads from outside, first read first
    assigned: list[str] = field(default_factory=list)  # the values that it assigns, in order

    def calls(self) -> list[ModuleCall]:
        """The calls of modules that it makes itself."""
        return [item for item in self.items if isinstance(item, ModuleCall)]

    def iter_steps(self) -> Iterator[StatementOrBlock]:
        """All its statements, those of the calls within included."""
        for item in self.items:
            yield from item.iter_steps() if isinstance(item, ModuleCall) else [item]


def call_tree(program: ForwardProgram) -> ModuleCall:
    """The statements of a program, by the calls of modules they come from."""
    root = ModuleCall(ModuleCallKey("", "", program.title))
    open_calls = [root]
    for step in program.statements:
        call_keys = step.call_keys
        shared = 0
        while (
            shared < min(len(call_keys), len(open_calls) - 1) and open_calls[shared + 1].call_key == call_keys[shared]
        ):
            shared += 1
        del open_calls[shared + 1 :]
        for call_key in call_keys[shared:]:
            call = ModuleCall(call_key)
            open_calls[-1].items.append(call)
            open_calls.append(call)
        open_calls[-1].items.append(step)
    return root


def calls_from_elsewhere(call: ModuleCall, outer_paths: tuple[str, ...] = ()) -> Iterator[ModuleCall]:
    """Calls of modules that are not submodules of their caller, so no path leads from the caller to them."""
    for inner in call.calls():
        path = inner.call_key.path
        if any(relative_path(path, outer) is None for outer in outer_paths):
            yield inner
        yield from calls_from_elsewhere(inner, (*outer_paths, path))


class Folding:
    """Turns calls of modules that occur more than once in a program into functions."""

    def __init__(self, program: ForwardProgram) -> None:
        self.program = program
        self.functions: dict[str, Routine] = {}  # text of a call -> the function made from it
        self.order: list[Routine] = []  # a function comes after those that it calls
        self.function_names: set[str] = {"forward"}
        self.calls: dict[str, list[ModuleCall]] = {}  # text -> all calls that have it
        self.chosen: set[str] = set()  # texts of the calls that become functions
        self.outputs: dict[str, list[int]] = {}

    def fold(self) -> Routine:
        """The main function of a program; ``order`` has those that it calls."""
        root = call_tree(self.program)
        self._set_texts(root)
        self._choose_calls(root)
        return self._main_function(root)

    def _main_function(self, root: ModuleCall) -> Routine:
        self.outputs = self._find_outputs()
        main = Routine("forward", root.call_key, list(self.program.arguments.values()), [])
        main.outputs = list(expression_names(self.program.returned))
        self._fill(main, root)
        return main

    def _fill(self, function: Routine, call: ModuleCall) -> None:
        """Give a function its items: those of a call, where calls of modules become calls of functions."""
        path = call.call_key.path
        function.items, function.new_buffers = self._lower(call)
        make_loops(function)
        function.kinds = frozenset(_slot_kinds(function.items, function.new_buffers, path))

    def _set_texts(self, call: ModuleCall) -> None:
        """Set the text of a call and of the calls within it, and which values each of them reads and assigns."""
        for inner in call.calls():
            self._set_texts(inner)
        path = call.call_key.path
        steps = list(call.iter_steps())
        assigned = {name for step in steps for name in assigned_names(step)}
        numbered: dict[str, str] = {}

        def number_name(name: str) -> str:
            slot = split_slot(name)
            suffix = None if slot is None else relative_path(slot[1], path)
            if not is_value(name) or (slot is not None and suffix is not None):
                return name if slot is None else f"{slot[0]}:{suffix}"
            if name not in numbered:
                numbered[name] = f"v{len(numbered)}"
                (call.assigned if name in assigned else call.inputs).append(name)
            return numbered[name]

        lines = [call.call_key.title, *(_step_text(step, number_name) for step in steps)]
        new = {value.id: name for name, value in self.program.new_buffers.items() if isinstance(value, ast.Name)}
        buffers = {numbered[value]: new[value] for value in call.assigned if value in new}
        lines += [f"{relative_path(buffer, path) or buffer} = {number}" for number, buffer in buffers.items()]
        lines.append(str([_rank_and_dtype(self.program.example(name)) for name in call.inputs]))
        sizes = [name for name in call.inputs if name in self.program.sizes]
        axes = [axis for size in sizes if (axis := self._find_axis(size, call.inputs)) is not None]
        lines += [f"{call.inputs.index(value)} {axis}" for value, axis in axes]
        call.text = "\n".join(lines)
        self._add_call(call)

    def _add_call(self, call: ModuleCall) -> None:
        self.calls.setdefault(call.text, []).append(call)

    def _choose_calls(self, root: ModuleCall) -> None:
        """Choose the calls that become functions: those that occur twice and are long enough."""
        counts: Counter[str] = Counter()
        waiting = [root]
        for call in waiting:
            waiting += {inner.text: inner for inner in call.calls() if inner.text not in counts}.values()
            counts.update(inner.text for inner in call.calls())
        elsewhere = {call.text for call in calls_from_elsewhere(root)}
        for text in sorted(counts, key=len):  # inner calls before outer calls
            items = self._items_of(self.calls[text][0])
            length = len({item.text if isinstance(item, ModuleCall) else id(item) for item in items})
            if counts[text] > 1 and length >= SHORTEST and text not in elsewhere and self._has_own_buffers(text):
                self.chosen.add(text)

    def _items_of(self, call: ModuleCall) -> Iterator[StatementOrBlock | ModuleCall]:
        """Its statements, where calls that become functions are one item each."""
        for item in call.items:
            if isinstance(item, ModuleCall) and item.text not in self.chosen:
                yield from self._items_of(item)
            else:
                yield item

    def _has_own_buffers(self, text: str) -> bool:
        """Whether every new buffer below these calls is computed inside the call."""
        return all(
            isinstance(value, ast.Name) and value.id in call.assigned
            for call in self.calls[text]
            for path, value in self.program.new_buffers.items()
            if path.startswith(f"{call.call_key.path}.")
        )

    def _find_outputs(self) -> dict[str, list[int]]:
        """For each text of a call, the positions of its assigned values that are read outside of it."""
        readers: dict[str, set[int | str]] = {}  # value -> the statements and new buffers that read it
        for step in self.program.statements:
            for name in read_names(step):
                readers.setdefault(name, set()).add(id(step))
        for path, value in [*self.program.new_buffers.items(), ("", self.program.returned)]:
            for name in expression_names(value):
                readers.setdefault(name, set()).add(path)
        outputs: dict[str, set[int]] = {text: set() for text in self.chosen}
        for text in self.chosen:
            for call in self.calls[text]:
                within: set[int | str] = {id(step) for step in call.iter_steps()}
                within |= {path for path in self.program.new_buffers if path.startswith(f"{call.call_key.path}.")}
                outputs[text] |= {
                    index for index, name in enumerate(call.assigned) if readers.get(name, set()) - within
                }
        return {text: sorted(positions) for text, positions in outputs.items()}

    def _function_for(self, call: ModuleCall) -> Routine:
        """The function for a call and all equal calls. It is built from the first one requested."""
        if call.text in self.functions:
            return self.functions[call.text]
        outputs = [call.assigned[position] for position in self.outputs[call.text]]
        function = Routine("", call.call_key, list(call.inputs), outputs)
        self._fill(function, call)
        for size in call.inputs:
            axis = self._find_axis(size, call.inputs) if size in self.program.sizes else None
            if axis is not None:  # it is read from a tensor that has this size, so it is not an argument
                function.sizes[size] = axis
        function.inputs = [name for name in call.inputs if name not in function.sizes]
        function.name = self._choose_name(call)
        self.functions[call.text] = function
        self.order.append(function)
        return function

    def _find_axis(self, size: str, values: Sequence[str]) -> tuple[str, int] | None:
        """The first of some values that has this size, and the axis with this size."""
        symbol = self.program.sizes[size]
        for name in values:
            example = self.program.example(name)
            if isinstance(example, Tensor):
                for axis, length in enumerate(example.shape):
                    if not isinstance(length, int) and size_expression(length) == symbol:
                        return name, axis
        return None

    def _choose_name(self, call: ModuleCall) -> str:
        title, key = call.call_key.title, call.call_key.path.rpartition(".")[2]
        is_container = title in ("Sequential", "ModuleList", "ModuleDict") and key.isidentifier()
        base = snake_case(key if is_container else title)
        name, count = base, 1
        while name in self.function_names:
            count += 1
            name = f"{base}_{count}"
        self.function_names.add(name)
        return name

    def _lower(self, call: ModuleCall) -> tuple[list[Item], dict[str, ast.expr]]:
        """The items of the body of a function, and its new buffers: by path, or all those below a path."""
        steps = self._items_of(call)
        items: list[Item] = [self._call_of_routine(step) if isinstance(step, ModuleCall) else step for step in steps]
        new_buffers_values = {
            item.call_key.path: item.new_buffers_value
            for item in items
            if isinstance(item, RoutineCall) and item.new_buffers_value is not None
        }
        new_buffers: dict[str, ast.expr] = {
            path: ast.Name(new_buffers_value) for path, new_buffers_value in new_buffers_values.items()
        }
        for name, value in self.program.new_buffers.items():
            is_of_called = any(name.startswith(f"{path}.") for path in new_buffers_values)
            if not is_of_called and relative_path(name, call.call_key.path) is not None:
                new_buffers[name] = value
        return items, new_buffers

    def _call_of_routine(self, call: ModuleCall) -> RoutineCall:
        """The call of a function that stands for the call of a module."""
        function = self._function_for(call)
        first = self.calls[call.text][0]  # equal calls have their values at the same positions
        arguments = [call.inputs[first.inputs.index(name)] for name in function.inputs]
        results = [call.assigned[position] for position in self.outputs[call.text]]
        new_buffers_value = None
        if function.new_buffers:
            new_buffers_value = f"%new:{call.call_key.path}"
            self.program.hints[new_buffers_value] = re.sub(r"\W", "_", call.call_key.path.rpartition(".")[2])
        return RoutineCall(function, call.call_key, arguments, results, new_buffers_value)


def _rank_and_dtype(example: object) -> object:
    return (example.dim(), example.dtype) if isinstance(example, Tensor) else None


def _step_text(step: StatementOrBlock, spell: Spell) -> str:
    """A statement as text on one line; names are spelled in the order in which the statement is executed."""
    if isinstance(step, Block):
        contexts = ", ".join(text_of(context, spell) for context in step.contexts)
        return f"with {contexts}: [{'; '.join(_step_text(inner, spell) for inner in step.body)}]"
    if step.operator is not None and step.written is not None:
        return f"{text_of(step.written, spell)} {symbol_of(step.operator)}= {text_of(step.value, spell)}"
    value = text_of(step.value, spell)
    if step.asked_at:
        return f"assert {value}"
    written = ", ".join(map(spell, step.targets)) if step.written is None else text_of(step.written, spell)
    return f"{written} = {value}"


def _slot_kinds(items: Sequence[Item], new_buffers: Mapping[str, ast.expr], path: str) -> Iterator[str]:
    """The kinds of slots below a path that a function reads."""
    if new_buffers:
        yield "buffers"
    for item in items:
        if isinstance(item, (RoutineCall, Loop)):
            yield from (item.calls_in_loop[0] if isinstance(item, Loop) else item).function.kinds
            continue
        for name in read_names(item):
            slot = split_slot(name)
            if slot is not None and relative_path(slot[1], path) is not None:
                yield slot[0]


def snake_case(name: str) -> str:
    """A class name in the form of a function name: GPT2Block becomes gpt2_block.

    >>> snake_case("GPT2Block"), snake_case("BertSelfAttention"), snake_case("T5LayerFF")
    ('gpt2_block', 'bert_self_attention', 't5_layer_ff')
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z0-9])(?=[A-Z][a-z])", "_", name).lower().strip("_")
