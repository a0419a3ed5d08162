"""Programs as HTML: words of Python in their colours, and parts of the model as links to their rows."""

from __future__ import annotations

import ast
import io
import keyword
import token
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from markupsafe import Markup, escape

Place = tuple[int, int]


class Link(NamedTuple):
    """Where a program speaks of a part: from, to, the path, and whether that is relative to some block."""

    start: Place
    end: Place
    path: str
    relative: bool


@dataclass(frozen=True)
class Names:
    """What a program may speak of: paths of parts with their classes, and paths of tensors."""

    parts: Mapping[str, str]
    tensors: frozenset[str]
    root: str

    def known(self, path: str, relative: bool) -> bool:
        """Whether this is a part or a tensor; of some block, if ``relative``."""
        if not relative:
            return path in self.parts or path in self.tensors
        inside = f".{path}."
        return any(inside in f".{known}." for known in (*self.parts, *self.tensors))


def marked(code: str, names: Names, rows: Mapping[str, str]) -> Markup:
    """A program with links.

    Args:
        code: Python; other text comes out plain.
        names: what it may speak of.
        rows: the id of the row of the params tree for each path that has one.

    >>> names = Names({"fc": "Linear"}, frozenset({"fc.weight"}), "Net")
    >>> print(marked("y = self.fc(x)", names, {"fc": "r0"}))
    y <span class="o">=</span> <a class="part" href="#r0" data-path="fc" title="fc: Linear">self.fc</a>(x)
    """
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(code).readline))
        links = sorted(_links(code, tokens, names))
    except (tokenize.TokenError, SyntaxError, IndentationError):
        return escape(code)
    return Markup("").join(_pieces(code.splitlines(keepends=True), tokens, links, names, rows))


def _links(code: str, tokens: list[tokenize.TokenInfo], names: Names) -> Iterator[Link]:
    seen: list[Link] = []
    inside, column = "", 0
    for index, one in enumerate(tokens):
        if one.type != token.NAME:
            continue
        if one.string in ("class", "def") and (one.start[1] == 0 or (one.string == "class" and one.start[1] <= column)):
            inside, column = tokens[index + 1].string, one.start[1]
        before = tokens[index - 1].string if index else ""
        if before == ".":
            continue
        if one.string in ("self", "p"):
            relative = one.string == "self" and inside not in ("", names.root)
            found = _dotted(tokens, index, names, relative)
        elif one.string.endswith(("params", "buffers")):
            found = _indexed(tokens, index, names, relative=inside not in ("", "forward"))
        elif tokens[index + 1].string == "=" and before in ("(", ",") and one.string in names.parts:
            found = Link(one.start, one.end, one.string, False)
        else:
            found = None
        if found:
            seen.append(found)
    yield from seen
    yield from _positional(code, names)


def _dotted(tokens: list[tokenize.TokenInfo], index: int, names: Names, relative: bool) -> Link | None:
    """``self.a.b`` as far as it names a part or a tensor."""
    keys: list[str] = []
    best: Link | None = None
    at = index + 1
    while tokens[at].string == "." and tokens[at + 1].type == token.NAME:
        keys.append(tokens[at + 1].string)
        path = ".".join(keys)
        if names.known(path, relative):
            best = Link(tokens[index].start, tokens[at + 1].end, path, relative)
        at += 2
    return best


def _indexed(tokens: list[tokenize.TokenInfo], index: int, names: Names, relative: bool) -> Link | None:
    """``params["a"]["b"]`` as far as the keys are written out and name a part or a tensor."""
    keys: list[str] = []
    best: Link | None = None
    at = index + 1
    while tokens[at].string == "[" and tokens[at + 1].type in (token.STRING, token.NUMBER):
        keys.append(str(ast.literal_eval(tokens[at + 1].string)))
        path = ".".join(keys)
        if tokens[at + 2].string != "]":
            break
        if names.known(path, relative):
            best = Link(tokens[index].start, tokens[at + 2].end, path, relative)
        at += 3
    return best


