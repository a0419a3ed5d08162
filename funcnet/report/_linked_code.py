"""Programs as HTML: Python in colours, where names of parts of the model link to their rows in the params tree."""

from __future__ import annotations

import ast
import io
import keyword
import token
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from tokenize import TokenInfo
from typing import NamedTuple

from markupsafe import Markup, escape

Position = tuple[int, int]
"""A line number, counted from 1, and a column, counted from 0."""


class PartLink(NamedTuple):
    """A piece of a program that names a part or a tensor of the model.

    The path is relative if it starts at some block, and not at the root of the model.
    """

    start: Position
    end: Position
    path: str
    is_relative: bool


@dataclass(frozen=True)
class KnownPaths:
    """What a program may name: the paths of parts with their classes, the paths of tensors, and the root's class."""

    parts: Mapping[str, str]
    tensors: frozenset[str]
    root_class: str

    def includes(self, path: str, is_relative: bool) -> bool:
        """Whether a path is that of a part or tensor; a relative path may start at any block."""
        if not is_relative:
            return path in self.parts or path in self.tensors
        return any(f".{path}." in f".{known}." for known in (*self.parts, *self.tensors))


def link_parts(code: str, known: KnownPaths, row_ids: Mapping[str, str]) -> Markup:
    """A program as HTML, with a link at every part and tensor that it names.

    Args:
        code: Python; text that is not Python is returned without links and colours.
        known: what the program may name.
        row_ids: the id of the row in the params tree, for each path that has one.

    >>> known = KnownPaths({"fc": "Linear"}, frozenset({"fc.weight"}), "Net")
    >>> print(link_parts("y = self.fc(x)", known, {"fc": "r0"}))
    y <span class="o">=</span> <a class="part" href="#r0" data-path="fc" title="fc: Linear">self.fc</a>(x)
    """
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(code).readline))
        links = sorted([*_find_links(tokens, known), *_find_sequential_links(code, known)])
    except (tokenize.TokenError, SyntaxError, IndentationError):
        return escape(code)
    return _LinkedCodeWriter(code, known, row_ids).write(tokens, links)


# --- finding links ---


def _find_links(tokens: list[TokenInfo], known: KnownPaths) -> Iterator[PartLink]:
    """The links at attributes of ``self`` and ``p``, at keys of params, and at keyword arguments named like a part."""
    scope, scope_column = "", 0  # the class or function at module level, or the class within it, that a token is in
    for index, current in enumerate(tokens):
        if current.type != token.NAME:
            continue
        text, (_, column) = current.string, current.start
        if (text in ("class", "def") and column == 0) or (text == "class" and column <= scope_column):
            scope, scope_column = tokens[index + 1].string, column
        previous = tokens[index - 1].string if index else ""
        if previous == ".":
            continue
        link = None
        if text in ("self", "p"):
            is_relative = text == "self" and scope not in ("", known.root_class)
            link = _find_attribute_link(tokens, index, known, is_relative)
        elif text.endswith(("params", "buffers")):
            link = _find_key_link(tokens, index, known, is_relative=scope not in ("", "forward"))
        elif tokens[index + 1].string == "=" and previous in ("(", ",") and text in known.parts:
            link = PartLink(current.start, current.end, text, False)
        if link:
            yield link


def _find_attribute_link(tokens: list[TokenInfo], index: int, known: KnownPaths, is_relative: bool) -> PartLink | None:
    """The link at ``self.a.b``, which ends with the last attribute that names a part or a tensor."""
    keys: list[str] = []
    link: PartLink | None = None
    position = index + 1
    while tokens[position].string == "." and tokens[position + 1].type == token.NAME:
        keys.append(tokens[position + 1].string)
        path = ".".join(keys)
        if known.includes(path, is_relative):
            link = PartLink(tokens[index].start, tokens[position + 1].end, path, is_relative)
        position += 2
    return link


def _find_key_link(tokens: list[TokenInfo], index: int, known: KnownPaths, is_relative: bool) -> PartLink | None:
    """The link at ``params["a"]["b"]``, which ends with the last literal key that names a part or a tensor."""
    keys: list[str] = []
    link: PartLink | None = None
    position = index + 1
    while tokens[position].string == "[" and tokens[position + 1].type in (token.STRING, token.NUMBER):
        keys.append(str(ast.literal_eval(tokens[position + 1].string)))
        path = ".".join(keys)
        if tokens[position + 2].string != "]":
            break
        if known.includes(path, is_relative):
            link = PartLink(tokens[index].start, tokens[position + 2].end, path, is_relative)
        position += 3
    return link


