"""Statements grouped by the calls of modules they come from, and equal calls made one function."""

from __future__ import annotations

import ast
import copy
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from funcnet.program._capture import _size
from funcnet.program._loops import looped
from funcnet.program._program import Program, Statement, defined, names_in
from funcnet.program._source_calls import Call, Function, Loop, Use, call_tree, elsewhere

SHORTEST = 3  # statements that are worth a function


def folded(program: Program) -> tuple[Function, list[Function]]:
    """The main function of a program, and those it calls, each behind what it calls itself."""
    return _Folding(program).all()


class _Folding:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.functions: dict[str, Function] = {}
        self.order: list[Function] = []
        self.names: set[str] = {"forward"}
        self.calls: dict[str, list[Call]] = {}

    def all(self) -> tuple[Function, list[Function]]:
        root = call_tree(self.program)
        self._describe(root)
        self.chosen = self._chosen(root)
        self.outputs = self._outputs(root)
        main = Function("forward", root.level, list(self.program.arguments.values()), [])
        main.items, main.new = self._lowered(root.items, "", main)
        main.outputs = list(names_in(self.program.returned))
        looped(main)
        main.places = frozenset(_places(main.items, main.new, ""))
        return main, self.order

    # --- which calls are equal ---

    def _describe(self, call: Call) -> None:
        for item in call.items:
            if isinstance(item, Call):
                self._describe(item)
        path, lines = call.level.path, list[str]()
        known: dict[str, str] = {}
        inside = f"{path}." if path else ""
        new_here = {value.id: name for name, value in self.program.new.items() if isinstance(value, ast.Name)}

        def spoken(name: str) -> str:
            kind, colon, rest = name.partition(":")
            if colon and (rest.startswith(inside) or rest == path or not inside):
                return f"{kind}:{rest[len(inside) :] if rest != path else ''}"
            if name not in known:
                known[name] = f"v{len(known)}"
                (call.made if name in assigned else call.free).append(name)
            return known[name]

        statements = list(call.statements())
        assigned = {name for statement in statements for name in defined(statement.code)}
        for statement in statements:
            lines.append(_dumped(statement.code, spoken))
        for name in call.made:
            if name in new_here:
                lines.append(f"{new_here[name].removeprefix(inside)} = {known[name]}")
        call.text = f"{call.level.title}\n" + "\n".join(lines)
        call.text += "\n" + str([_rank(self.program.example(name)) for name in call.free])
        for name in call.free:
            if name in self.program.sizes and (found := self._axis_of(name, call.free)) is not None:
                call.text += f"\n{call.free.index(found[0])} {found[1]}"
        self.calls.setdefault(call.text, []).append(call)

    def _chosen(self, root: Call) -> set[str]:
        edges: Counter[str] = Counter()
        seen: set[str] = set()

        def visit(call: Call) -> None:
            for item in call.items:
                if isinstance(item, Call):
                    edges[item.text] += 1
                    if item.text not in seen:
                        seen.add(item.text)
                        visit(item)

        visit(root)
        chosen: set[str] = set()
        away = {call.text for call in elsewhere(root)}
        for text in sorted(edges, key=len):  # what is within before what it is in
            if (
                edges[text] > 1
                and text not in away
                and self._whole(text)
                and self._lines(self.calls[text][0], chosen) >= SHORTEST
            ):
                chosen.add(text)
        return chosen

    def _lines(self, call: Call, chosen: set[str]) -> int:
        """About how many statements a call is, where equal calls within are one."""
        inner: set[str] = set()
        count = 0
        for item in call.items:
            if isinstance(item, Statement):
                count += 1
            elif item.text in chosen:
                inner.add(item.text)
            else:
                count += self._lines(item, chosen)
        return count + len(inner)

    def _whole(self, text: str) -> bool:
        """Whether the buffers below each of these calls are made new within it, if they are at all."""
        for call in self.calls[text]:
            inside, made = f"{call.level.path}.", set(call.made)
            for path, value in self.program.new.items():
                if path.startswith(inside) and not (isinstance(value, ast.Name) and value.id in made):
                    return False
        return True

    def _outputs(self, root: Call) -> dict[str, list[int]]:
        """For each kind of call, which of the values it makes are read outside, by position."""
        program = self.program
        read_at: dict[str, list[int]] = {}
        for number, statement in enumerate(program.statements):
            for name in names_in(statement.code, ast.Load):
                read_at.setdefault(name, []).append(number)
        numbers = {id(statement): number for number, statement in enumerate(program.statements)}
        returned = set(names_in(program.returned))
        as_buffer: dict[str, set[str]] = {}
        for path, value in program.new.items():
            for name in names_in(value):
                as_buffer.setdefault(name, set()).add(path)
        found: dict[str, set[int]] = {text: set() for text in self.chosen}
        for text in self.chosen:
            for call in self.calls[text]:
                within = {numbers[id(statement)] for statement in call.statements()}
                inside = f"{call.level.path}."
                for position, name in enumerate(call.made):
                    elsewhere = any(number not in within for number in read_at.get(name, ()))
                    other = any(not path.startswith(inside) for path in as_buffer.get(name, ()))
                    if elsewhere or other or name in returned:
                        found[text].add(position)
        return {text: sorted(positions) for text, positions in found.items()}

    # --- functions ---

    def _function(self, call: Call) -> Function:
        if call.text in self.functions:
            return self.functions[call.text]
        outputs = [call.made[position] for position in self.outputs[call.text]]
        free = list(call.free)
        made = Function("", call.level, free, outputs)
        made.items, made.new = self._lowered(call.items, call.level.path, made)
        looped(made)
        for size in [name for name in free if name in self.program.sizes]:
            found = self._axis_of(size, free)
            if found is not None:  # read from a tensor that has it, and no argument
                made.sizes[size] = found
        made.free = [name for name in free if name not in made.sizes]
        made.places = frozenset(_places(made.items, made.new, call.level.path))
        made.name = self._named(call)
        self.functions[call.text] = made
        self.order.append(made)
        return made

    def _axis_of(self, size: str, values: Sequence[str]) -> tuple[str, int] | None:
        """The first of some values that has a size, and the axis that it has it at."""
        symbol = self.program.sizes[size]
        for name in values:
            example = self.program.example(name)
            if isinstance(example, Tensor):
                for axis, length in enumerate(example.shape):
                    if not isinstance(length, int) and _size(length) == symbol:
                        return name, axis
        return None

    def _named(self, call: Call) -> str:
        title = call.level.title
        key = call.level.path.rpartition(".")[2]
        generic = title in ("Sequential", "ModuleList", "ModuleDict") and key.isidentifier()
        base = snake(key if generic else title)
        name, count = base, 1
        while name in self.names:
            count += 1
            name = f"{base}_{count}"
        self.names.add(name)
        return name

    def _lowered(self, items: Sequence[Statement | Call], path: str, function: Function) -> tuple[list[Any], Any]:
        """The items of a function's body, and the buffers it makes new: by path, or a name for all below a path."""
        lowered: list[Any] = []
        new: dict[str, ast.expr] = {}
        inside = f"{path}." if path else ""

        def walk(items: Sequence[Statement | Call]) -> None:
            for item in items:
                if isinstance(item, Statement):
                    lowered.append(item)
                elif item.text in self.chosen:
                    called = self._function(item)
                    given = [self._matching(item, called, name) for name in called.free]
                    results = [item.made[position] for position in self.outputs[item.text]]
                    state = None
                    if called.new:
                        state = f"%new:{item.level.path}"
                        self.program.hints[state] = re.sub(r"\W", "_", item.level.path.rpartition(".")[2])
                        new[item.level.path] = ast.Name(state, ast.Load())
                    lowered.append(Use(called, item.level, given, results, state))
                else:
                    walk(item.items)

        walk(items)
        below = list(new)
        for name, value in self.program.new.items():
            if any(name.startswith(f"{one}.") for one in below):
                continue
            if name.startswith(inside):
                new[name] = value
        return lowered, new

    def _matching(self, call: Call, function: Function, name: str) -> str:
        """The value of one call that is what another value is of the call that the function was made of."""
        origin = self.calls[call.text][0]
        return call.free[origin.free.index(name)]


