"""Functions as text: what values are called, where a part begins, what is one statement."""

from __future__ import annotations

import ast
import builtins
import keyword
import operator
import re
from collections.abc import Iterable, Iterator
from typing import Any

from torch.fx import Node

from funcnet.program._authors import names_read, operands_read, parameter_name
from funcnet.program._inline import inlined, steps
from funcnet.program._program import Program, Statement, defined, is_value, names_in
from funcnet.program._source_calls import Function, Loop, Use
from funcnet.program._text import lines_of, text_of

OWN = frozenset({"params", "buffers", "rng", "path", "torch", "F", "fn", "math", "operator"})
TAKEN = frozenset({*keyword.kwlist, *dir(builtins), *OWN}) - {"input"}
FOREVER = 1 << 40
_OPERATORS: dict[Any, type[ast.operator]] = {
    operator.add: ast.Add,
    operator.iadd: ast.Add,
    operator.mul: ast.Mult,
    operator.sub: ast.Sub,
}


class Writer:
    """Writes one function of a program."""

    def __init__(self, program: Program, function: Function, taken: set[str]) -> None:
        self.program, self.function = program, function
        self.taken = TAKEN | taken
        self.names: dict[str, str] = {}
        self.holders: dict[str, str] = {}
        self.lines: list[str] = []
        self.indent = 4
        self.said: tuple[str, str] | None = None
        self.at = -1  # where arguments are named
        self.path: str = function.level.path
        self.last: dict[str, int] = {}
        self.later: dict[str, str] = {}
        self.reading: list[str] = []
        self.together: set[str] = set()  # what the statement at hand assigns and is named so far

    # --- names ---

    def spoken(self, name: str) -> str:
        """What a value or a place is called at this line."""
        if not is_value(name):
            return name
        if name in self.names:
            return self.names[name]
        kind, _, rest = name.partition(":")
        inside = f"{self.path}." if self.path else ""
        rest = rest[len(inside) :] if rest != self.path else ""
        if kind == "rng":
            return f"rng({self.path_text(rest)})"
        return kind + "".join(f'["{key}"]' for key in rest.split(".") if key)

    def path_text(self, rest: str) -> str:
        if not self.path:
            return f'"{rest}"'
        return f'f"{{path}}.{rest}"' if rest else "path"

    def argument(self, value: str) -> str:
        """Choose what an argument is called."""
        self.last[value] = 0
        known = self._parameter(value)
        if known is not None and known not in self.taken and known not in self.holders:
            self._hold(value, known)
            return known
        return self.name(value, beside=True)

    def _parameter(self, value: str) -> str | None:
        """What the forward of the module calls an argument."""
        tensors = [name for name in self.function.free if name.startswith("%") and name not in self.program.sizes]
        if value not in tensors or not self.path:
            return None
        traces = [
            self.program.trace(node)
            for item, reads in steps(self.function.items)
            if value in reads and (node := getattr(item, "node", None)) is not None
        ]
        module = self.program.module.get_submodule(self.path)
        others = [self.program.hints.get(name) for name in tensors if name != value]
        return parameter_name(module, self.program.hints.get(value), traces, others)

    def name(self, value: str, *, beside: bool = False) -> str:
        """Choose what a value is called from here on; ``beside`` what has a name now."""
        base = self._base(value)
        if base in ("l", "O", "I") or not base.isidentifier():
            base = f"{base}_" if base.isidentifier() else f"value_{base}"
        if not beside and not self._is_free(base):
            self._move_away(base)
        name, count = base, 1
        while not self._is_free(name, beside):
            count += 1
            name = f"{base}_{count}" if base[-1:] != "_" else f"{base}{count}"
        self._hold(value, name)
        return name

    def _base(self, value: str) -> str:
        if value.startswith("%new:"):
            rest = value[5:][len(self.path) :].strip(".")
            return re.sub(r"\W+", "_", rest) or "new_buffers"
        if ":" in value:  # a param from elsewhere, as an argument
            return re.sub(r"\W+", "_", value.rpartition(".")[2].rpartition(":")[2])
        if hint := self.program.hints.get(value):
            return hint
        made = self._carried_name() or self._operation(value)
        return re.sub(r"(_\d+)+$", "", re.sub(r"\W+", "_", made)).strip("_") or "value"

    def _carried_name(self) -> str | None:
        """The name of the first value that the statement at hand reads, if nobody reads it again."""
        for value in self.reading:
            if value in self.names and value.startswith("%") and value not in self.program.sizes:
                return self.names[value] if self.last.get(value, 0) <= self.at else None
        return None

    def _operation(self, value: str) -> str:
        node = self.program.nodes.get(value)
        return "value" if node is None else node.name

    def _hold(self, value: str, name: str) -> None:
        self.names[value] = name
        self.holders[name] = value

    def _is_free(self, name: str, beside: bool = False) -> bool:
        if name in self.taken and self.holders.get(name) is None:
            return False
        holder = self.holders.get(name)
        return holder is None or self.last.get(holder, -1) < self.at + (not beside)

    def _move_away(self, name: str) -> None:
        """Let the value that has a name be called as its later readers call it, as ``residual = x`` does."""
        holder = self.holders.get(name)
        if holder is None:
            return
        other = self._other_name(holder, name)
        if other is not None and other not in self.taken and self._is_free(other, beside=True):
            del self.holders[name]
            if holder in self.together:
                self._hold(holder, other)
                return
            self.lines.append(" " * self.indent + f"{other} = {name}")
            self.later[holder] = other  # the statement at hand still reads it by its old name
            self.holders[other] = holder

    def _other_name(self, value: str, name: str) -> str | None:
        """What the first reader of a value calls it, if not by this name."""
        node = self.program.nodes.get(value)
        for user, read in () if node is None else self._readers(node, set(self.program.nodes.values())):
            trace = self.program.trace(user)
            sides = operands_read(trace, _OPERATORS.get(user.target))
            for side, arg in zip(sides, user.args, strict=False):
                if arg is read and side not in (None, name) and side not in self.taken:
                    return side
            if sides or value not in self.program.stored:
                continue
            names = names_read(trace)
            if name in names:
                continue
            known = {self.program.hints.get(one) for one, owner in self.program.nodes.items() if owner in user.args}
            left = [one for one in names if one not in known and one not in self.taken]
            if len(left) == 1 and left[0].isidentifier():
                return left[0]
        return None

    def _readers(self, node: Node, written: set[Node]) -> Iterator[tuple[Node, Node]]:
        """The operations that read a value, and as what; through those that only pass it on."""
        for user in node.users:
            if user in written or user.op == "output":
                yield user, node
            else:
                yield from self._readers(user, written)

    # --- lines ---

    def line(self, head: str, value: ast.expr, tail: str = "") -> None:
        self.lines += lines_of(head, value, self.spoken, self.indent, tail)
        self.names.update(self.later)
        self.later.clear()

    def say(self, path: str, title: str) -> None:
        """A comment where another part begins."""
        if (path, title) == self.said:
            return
        relative = path[len(self.path) :].lstrip(".") if path.startswith(self.path) else path
        if self.said is not None or relative:
            text = f"{relative}: {title}" if relative else title
            self.lines.append(" " * self.indent + f"# {text}")
        self.said = (path, title)

    def body(self) -> list[str]:
        """The lines of the function behind its head."""
        items = inlined(self.program, self.function)
        self.last = {}
        for number, (_, reads) in enumerate(steps(items)):
            for name in reads:
                self.last[name] = number
        for name in [*self.function.outputs, *(one for value in self.function.new.values() for one in names_in(value))]:
            self.last[name] = FOREVER
        for size, (tensor, axis) in self.function.sizes.items():
            if size not in self.last:
                continue
            self.at = -1
            text = f"{self.spoken(tensor)}.shape[{axis}]"
            self.lines.append(" " * self.indent + f"{self.name(size)} = {text}")
        self.at = 0
        self.items(items)
        return self.lines

    def items(self, items: Iterable[Any]) -> None:
        for item in items:
            if isinstance(item, Use):
                self.use(item)
                self.at += 1
            elif isinstance(item, Loop):
                self.loop(item)
                self.at += 1
            else:
                self.statement(item)

    def statement(self, statement: Statement) -> None:
        code = statement.code
        title = statement.levels[-1] if statement.levels else None
        if title is not None and title.path.startswith(self.path):
            self.say(title.path, title.title)
        elif not self.program.sizes.keys() & set(defined(code)):
            self.say(self.path, self.function.level.title)
        if isinstance(code, ast.With):
            head = ", ".join(text_of(item.context_expr, self.spoken) for item in code.items)
            self.lines.append(" " * self.indent + f"with {head}:")
            self.at += 1
            self.indent += 4
            self.items(code.body)
            self.indent -= 4
            return
        if isinstance(code, ast.Assign):
            self._assign(code)
        elif isinstance(code, ast.AugAssign):
            shown = text_of(ast.BinOp(ast.Name("_"), code.op, ast.Name("_")), lambda name: name)
            self.line(f"{text_of(code.target, self.spoken)} {shown[2:-2]}= ", code.value)
        elif isinstance(code, ast.Expr):
            self.line("", code.value)
        self.at += 1

    def _assign(self, code: ast.Assign) -> None:
        target = code.targets[0]
        if isinstance(target, ast.Subscript):
            self.line(f"{text_of(target, self.spoken)} = ", code.value)
            return
        self.reading = list(names_in(code.value))
        parts = target.elts if isinstance(target, ast.Tuple) else [target]
        values = [part.id for part in parts if isinstance(part, ast.Name)]
        names = self.targets(values)
        if names == ["_"] and values[0] in self.program.sizes:
            return
        unread = names == ["_"] and isinstance(target, ast.Name)
        self.line("" if unread else f"{', '.join(names)} = ", code.value)

    def targets(self, values: list[str]) -> list[str]:
        """Choose what the values that one statement assigns are called."""
        self.together = set()
        for value in values:
            if value in self.last:
                self.name(value)
                self.together.add(value)
        self.together = set()
        return [self.names[value] if value in self.last else "_" for value in values]

    def use(self, use: Use) -> None:
        self.say(use.level.path, use.level.title)
        results = [*use.results, *([use.state] if use.state else [])]
        self.reading = use.given
        names = self.targets(results)
        call = self.call(use.function, use.given, use.level.path, None)
        self.line(f"{', '.join(names)} = " if names else "", call)

    def call(self, function: Function, given: list[str], path: str, number: tuple[str, str] | None) -> ast.Call:
        """The call of a function at a path; in a loop, ``number`` is what is in front of and behind the number."""
        args: list[ast.expr] = [
            self.place(kind, path, number) for kind in ("params", "buffers") if kind in function.places
        ]
        args += [ast.Name(name, ast.Load()) for name in given]
        if "rng" in function.places:
            args += [ast.Name("rng", ast.Load()), self.place("path", path, number)]
        return ast.Call(ast.Name(function.name, ast.Load()), args, [])

    def place(self, kind: str, path: str, number: tuple[str, str] | None) -> ast.expr:
        if number is not None:
            head = number[0][len(self.path) :].lstrip(".")
            keys: list[Any] = [
                *(head.split(".") if head else []),
                ast.Name("i"),
                *(number[1].split(".") if number[1] else []),
            ]
        else:
            rest = path[len(self.path) :].lstrip(".")
            keys = rest.split(".") if rest else []
        if kind == "path":
            parts = ["{path}"] if self.path else []
            parts += ["{i}" if isinstance(key, ast.Name) else key for key in keys]
            text = ".".join(parts)
            return ast.Name(f'f"{text}"' if "{" in text else f'"{text}"', ast.Load())
        texts = ["[str(i)]" if isinstance(key, ast.Name) else f'["{key}"]' for key in keys]
        return ast.Name(kind + "".join(texts), ast.Load())

    def loop(self, loop: Loop) -> None:
        first, final = loop.uses[0], loop.uses[-1]
        names: dict[int, str] = {}
        for position, result in loop.carried.items():
            if result in names:
                continue
            start = first.given[position]
            name = self.names.get(start)
            if name is None or self.last.get(start, -1) > self.at:
                self.at -= 1
                chosen = self.name(final.results[result])
                self.at += 1
                self.lines.append(" " * self.indent + f"{chosen} = {self.spoken(start)}")
                name = chosen
            names[result] = name
        count = len(loop.uses)
        shown = f"{first.level.path} to {final.level.path[len(self.path) :].lstrip('.')}"
        self.said = None
        self.say(shown, final.level.title)
        given = [
            names[loop.carried[position]] if position in loop.carried else self.spoken(value)
            for position, value in enumerate(first.given)
        ]
        for result, value in enumerate(final.results):
            if result in names:
                self._hold(value, names[result])
        targets = [
            names[result] if result in names else (self.name(value) if value in self.last else "_")
            for result, value in enumerate(final.results)
        ]
        if loop.state is not None:
            state = self.name(loop.state)
            self.lines.append(" " * self.indent + f"{state} = {{}}")
            targets.append(f"{state}[str(i)]")
        span = f"range({count})" if loop.start == 0 else f"range({loop.start}, {loop.start + count})"
        self.lines.append(" " * self.indent + f"for i in {span}:")
        self.indent += 4
        call = self.call(loop.uses[0].function, given, first.level.path, (loop.head, loop.tail))
        self.line(f"{', '.join(targets)} = " if targets else "", call)
        self.indent -= 4
        self.said = (shown, "")