def _find_sequential_links(code: str, known: KnownPaths) -> Iterator[PartLink]:
    """The links at the layers in ``self.x = nn.Sequential(...)`` and ``x=fn.Sequential(...)``, which have numbers."""
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
            if isinstance(layer, ast.Starred):
                break  # the layers after it have unknown numbers
            path = f"{name}.{number}"
            if isinstance(layer, ast.Call) and path in known.parts:
                yield PartLink(*_node_range(layer.func, lines), path, False)


def _node_range(node: ast.expr, lines: list[str]) -> tuple[Position, Position]:
    """Where an expression starts and ends. The syntax tree counts columns in bytes, and tokens count characters."""

    def to_position(line: int, byte_offset: int) -> Position:
        return line, len(lines[line - 1].encode()[:byte_offset].decode())

    return to_position(node.lineno, node.col_offset), to_position(node.end_lineno or 0, node.end_col_offset or 0)


# --- writing HTML ---

_UNPRINTED = (token.INDENT, token.DEDENT, token.ENDMARKER, token.NEWLINE, tokenize.NL)
_OPERATORS = ("=", "+", "-", "*", "/", "@", "->", "**", "%", "==", "<", ">")


class _LinkedCodeWriter:
    """Writes one program as HTML."""

    def __init__(self, code: str, known: KnownPaths, row_ids: Mapping[str, str]) -> None:
        self.lines = code.splitlines(keepends=True)
        self.known, self.row_ids = known, row_ids

    def write(self, tokens: list[TokenInfo], links: list[PartLink]) -> Markup:
        return Markup("").join(self._iter_pieces(tokens, links))

    def _iter_pieces(self, tokens: list[TokenInfo], links: list[PartLink]) -> Iterator[Markup]:
        position: Position = (1, 0)
        remaining_links = list(links)
        link_end: Position | None = None  # of the link that is open
        for current in tokens:
            if current.type in _UNPRINTED:
                continue
            if link_end and current.start >= link_end:
                yield Markup("</a>")
                link_end = None
            yield escape(self._text_between(position, current.start))
            while remaining_links and remaining_links[0].start < current.start:
                remaining_links.pop(0)
            if remaining_links and remaining_links[0].start == current.start and link_end is None:
                link = remaining_links.pop(0)
                yield self._opening_tag(link)
                link_end = link.end
            yield _colour_token(current, is_linked=link_end is not None)
            position = current.end
        if link_end:
            yield Markup("</a>")
        yield escape(self._text_between(position, (len(self.lines) + 1, 0)).rstrip())

    def _opening_tag(self, link: PartLink) -> Markup:
        title = self.known.parts.get(link.path) or ("part of a repeated block" if link.is_relative else "tensor")
        row_id = self.row_ids.get(link.path)
        href = Markup(' href="#{}"').format(row_id) if row_id else Markup(' tabindex="0"')
        relative = Markup(" data-relative") if link.is_relative else Markup("")
        return Markup('<a class="part"{} data-path="{}"{} title="{}: {}">').format(
            href, link.path, relative, link.path, title
        )

    def _text_between(self, start: Position, end: Position) -> str:
        """The text between two positions, which may lie after the last line."""
        (first, first_column), (last, last_column) = start, end
        if first > len(self.lines):
            return ""
        if first == last:
            return self.lines[first - 1][first_column:last_column]
        pieces = [self.lines[first - 1][first_column:], *self.lines[first : last - 1]]
        if last <= len(self.lines):
            pieces.append(self.lines[last - 1][:last_column])
        return "".join(pieces)


def _colour_token(current: TokenInfo, is_linked: bool) -> Markup:
    """A token in the colour of its kind; a link has its own colour, except for strings in it."""
    css_class = ""
    if current.type == token.COMMENT:
        css_class = "c"
    elif current.type == token.STRING or token.tok_name[current.type].startswith("FSTRING"):
        css_class = "s"
    elif current.type == token.NUMBER:
        css_class = "n"
    elif current.type == token.NAME and keyword.iskeyword(current.string):
        css_class = "k"
    elif current.type == token.OP and current.string in _OPERATORS:
        css_class = "o"
    if not css_class or (is_linked and css_class != "s"):
        return escape(current.string)
    return Markup('<span class="{}">{}</span>').format(css_class, current.string)
