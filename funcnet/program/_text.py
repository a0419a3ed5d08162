"""Expressions as formatted text: lines of at most 88 characters, broken as ruff and Black break them."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable

WIDTH = 88
UNLIMITED = 1 << 30
"""The width of text that is never broken."""

_LEVELS = """BitOr | 6, BitXor ^ 7, BitAnd & 8, LShift << 9, RShift >> 9, Add + 10, Sub - 10, Mult * 11, Div / 11,
FloorDiv // 11, Mod % 11, MatMult @ 11, Pow ** 14"""
_BINARY = {
    getattr(ast, kind): (symbol, int(level)) for kind, symbol, level in (row.split() for row in _LEVELS.split(","))
}
"""Operator -> its symbol, and how tightly it binds."""
_COMPARE = {"Eq": "==", "NotEq": "!=", "Lt": "<", "LtE": "<=", "Gt": ">", "GtE": ">=", "Is": "is"}
_UNARY: dict[type[ast.AST], str] = {ast.USub: "-", ast.UAdd: "+", ast.Invert: "~"}
_CALL, _ATOM, _SIGN = 15, 16, 12  # how tightly a call, a name and a sign bind

Spell = Callable[[str], str]
"""Says how a name is spelled in a text."""


def text_of(node: ast.AST, spell: Spell = str) -> str:
    """An expression on one line.

    >>> text_of(ast.parse("f(x, [1, 2]) ** 2", mode="eval").body, str.upper)
    'F(X, [1, 2]) ** 2'
    """
    return _OneLine(spell).text(node)


def symbol_of(operator: ast.operator) -> str:
    """The symbol of a binary operator."""
    return _BINARY[type(operator)][0]


