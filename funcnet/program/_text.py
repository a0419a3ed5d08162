"""Expressions and statements as formatted text: lines of at most 88 characters, broken as ruff and Black break them."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable

WIDTH = 88
_SYMBOLS: dict[type, tuple[str, int]] = {
    ast.BitOr: ("|", 6),
    ast.BitXor: ("^", 7),
    ast.BitAnd: ("&", 8),
    ast.LShift: ("<<", 9),
    ast.RShift: (">>", 9),
    ast.Add: ("+", 10),
    ast.Sub: ("-", 10),
    ast.Mult: ("*", 11),
    ast.Div: ("/", 11),
    ast.FloorDiv: ("//", 11),
    ast.Mod: ("%", 11),
    ast.MatMult: ("@", 11),
    ast.Pow: ("**", 14),
}
_COMPARE: dict[type, str] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Is: "is",
    ast.IsNot: "is not",
    ast.In: "in",
}
_UNARY: dict[type, str] = {ast.USub: "-", ast.UAdd: "+", ast.Invert: "~"}
_NAMED = 16  # how tightly an operand binds: a name, a call

Spoken = Callable[[str], str]


def text_of(node: ast.AST, spoken: Spoken) -> str:
    """An expression on one line; ``spoken`` says what names are called."""
    return _Flat(spoken).text(node)[0]


class _Flat:
    def __init__(self, spoken: Spoken) -> None:
        self.spoken = spoken

    def text(self, node: ast.AST) -> tuple[str, int]:
        """The text and how tightly it binds."""
        made: tuple[str, int] = getattr(self, f"of_{type(node).__name__}")(node)
        return made

    def plain(self, node: ast.AST) -> str:
        return self.text(node)[0]

    def at_least(self, node: ast.AST, level: int) -> str:
        text, found = self.text(node)
        return f"({text})" if found < level else text

    def of_Name(self, node: ast.Name) -> tuple[str, int]:  # noqa: N802
        return self.spoken(node.id), _NAMED

    def of_Constant(self, node: ast.Constant) -> tuple[str, int]:  # noqa: N802
        value = node.value
        if isinstance(value, str):
            plain = value.isprintable() and not set(value) & set('"\\')
            return (f'"{value}"' if plain else repr(value)), _NAMED
        if value is ...:
            return "...", _NAMED
        if isinstance(value, float):
            return repr(value).replace("e+", "e"), 12 if value < 0 else _NAMED
        return repr(value), (12 if isinstance(value, (int, float)) and repr(value).startswith("-") else _NAMED)

    def of_Attribute(self, node: ast.Attribute) -> tuple[str, int]:  # noqa: N802
        return f"{self.at_least(node.value, 15)}.{node.attr}", _NAMED

    def of_Call(self, node: ast.Call) -> tuple[str, int]:  # noqa: N802
        return f"{self.at_least(node.func, 15)}({', '.join(self.arguments(node))})", 15

    def arguments(self, node: ast.Call) -> list[str]:
        named = [
            f"{key.arg}={self.plain(key.value)}" if key.arg else f"**{self.plain(key.value)}" for key in node.keywords
        ]
        return [*map(self.plain, node.args), *named]

    def of_Starred(self, node: ast.Starred) -> tuple[str, int]:  # noqa: N802
        return f"*{self.plain(node.value)}", 0

    def of_Subscript(self, node: ast.Subscript) -> tuple[str, int]:  # noqa: N802
        return f"{self.at_least(node.value, 15)}[{self.index(node.slice)}]", 15

    def index(self, node: ast.expr) -> str:
        if isinstance(node, ast.Tuple) and node.elts:
            return ", ".join(map(self.index, node.elts)) + ("," if len(node.elts) == 1 else "")
        if isinstance(node, ast.Slice):
            parts = [node.lower, node.upper, *([node.step] if node.step else [])]
            simple = all(part is None or isinstance(part, (ast.Constant, ast.Name, ast.UnaryOp)) for part in parts)
            texts = ["" if part is None else self.plain(part) for part in parts]
            if simple:
                return ":".join(texts)
            first, *rest = texts
            return f"{first} :".lstrip() + " :".join(f" {text}".rstrip() for text in rest)
        return self.plain(node)

    def of_Tuple(self, node: ast.Tuple) -> tuple[str, int]:  # noqa: N802
        items = ", ".join(map(self.plain, node.elts))
        return f"({items}{',' if len(node.elts) == 1 else ''})", _NAMED

    def of_List(self, node: ast.List) -> tuple[str, int]:  # noqa: N802
        return f"[{', '.join(map(self.plain, node.elts))}]", _NAMED

    def of_Set(self, node: ast.Set) -> tuple[str, int]:  # noqa: N802
        return f"{{{', '.join(map(self.plain, node.elts))}}}", _NAMED

    def of_Dict(self, node: ast.Dict) -> tuple[str, int]:  # noqa: N802
        return f"{{{', '.join(self.pair(*pair) for pair in zip(node.keys, node.values, strict=True))}}}", _NAMED

    def pair(self, key: ast.expr | None, value: ast.expr) -> str:
        return f"**{self.plain(value)}" if key is None else f"{self.plain(key)}: {self.plain(value)}"

    def of_BinOp(self, node: ast.BinOp) -> tuple[str, int]:  # noqa: N802
        symbol, level = _SYMBOLS[type(node.op)]
        if isinstance(node.op, ast.Pow):
            left, right = self.at_least(node.left, level + 1), self.at_least(node.right, 12)
            simple = _simple(node.left) and _simple(node.right)
            return (f"{left}**{right}" if simple else f"{left} ** {right}"), level
        return f"{self.at_least(node.left, level)} {symbol} {self.at_least(node.right, level + 1)}", level

    def of_UnaryOp(self, node: ast.UnaryOp) -> tuple[str, int]:  # noqa: N802
        if isinstance(node.op, ast.Not):
            return f"not {self.at_least(node.operand, 4)}", 4
        return f"{_UNARY[type(node.op)]}{self.at_least(node.operand, 12)}", 12

    def of_Compare(self, node: ast.Compare) -> tuple[str, int]:  # noqa: N802
        text = self.at_least(node.left, 6)
        for symbol, right in zip(node.ops, node.comparators, strict=True):
            text += f" {_COMPARE[type(symbol)]} {self.at_least(right, 6)}"
        return text, 5

    def of_IfExp(self, node: ast.IfExp) -> tuple[str, int]:  # noqa: N802
        parts = (self.at_least(part, 2) for part in (node.body, node.test, node.orelse))
        return "{} if {} else {}".format(*parts), 1

    def of_JoinedStr(self, node: ast.JoinedStr) -> tuple[str, int]:  # noqa: N802
        parts = [
            part.value if isinstance(part, ast.Constant) else f"{{{self.plain(part.value)}}}"  # type: ignore
            for part in node.values
        ]
        return f'f"{"".join(map(str, parts))}"', _NAMED


def _simple(node: ast.expr) -> bool:
    if isinstance(node, ast.UnaryOp):
        return _simple(node.operand)
    if isinstance(node, ast.Attribute):
        return _simple(node.value)
    return isinstance(node, ast.Name) or (isinstance(node, ast.Constant) and not isinstance(node.value, str))


# --- lines ---


def lines_of(head: str, node: ast.expr, spoken: Spoken, indent: int, tail: str = "") -> list[str]:
    """``head`` and an expression, broken over lines where it is too long for one."""
    flat = _Flat(spoken)
    return [" " * indent + line for line in _broken(head, node, flat, indent, tail)]


def _broken(head: str, node: ast.AST, flat: _Flat, indent: int, tail: str) -> list[str]:
    """Lines without the indent they all have."""
    whole = f"{head}{flat.plain(node)}{tail}"
    if len(whole) + indent <= WIDTH:
        return [whole]
    room = WIDTH - indent - 4
    if isinstance(node, ast.Call) and (node.args or node.keywords):
        parts = flat.arguments(node)
        start = f"{head}{flat.at_least(node.func, 15)}("
        inside = ", ".join(parts)
        if len(start) + indent > WIDTH and isinstance(node.func, ast.Attribute):
            return _broken(head, node.func.value, flat, indent, f".{node.func.attr}({inside}){tail}")
        if len(inside) <= room:
            return [start, f"    {inside}", f"){tail}"]
        lines = [start]
        for part in [*node.args, *node.keywords]:
            value = part.value if isinstance(part, ast.keyword) else part
            key = (f"{part.arg}=" if part.arg else "**") if isinstance(part, ast.keyword) else ""
            lines += [f"    {line}" for line in _broken(key, value, flat, indent + 4, ",")]
        return [*lines, f"){tail}"]
    if isinstance(node, ast.Dict) and node.keys:
        lines = [f"{head}{{"]
        for name, value in zip(node.keys, node.values, strict=True):
            key = "**" if name is None else f"{flat.plain(name)}: "
            lines += [f"    {line}" for line in _broken(key, value, flat, indent + 4, ",")]
        return [*lines, f"}}{tail}"]
    if isinstance(node, (ast.Tuple, ast.List)) and node.elts:
        left, right = ("(", ")") if isinstance(node, ast.Tuple) else ("[", "]")
        lines = [f"{head}{left}"]
        for item in node.elts:
            lines += [f"    {line}" for line in _broken("", item, flat, indent + 4, ",")]
        return [*lines, f"{right}{tail}"]
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Call):
        return _broken(head, node.value, flat, indent, f"[{flat.index(node.slice)}]{tail}")
    if isinstance(node, (ast.BinOp, ast.Compare)) and head.endswith(("= ", "return ")):
        inside = flat.plain(node)
        if len(inside) <= room:
            return [f"{head}(", f"    {inside}", f"){tail}"]
        if isinstance(node, ast.BinOp):
            symbol, level = _SYMBOLS[type(node.op)]
            left, right = flat.at_least(node.left, level), flat.at_least(node.right, level + 1)
            return [f"{head}(", f"    {left}", f"    {symbol} {right}", f"){tail}"]
    base, keys = _subscripts(node, flat)
    if keys:
        return _broken_in_brackets(f"{head}{base}", keys, flat, indent, tail)
    return [whole]


def _subscripts(node: ast.AST, flat: _Flat) -> tuple[str, list[list[str]]]:
    """What is in front of the brackets that an expression ends with, and the parts in each of them."""
    if isinstance(node, ast.Name):
        text = flat.plain(node)
        keys = re.findall(r"\[[^\[\]]*\]", text[(end := _FRONT.match(text).end()) :])  # type: ignore[union-attr]
        return text[:end], [[key[1:-1]] for key in keys]
    if isinstance(node, ast.Subscript) and isinstance(node.value, (ast.Name, ast.Subscript)):
        base, found = _subscripts(node.value, flat)
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) and node.slice.elts else [node.slice]
        return base, [*found, [flat.index(part) for part in parts]]
    return flat.plain(node), []


_FRONT = re.compile(r".*?(?=(\[[^\[\]]*\])*$)")


def _broken_in_brackets(text: str, keys: list[list[str]], flat: _Flat, indent: int, tail: str) -> list[str]:
    """Break the first bracket behind which the line would be too long, and go on from its end."""
    lines = []
    for at, parts in enumerate(keys):
        inside = ", ".join(parts)
        more = f"[{inside}]" + ("[" if at + 1 < len(keys) else tail)
        if len(text) + len(more) + indent <= WIDTH:
            text += f"[{inside}]"
            continue
        lines.append(f"{text}[")
        fits = len(inside) + indent + 4 <= WIDTH
        lines += [f"    {inside}"] if fits else [f"    {part}," for part in parts]
        text = "]"
    return [*lines, f"{text}{tail}"]