def _positional(code: str, names: Names) -> Iterator[Link]:
    """The layers given one after the other to ``self.x = nn.Sequential(...)`` or ``x=fn.Sequential(...)``."""
    lines = code.splitlines()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
            name, call = node.targets[0].attr, node.value
        elif isinstance(node, ast.keyword) and node.arg:
            name, call = node.arg, node.value
        else:
            continue
        if not isinstance(call, ast.Call) or not ast.unparse(call.func).endswith(("Sequential", "ModuleList")):
            continue
        for number, layer in enumerate(call.args):
            path = f"{name}.{number}"
            if isinstance(layer, ast.Call) and path in names.parts:
                head = layer.func
                start, end = (_column(lines, head.lineno, head.col_offset), (head.end_lineno, head.end_col_offset))
                yield Link((head.lineno, start), (end[0] or 0, _column(lines, end[0] or 0, end[1] or 0)), path, False)
            elif isinstance(layer, ast.Starred):
                break


def _column(lines: list[str], line: int, offset: int) -> int:
    """Ast counts bytes, tokenize counts characters."""
    return len(lines[line - 1].encode()[:offset].decode())


def _pieces(
    lines: list[str],
    tokens: list[tokenize.TokenInfo],
    links: list[Link],
    names: Names,
    rows: Mapping[str, str],
) -> Iterator[Markup]:
    place: Place = (1, 0)
    waiting = list(links)
    ends: Place | None = None
    for one in tokens:
        if one.type in (token.INDENT, token.DEDENT, token.ENDMARKER, token.NEWLINE, tokenize.NL):
            continue
        if ends and one.start >= ends:
            yield Markup("</a>")
            ends = None
        yield escape(_between(lines, place, one.start))
        while waiting and waiting[0].start < one.start:
            waiting.pop(0)
        if waiting and waiting[0].start == one.start and ends is None:
            link = waiting.pop(0)
            yield _opening(link, names, rows)
            ends = link.end
        yield _coloured(one, ends is not None)
        place = one.end
    if ends:
        yield Markup("</a>")
    yield escape(_between(lines, place, (len(lines) + 1, 0)).rstrip())


def _opening(link: Link, names: Names, rows: Mapping[str, str]) -> Markup:
    owner = names.parts.get(link.path) or ("part of a repeated block" if link.relative else "tensor")
    row = rows.get(link.path)
    href = Markup(' href="#{}"').format(row) if row else Markup(' tabindex="0"')
    relative = Markup(" data-relative") if link.relative else Markup("")
    return Markup('<a class="part"{} data-path="{}"{} title="{}: {}">').format(
        href, link.path, relative, link.path, owner
    )


def _between(lines: list[str], start: Place, end: Place) -> str:
    if start[0] == end[0]:
        return lines[start[0] - 1][start[1] : end[1]] if start[0] <= len(lines) else ""
    parts = [lines[start[0] - 1][start[1] :] if start[0] <= len(lines) else ""]
    parts += lines[start[0] : end[0] - 1]
    if end[0] <= len(lines):
        parts.append(lines[end[0] - 1][: end[1]])
    return "".join(parts)


def _coloured(one: tokenize.TokenInfo, linked: bool) -> Markup:
    kind = ""
    if one.type == token.COMMENT:
        kind = "c"
    elif one.type == token.STRING or token.tok_name[one.type].startswith("FSTRING"):
        kind = "s"
    elif one.type == token.NUMBER:
        kind = "n"
    elif one.type == token.NAME and keyword.iskeyword(one.string):
        kind = "k"
    elif one.type == token.OP and one.string in ("=", "+", "-", "*", "/", "@", "->", "**", "%", "==", "<", ">"):
        kind = "o"
    if not kind or (linked and kind != "s"):
        return escape(one.string)
    return Markup('<span class="{}">{}</span>').format(kind, one.string)
