"""Selectors: one way to say which paths to take."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from difflib import get_close_matches
from functools import lru_cache

from funcnet._errors import TreeError
from funcnet._typing import Selector


def select(selector: Selector) -> Callable[[str], bool]:
    """A test of paths.

    Args:
        selector: ``True`` or ``False`` for all or none; a pattern; a list of patterns, the last that matches wins; or a
            predicate of one path, used as it is. In a pattern ``*`` stands for one key, ``**`` for any number of keys
            (none too), other characters for themselves. A pattern selects what it matches and everything
            under it; a leading ``!`` takes that out again. Negations alone take out of everything, and an empty list
            selects nothing. The empty pattern is the root, so it selects everything.

    Raises:
        TypeError: if ``selector`` is none of these.
        TreeError: if a list begins with a negation and then selects: it could be read in two ways.

    >>> head = select("blocks.*.head")
    >>> head("blocks.3.head.weight"), head("blocks.3"), head("blocks.3.header")
    (True, False, False)
    >>> [path for path in ("fc", "bn", "blocks.1.bn") if select("!**.bn")(path)]
    ['fc']
    """
    if isinstance(selector, bool):
        return lambda path: selector
    patterns = patterns_of(selector)
    if patterns is not None:
        return _match_patterns(patterns)
    if callable(selector):
        return selector
    raise TypeError(
        f"a selector is a bool, a pattern, a list of patterns or a predicate of one path, not {selector!r}."
    )


def patterns_of(selector: Selector) -> tuple[str, ...] | None:
    """The patterns of a selector; None if it is made of something else."""
    if isinstance(selector, str):
        return (selector,)
    if isinstance(selector, (list, tuple)) and all(isinstance(pattern, str) for pattern in selector):
        return tuple(selector)
    return None


def describe_unmatched(selector: Selector, paths: Collection[str]) -> list[str]:
    """One line, with the nearest names, for each pattern that matches none of the paths: then it is misspelt."""
    unmatched = [
        pattern for pattern in patterns_of(selector) or () if not any(map(select(pattern.removeprefix("!")), paths))
    ]
    if not unmatched:
        return []
    names = list(dict.fromkeys(name for path in paths for name in _iter_prefixes(path)))
    return [f"{pattern!r} matches nothing. {_name_hint(pattern, names)}" for pattern in unmatched]


def _iter_prefixes(path: str) -> Iterator[str]:
    """The paths of the nodes above a path, the outermost first, and the path itself; the root is left out."""
    keys = path.split(".") if path else []
    return (".".join(keys[: count + 1]) for count in range(len(keys)))


def _name_hint(pattern: str, names: list[str]) -> str:
    stem = pattern.removeprefix("!")
    nearest = [f"**.{stem}"] if any(name.endswith(f".{stem}") for name in names) else []
    nearest = nearest or get_close_matches(stem, names, n=3, cutoff=0.5)
    if nearest:
        return f"Near it: {', '.join(map(repr, nearest))}."
    return (
        f"There are: {', '.join(map(repr, names[:5]))}{', ...' * (len(names) > 5)}." if names else "There is nothing."
    )


def _match_patterns(patterns: tuple[str, ...]) -> Callable[[str], bool]:
    """A test of paths, in which the last pattern that matches decides."""
    rules = [(not pattern.startswith("!"), _compile_pattern(pattern.removeprefix("!"))) for pattern in patterns]
    begins_with_all = bool(rules) and not rules[0][0]
    if begins_with_all and any(selects for selects, _ in rules):
        raise TreeError(_AMBIGUOUS.format(patterns=list(patterns), **_two_readings(patterns)))

    def is_selected(path: str) -> bool:
        selected = begins_with_all
        for selects, regex in rules:
            if regex.match(f".{path}" if path else ""):
                selected = selects
        return selected

    return is_selected


_AMBIGUOUS = (
    "{patterns!r} takes paths out before it selects any, and the last pattern that matches wins. Write {narrow!r} to "
    "select only these and take out of them, or {wide!r} to take out of everything and select some again."
)


def _two_readings(patterns: Iterable[str]) -> dict[str, list[str]]:
    """The two selectors that a list which begins with negations can be meant as."""
    ordered = sorted(patterns, key=lambda pattern: pattern.startswith("!"))
    return {"narrow": ordered, "wide": ["**", *patterns]}


@lru_cache(maxsize=1024)
def _compile_pattern(pattern: str) -> re.Pattern[str]:
    keys = pattern.split(".") if pattern else []
    body = "".join(r"(?:\.[^.]+)*" if key == "**" else r"\." + re.escape(key).replace(r"\*", r"[^.]*") for key in keys)
    return re.compile(body + r"(?:\..*)?\Z")