class _OneLine:
    """Writes expressions on one line; each method returns the text, and how tightly it binds."""

    def __init__(self, spell: Spell) -> None:
        self.spell = spell

    def text(self, node: ast.AST) -> str:
        return self.bound_text(node)[0]

    def bound_text(self, node: ast.AST) -> tuple[str, int]:
        result: tuple[str, int] = getattr(self, f"of_{type(node).__name__}")(node)
        return result

    def in_parentheses(self, node: ast.AST, level: int) -> str:
        """The text, in parentheses if it binds less tightly than a level."""
        text, binding = self.bound_text(node)
        return f"({text})" if binding < level else text

    def of_Name(self, node: ast.Name) -> tuple[str, int]:  # noqa: N802
        return self.spell(node.id), _ATOM

    def of_Constant(self, node: ast.Constant) -> tuple[str, int]:  # noqa: N802
        value = node.value
        if isinstance(value, str):
            is_plain = value.isprintable() and not set(value) & set('"\\')
            return (f'"{value}"' if is_plain else repr(value)), _ATOM
        if value is ...:
            return "...", _ATOM
        text = repr(value).replace("e+", "e") if isinstance(value, float) else repr(value)
        return text, _SIGN if isinstance(value, (int, float)) and text.startswith("-") else _ATOM

    def of_Attribute(self, node: ast.Attribute) -> tuple[str, int]:  # noqa: N802
        return f"{self.in_parentheses(node.value, _CALL)}.{node.attr}", _ATOM

    def of_Call(self, node: ast.Call) -> tuple[str, int]:  # noqa: N802
        return f"{self.in_parentheses(node.func, _CALL)}({', '.join(self.arguments(node))})", _CALL

    def arguments(self, node: ast.Call) -> list[str]:
        if len(node.args) == 1 and not node.keywords and isinstance(node.args[0], ast.GeneratorExp):
            return [self.text(node.args[0])[1:-1]]
        named = [f"{f'{key.arg}=' if key.arg else '**'}{self.text(key.value)}" for key in node.keywords]
        return [*map(self.text, node.args), *named]

    def of_Starred(self, node: ast.Starred) -> tuple[str, int]:  # noqa: N802
        return f"*{self.text(node.value)}", 0

    def of_GeneratorExp(self, node: ast.GeneratorExp) -> tuple[str, int]:  # noqa: N802
        loop = node.generators[0]
        return f"({self.text(node.elt)} for {self.text(loop.target)} in {self.text(loop.iter)})", _ATOM

    def of_Subscript(self, node: ast.Subscript) -> tuple[str, int]:  # noqa: N802
        return f"{self.in_parentheses(node.value, _CALL)}[{self.index(node.slice)}]", _CALL

    def index(self, node: ast.expr) -> str:
        if isinstance(node, ast.Tuple) and node.elts:
            return ", ".join(map(self.index, node.elts)) + ("," if len(node.elts) == 1 else "")
        if isinstance(node, ast.Slice):
            parts = [node.lower, node.upper, *([node.step] if node.step else [])]
            texts = ["" if part is None else self.text(part) for part in parts]
            if all(part is None or isinstance(part, (ast.Constant, ast.Name, ast.UnaryOp)) for part in parts):
                return ":".join(texts)
            first, *later = texts
            return f"{first} :".lstrip() + " :".join(f" {text}".rstrip() for text in later)
        return self.text(node)

    def of_Tuple(self, node: ast.Tuple) -> tuple[str, int]:  # noqa: N802
        items = ", ".join(map(self.text, node.elts))
        return f"({items}{',' if len(node.elts) == 1 else ''})", _ATOM

    def of_List(self, node: ast.List) -> tuple[str, int]:  # noqa: N802
        return f"[{', '.join(map(self.text, node.elts))}]", _ATOM

    def of_Dict(self, node: ast.Dict) -> tuple[str, int]:  # noqa: N802
        pairs = (f"{self.key(key)}{self.text(value)}" for key, value in zip(node.keys, node.values, strict=True))
        return f"{{{', '.join(pairs)}}}", _ATOM

    def key(self, key: ast.expr | None) -> str:
        return "**" if key is None else f"{self.text(key)}: "

    def of_BinOp(self, node: ast.BinOp) -> tuple[str, int]:  # noqa: N802
        symbol, level = _BINARY[type(node.op)]
        left, right = self.operands(node)
        if isinstance(node.op, ast.Pow) and _is_simple(node.left) and _is_simple(node.right):
            return f"{left}**{right}", level
        return f"{left} {symbol} {right}", level

    def operands(self, node: ast.BinOp) -> tuple[str, str]:
        level = _BINARY[type(node.op)][1]
        if isinstance(node.op, ast.Pow):
            return self.in_parentheses(node.left, level + 1), self.in_parentheses(node.right, _SIGN)
        return self.in_parentheses(node.left, level), self.in_parentheses(node.right, level + 1)

    def of_UnaryOp(self, node: ast.UnaryOp) -> tuple[str, int]:  # noqa: N802
        if isinstance(node.op, ast.Not):
            return f"not {self.in_parentheses(node.operand, 4)}", 4
        return f"{_UNARY[type(node.op)]}{self.in_parentheses(node.operand, _SIGN)}", _SIGN

    def of_Compare(self, node: ast.Compare) -> tuple[str, int]:  # noqa: N802
        text = self.in_parentheses(node.left, 6)
        for operator, right in zip(node.ops, node.comparators, strict=True):
            text += f" {_COMPARE[type(operator).__name__]} {self.in_parentheses(right, 6)}"
        return text, 5

    def of_IfExp(self, node: ast.IfExp) -> tuple[str, int]:  # noqa: N802
        body, test, other = (self.in_parentheses(part, 2) for part in (node.body, node.test, node.orelse))
        return f"{body} if {test} else {other}", 1


def _is_simple(node: ast.expr) -> bool:
    """Whether an operand of ``**`` is written without spaces around the operator."""
    if isinstance(node, ast.UnaryOp):
        return _is_simple(node.operand)
    if isinstance(node, ast.Attribute):
        return _is_simple(node.value)
    return isinstance(node, ast.Name) or (isinstance(node, ast.Constant) and not isinstance(node.value, str))


def lines_of(
    head: str, node: ast.expr, spell: Spell = str, indent: int = 0, tail: str = "", width: int = WIDTH
) -> list[str]:
    """``head`` and an expression, broken over lines where it is too long for one."""
    lines = _Breaker(spell, width).lines(head, node, indent, tail)
    return [" " * indent + line for line in lines]


