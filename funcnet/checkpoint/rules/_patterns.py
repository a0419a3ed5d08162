"""Patterns of names with holes: ``layers.{i}.attn.q`` matches this name in every layer."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from funcnet.checkpoint._errors import RuleError

_HOLE = re.compile(r"\{([A-Za-z_]\w*)(\*\*)?\}")


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

    def match(self, name: str) -> dict[str, str] | None:
        """The values of the holes in a name; None if the name does not match."""
        match = self._regex.fullmatch(name)
        return None if match is None else match.groupdict()

    def spans_keys(self, hole: str) -> bool:
        """Whether a hole matches any number of keys."""
        return f"{{{hole}**}}" in self.text

    def format(self, holes: dict[str, str]) -> str:
        """The name that has these values in the holes."""
        return _HOLE.sub(lambda hole: holes[hole[1]], self.text)


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
