"""Selectors: one way to say which paths to take."""

from __future__ import annotations

import re
from collections.abc import Callable

from funcnet._typing import Selector


def select(selector: Selector) -> Callable[[str], bool]:
    """A test of paths.

    Args:
        selector: ``True`` or ``False`` for all or none; a pattern; a list of patterns, the last that matches wins; or a
            predicate of one path, used as it is. In a pattern ``*`` stands for one key, ``**`` for any number of keys
            (none too), other characters for themselves. A pattern selects what it matches and everything
            under it; a leading ``!`` takes that out again. The empty pattern is the root, so it selects everything.

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
        return _match_patterns((selector,))
    if isinstance(selector, (list, tuple)) and all(isinstance(pattern, str) for pattern in selector):
        return _match_patterns(tuple(selector))
    if callable(selector):
        return selector
    raise TypeError(
        f"a selector is a bool, a pattern, a list of patterns or a predicate of one path, not {selector!r}."
    )


def _match_patterns(patterns: tuple[str, ...]) -> Callable[[str], bool]:
    """A test of paths, in which the last pattern that matches decides."""
    rules = [(not pattern.startswith("!"), _compile_pattern(pattern.removeprefix("!"))) for pattern in patterns]

    def is_selected(path: str) -> bool:
        selected = False
        for selects, regex in rules:
            if regex.match(f".{path}" if path else ""):
                selected = selects
        return selected

    return is_selected


def _compile_pattern(pattern: str) -> re.Pattern[str]:
    keys = pattern.split(".") if pattern else []
    body = "".join(r"(?:\.[^.]+)*" if key == "**" else r"\." + re.escape(key).replace(r"\*", r"[^.]*") for key in keys)
    return re.compile(body + r"(?:\..*)?\Z")