class _Breaker:
    """Breaks expressions over lines; its methods leave out the indent that all lines have."""

    def __init__(self, spell: Spell, width: int) -> None:
        self.flat, self.width = _OneLine(spell), width

    def lines(self, head: str, node: ast.AST, indent: int, tail: str) -> list[str]:
        flat = self.flat
        one_line = f"{head}{flat.text(node)}{tail}"
        if len(one_line) + indent <= self.width:
            return [one_line]
        if isinstance(node, ast.Call) and (node.args or node.keywords):
            return self._call_lines(head, node, indent, tail)
        if isinstance(node, ast.Dict) and node.keys:
            pairs = zip(node.keys, node.values, strict=True)
            return [
                f"{head}{{",
                *self._item_lines([(flat.key(key), value) for key, value in pairs], indent),
                f"}}{tail}",
            ]
        if isinstance(node, (ast.Tuple, ast.List)) and node.elts:
            left, right = "()" if isinstance(node, ast.Tuple) else "[]"
            return [f"{head}{left}", *self._item_lines([("", item) for item in node.elts], indent), f"{right}{tail}"]
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Call):
            return self.lines(head, node.value, indent, f"[{flat.index(node.slice)}]{tail}")
        if isinstance(node, (ast.BinOp, ast.Compare)) and head.endswith(("= ", "return ")):
            inside = flat.text(node)
            if len(inside) <= self.width - indent - 4:
                return [f"{head}(", f"    {inside}", f"){tail}"]
            if isinstance(node, ast.BinOp):
                left, right = flat.operands(node)
                return [f"{head}(", f"    {left}", f"    {symbol_of(node.op)} {right}", f"){tail}"]
        base, keys = self._split_brackets(node)
        return self._bracket_lines(f"{head}{base}", keys, indent, tail) if keys else [one_line]

    def _call_lines(self, head: str, node: ast.Call, indent: int, tail: str) -> list[str]:
        start = f"{head}{self.flat.in_parentheses(node.func, _CALL)}("
        inside = ", ".join(self.flat.arguments(node))
        if len(start) + indent > self.width and isinstance(node.func, ast.Attribute):
            return self.lines(head, node.func.value, indent, f".{node.func.attr}({inside}){tail}")
        if len(inside) <= self.width - indent - 4:
            return [start, f"    {inside}", f"){tail}"]
        items = [("", arg) for arg in node.args]
        items += [(f"{key.arg}=" if key.arg else "**", key.value) for key in node.keywords]
        return [start, *self._item_lines(items, indent), f"){tail}"]

    def _item_lines(self, items: list[tuple[str, ast.expr]], indent: int) -> list[str]:
        """One item on each line, or on several where it is long itself."""
        return [f"    {line}" for head, value in items for line in self.lines(head, value, indent + 4, ",")]

    def _split_brackets(self, node: ast.AST) -> tuple[str, list[list[str]]]:
        """The text in front of the brackets that an expression ends with, and the parts in each of them."""
        if isinstance(node, ast.Name):
            text = self.flat.text(node)
            end = _FRONT.match(text).end()  # type: ignore[union-attr]  # it matches any text
            return text[:end], [[key[1:-1]] for key in re.findall(r"\[[^\[\]]*\]", text[end:])]
        if isinstance(node, ast.Subscript) and isinstance(node.value, (ast.Name, ast.Subscript)):
            base, keys = self._split_brackets(node.value)
            parts = node.slice.elts if isinstance(node.slice, ast.Tuple) and node.slice.elts else [node.slice]
            return base, [*keys, [self.flat.index(part) for part in parts]]
        return self.flat.text(node), []

    def _bracket_lines(self, text: str, keys: list[list[str]], indent: int, tail: str) -> list[str]:
        """Break the first bracket after which the line would be too long, and continue from its end."""
        lines: list[str] = []
        for index, parts in enumerate(keys):
            inside = ", ".join(parts)
            following = f"[{inside}]" + ("[" if index + 1 < len(keys) else tail)
            if len(text) + len(following) + indent <= self.width:
                text += f"[{inside}]"
                continue
            lines.append(f"{text}[")
            fits = len(inside) + indent + 4 <= self.width
            lines += [f"    {inside}"] if fits else [f"    {part}," for part in parts]
            text = "]"
        return [*lines, f"{text}{tail}"]


_FRONT = re.compile(r".*?(?=(\[[^\[\]]*\])*$)")
