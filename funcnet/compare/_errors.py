"""What a comparison refuses, in one paragraph."""

from __future__ import annotations

import textwrap

from funcnet._errors import FuncnetError


class CompareError(FuncnetError, ValueError):
    """Something to compare was named that is not there, cannot be built, or does not run."""


def brief(error: BaseException | str, width: int = 300) -> str:
    """Somebody else's message as part of one paragraph: one line, and not a long one.

    >>> brief(ValueError("first line\\n   second line"))
    'ValueError: first line second line'
    """
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    return textwrap.shorten(text.strip().rstrip(".:"), width, placeholder=" ...")
