"""Calls of modules, and the functions, calls and loops that are made of them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from funcnet.program._program import Level, Program, Statement


@dataclass
class Call:
    """One call of a module: its statements, and the calls of modules within."""

    level: Level
    items: list[Statement | Call] = field(default_factory=list)
    text: str = ""
    free: list[str] = field(default_factory=list)  # what it reads that is from outside, first read first
    made: list[str] = field(default_factory=list)  # what it assigns, in order

    def statements(self) -> Iterator[Statement]:
        for item in self.items:
            if isinstance(item, Call):
                yield from item.statements()
            else:
                yield item


@dataclass
class Function:
    """A function made of a call. ``outputs`` are values of ``items``; ``new`` the paths of the buffers it makes new."""

    name: str
    level: Level
    free: list[str]
    outputs: list[str]
    items: list[Any] = field(default_factory=list)
    new: dict[str, ast.expr] = field(default_factory=dict)
    sizes: dict[str, tuple[str, int]] = field(default_factory=dict)  # a size -> the argument and axis that has it
    places: frozenset[str] = frozenset()  # "params", "buffers", "rng": what it needs of those below its path


@dataclass
class Use:
    """A call of a function in another one. ``state`` is what its new buffers are called."""

    function: Function
    level: Level
    given: list[str]
    results: list[str]
    state: str | None = None


@dataclass
class Loop:
    """Calls of one function in a row, at paths that differ in one number."""

    uses: list[Use]
    head: str  # the path in front of the number
    tail: str  # and behind it
    start: int
    carried: dict[int, int]  # position of an argument -> of the result of the call before
    state: str | None = None


def call_tree(program: Program) -> Call:
    """The statements of a program, by the calls of modules they come from."""
    root = Call(Level("", "", program.title))
    open_calls = [root]
    for statement in program.statements:
        levels = statement.levels
        shared = 0
        while shared < min(len(levels), len(open_calls) - 1) and open_calls[shared + 1].level == levels[shared]:
            shared += 1
        del open_calls[shared + 1 :]
        for level in levels[shared:]:
            call = Call(level)
            open_calls[-1].items.append(call)
            open_calls.append(call)
        open_calls[-1].items.append(statement)
    return root


def elsewhere(root: Call) -> Iterator[Call]:
    """Calls made by a part that they are not below, as of a module that another one holds: its path leads nowhere."""

    def visit(call: Call, above: tuple[str, ...]) -> Iterator[Call]:
        for item in call.items:
            if isinstance(item, Call):
                path = item.level.path
                if not all(path.startswith(f"{one}.") for one in above if one != path):
                    yield item
                yield from visit(item, (*above, path))

    yield from visit(root, ())
