"""The error that a comparison raises, and other people's error messages in one line."""

from __future__ import annotations

import textwrap

from funcnet._errors import FuncnetError


class CompareError(FuncnetError, ValueError):
    """A model to compare does not exist, cannot be built, or does not run."""


def summarize_error(error: BaseException | str, width: int = 300) -> str:
    """An error or message as part of a paragraph: on one line, shortened to ``width`` characters.

    >>> summarize_error(ValueError("first line\\n   second line"))
    'ValueError: first line second line'
    """
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    return textwrap.shorten(text.strip().rstrip(".:"), width, placeholder=" ...")