def _rank(example: Any) -> Any:
    return (example.dim(), example.dtype) if isinstance(example, Tensor) else None


def _dumped(code: Any, spoken: Any) -> str:
    if isinstance(code, ast.With):
        head = ", ".join(_dumped(item.context_expr, spoken) for item in code.items)
        return f"with {head}: [" + "; ".join(_dumped(inner.code, spoken) for inner in code.body) + "]"  # type: ignore
    renamed = _Spoken(spoken).visit(copy.deepcopy(code))
    return ast.dump(renamed)


class _Spoken(ast.NodeTransformer):
    def __init__(self, spoken: Any) -> None:
        self.spoken = spoken

    def visit_Assign(self, node: ast.Assign) -> Any:
        node.value = self.visit(node.value)
        node.targets = [self.visit(target) for target in node.targets]
        return node

    def visit_Name(self, node: ast.Name) -> Any:
        known = node.id.startswith("%") or ":" in node.id
        return ast.Name(self.spoken(node.id) if known else node.id, getattr(node, "ctx", ast.Load()))


def _places(items: Sequence[Any], new: Any, path: str) -> Iterator[str]:
    inside = f"{path}." if path else ""
    if new:
        yield "buffers"
    for item in items:
        if isinstance(item, Statement):
            for name in names_in(item.code):
                kind, colon, rest = name.partition(":")
                if colon and not kind.startswith("%") and (rest.startswith(inside) or rest == path):
                    yield kind
        else:
            yield from (item.uses[0] if isinstance(item, Loop) else item).function.places


def snake(name: str) -> str:
    """A class name as a function is called: GPT2Block is gpt2_block.

    >>> snake("GPT2Block"), snake("BertSelfAttention"), snake("T5LayerFF")
    ('gpt2_block', 'bert_self_attention', 't5_layer_ff')
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z0-9])(?=[A-Z][a-z])", "_", name).lower().strip("_")
