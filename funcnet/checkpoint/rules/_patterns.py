"""Names with holes: ``layers.{i}.attn.q`` means every name of that form."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from funcnet.checkpoint._errors import RuleError

_HOLE = re.compile(r"\{([A-Za-z_]\w*)(\*\*)?\}")


@dataclass(frozen=True)
class Pattern:
    """A pattern of names, anchored at both ends.

    ``{i}`` stands for one key (no dot, no slash), ``{rest**}`` for any number of keys, at least one; a hole that comes
    twice is the same text both times.

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
        seen: list[str] = []
        regex, end = "", 0
        for hole in _HOLE.finditer(self.text):
            name, many = hole.groups()
            regex += re.escape(self.text[end : hole.start()])
            regex += f"(?P={name})" if name in seen else f"(?P<{name}>{'.+' if many else '[^./]+'})"
            seen.append(name)
            end = hole.end()
        rest = self.text[end:]
        if set(_HOLE.sub("", self.text)) & set("{}"):
            raise RuleError(f"{self.text!r} has braces that are no hole. Holes are {{name}} and {{name**}}.")
        object.__setattr__(self, "holes", tuple(dict.fromkeys(seen)))
        object.__setattr__(self, "_regex", re.compile(regex + re.escape(rest), re.DOTALL))

    def match(self, name: str) -> dict[str, str] | None:
        """What the holes stand for in a name; None if it does not fit."""
        found = self._regex.fullmatch(name)
        return None if found is None else found.groupdict()

    def many(self, hole: str) -> bool:
        """Whether a hole stands for any number of keys."""
        return f"{{{hole}**}}" in self.text

    def format(self, holes: dict[str, str]) -> str:
        """The name with the holes filled."""
        return _HOLE.sub(lambda hole: holes[hole[1]], self.text)


def same_holes(*patterns: Pattern) -> None:
    """Refuse patterns of one rule that do not have the same holes.

    Raises:
        RuleError: names the holes that one has and another has not.
    """
    every = {hole for pattern in patterns for hole in pattern.holes}
    lacking = [
        f"{pattern.text!r} lacks {', '.join(sorted(every - set(pattern.holes)))}"
        for pattern in patterns
        if set(pattern.holes) != every
    ]
    if lacking:
        raise RuleError(f"all patterns of a rule need the same holes, to go both ways: {'; '.join(lacking)}.")
