"""One way to say which paths are meant."""

from __future__ import annotations

import re
from collections.abc import Callable

from funcnet._typing import Selector


def select(selector: Selector) -> Callable[[str], bool]:
    """A test of paths.

    Args:
        selector: ``True`` or ``False`` for all or none; a pattern; a list of patterns, the last that matches wins; or a
            predicate of one path, used as it is. In a pattern ``*`` stands for one key, ``**`` for any number of keys
            (none too), other characters for themselves. A pattern means what it matches and everything below; a
            leading ``!`` takes that out again. The empty pattern is the root, so it means everything.

    Raises:
        TypeError: if ``selector`` is none of these.

    >>> head = select("blocks.*.head")
    >>> head("blocks.3.head.weight"), head("blocks.3"), head("blocks.3.header")
    (True, False, False)
    >>> [path for path in ("fc", "bn", "blocks.1.bn") if select(["**", "!**.bn"])(path)]
    ['fc']
    """
    if isinstance(selector, bool):
        return lambda path: selector
    if isinstance(selector, str):
        return _patterns((selector,))
    if isinstance(selector, (list, tuple)) and all(isinstance(pattern, str) for pattern in selector):
        return _patterns(tuple(selector))
    if callable(selector):
        return selector
    raise TypeError(
        f"a selector is a bool, a pattern, a list of patterns or a predicate of one path, not {selector!r}."
    )


def _patterns(patterns: tuple[str, ...]) -> Callable[[str], bool]:
    rules = [(not pattern.startswith("!"), _regex(pattern.removeprefix("!"))) for pattern in patterns]

    def test(path: str) -> bool:
        meant = False
        for positive, regex in rules:
            if regex.match(f".{path}" if path else ""):
                meant = positive
        return meant

    return test


def _regex(pattern: str) -> re.Pattern[str]:
    keys = pattern.split(".") if pattern else []
    body = "".join(r"(?:\.[^.]+)*" if key == "**" else r"\." + re.escape(key).replace(r"\*", r"[^.]*") for key in keys)
    return re.compile(body + r"(?:\..*)?\Z")
