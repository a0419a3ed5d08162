"""Patterns of names with holes: ``layers.{i}.attn.q`` matches this name in every layer."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from funcnet.checkpoint._errors import RuleError

_HOLE = re.compile(r"\{([A-Za-z_]\w*)(\*\*)?\}")

_MOST_AMBIGUOUS = 2
"""Holes whose end a regular expression has to guess: it tries all ends of all of them together."""


@dataclass(frozen=True)
class Pattern:
    """A pattern that a whole name matches or does not match.

    ``{i}`` matches one key (no dot, no slash), ``{rest**}`` any number of keys, at least one. A hole that occurs twice
    has the same value both times.

    >>> pattern = Pattern("layers.{i}.{rest**}")
    >>> pattern.match("layers.12.attn.q"), pattern.match("my.layers.12.attn.q")
    ({'i': '12', 'rest': 'attn.q'}, None)
    >>> pattern.format({"i": "3", "rest": "norm"})
    'layers.3.norm'
    """

    text: str
    holes: tuple[str, ...] = field(init=False, compare=False)
    _regex: re.Pattern[str] = field(init=False, compare=False, repr=False)
    _template: str = field(init=False, compare=False, repr=False)  # for str.format_map
    _pieces: list[str] | None = field(init=False, compare=False, repr=False)  # of a pattern with many readings

    def __post_init__(self) -> None:
        holes: list[str] = []
        regex, end = "", 0
        for hole in _HOLE.finditer(self.text):
            name, spans_keys = hole.groups()
            regex += re.escape(self.text[end : hole.start()])
            regex += f"(?P={name})" if name in holes else f"(?P<{name}>{'.+' if spans_keys else '[^./]+'})"
            holes.append(name)
            end = hole.end()
        if set(_HOLE.sub("", self.text)) & set("{}"):
            raise RuleError(f"{self.text!r} has braces that are no hole. Holes are {{name}} and {{name**}}.")
        object.__setattr__(self, "holes", tuple(dict.fromkeys(holes)))
        object.__setattr__(self, "_regex", re.compile(regex + re.escape(self.text[end:]), re.DOTALL))
        pieces = re.split(r"(\{[A-Za-z_]\w*(?:\*\*)?\})", self.text)
        object.__setattr__(self, "_pieces", pieces if _count_ambiguous(pieces) > _MOST_AMBIGUOUS else None)
        object.__setattr__(self, "_template", _HOLE.sub(r"{\1}", self.text))

    def match(self, name: str) -> dict[str, str] | None:
        """The values of the holes in a name; None if the name does not match."""
        if self._pieces is not None:
            values = match_in_bounded_time(self._pieces, name)
            if values is None or len(values) == len(self._pieces) // 2:  # no hole occurs twice
                return values
        match = self._regex.fullmatch(name)
        return None if match is None else match.groupdict()

    def spans_keys(self, hole: str) -> bool:
        """Whether a hole matches any number of keys."""
        return f"{{{hole}**}}" in self.text

    def format(self, holes: dict[str, str]) -> str:
        """The name that has these values in the holes."""
        return self._template.format_map(holes)


def check_same_holes(*patterns: Pattern) -> None:
    """Refuse patterns of one rule that have different holes, because the rule could not be inverted.

    Raises:
        RuleError: names the holes that each pattern lacks.
    """
    all_holes = {hole for pattern in patterns for hole in pattern.holes}
    problems = [
        f"{pattern.text!r} lacks {', '.join(sorted(all_holes - set(pattern.holes)))}"
        for pattern in patterns
        if set(pattern.holes) != all_holes
    ]
    if problems:
        raise RuleError(f"all patterns of a rule need the same holes, to go both ways: {'; '.join(problems)}.")


def _count_ambiguous(pieces: list[str]) -> int:
    """How many holes do not end at the next dot or slash. Texts and holes take turns, from a text to a text."""
    holes = zip(pieces[1::2], pieces[2::2], strict=True)
    ends = [(index, text) for index, (_, text) in enumerate(holes)]
    last = len(ends) - 1
    return sum(
        pieces[2 * index + 1].endswith("**}") or not ((text[:1] in ("/", ".") and text) or (index == last and not text))
        for index, text in ends
    )


def match_in_bounded_time(pieces: list[str], name: str) -> dict[str, str] | None:
    """The values of holes, each as long as it can be, in a time that is the product of both lengths.

    A hole that occurs several times has the value of the last place; whether they are equal is not looked at.

    >>> match_in_bounded_time(["", "{a**}", ".", "{b**}", ".w"], "x.y.z.w")
    {'a': 'x.y', 'b': 'z'}
    """
    size = len(name)
    can_end = [False] * size + [True]
    tables = [can_end]  # for each piece and position: whether the rest of the name fits what follows from there
    for index in reversed(range(len(pieces))):
        piece, after = pieces[index], tables[-1]
        if index % 2 == 0:
            table = [name.startswith(piece, at) and after[at + len(piece)] for at in range(size + 1)]
        else:
            table = [False] * (size + 1)
            for at in reversed(range(size)):
                is_allowed = piece.endswith("**}") or name[at] not in "./"
                table[at] = is_allowed and (after[at + 1] or table[at + 1])
        tables.append(table)
    tables.reverse()
    if not tables[0][0]:
        return None
    values: dict[str, str] = {}
    at = 0
    for index, piece in enumerate(pieces):
        if index % 2 == 0:
            at += len(piece)
            continue
        stop = size if piece.endswith("**}") else next((p for p in range(at, size) if name[p] in "./"), size)
        end = next(end for end in range(stop, at, -1) if tables[index + 1][end])
        values[piece.strip("{}*")] = name[at:end]
        at = end
    return values
