"""The errors of a comparison, and other people's error messages in one line."""

from __future__ import annotations

import textwrap

from funcnet._errors import FuncnetError


class CompareError(FuncnetError, ValueError):
    """A model to compare does not exist, cannot be built, or does not run.

    >>> from funcnet.compare import compare_module
    >>> compare_module("torch.nn:Linearr(3, 4)", ["float32[2,3]"])
    Traceback (most recent call last):
        ...
    funcnet.compare._errors.CompareError: torch.nn has no 'Linearr'. Did you mean 'Linear' or 'LazyLinear' or
    'Bilinear'?
    """


class SkippedError(Exception):
    """Something is not measured. The message is the reason, and readers see it unchanged."""


def describe_reason(error: BaseException) -> str:
    """Why something could not be measured, in one line."""
    return str(error) if isinstance(error, SkippedError) else summarize_error(error, 220)


def summarize_error(error: BaseException | str, width: int = 300) -> str:
    """An error or message as part of a paragraph: on one line, shortened to ``width`` characters.

    >>> summarize_error(ValueError("first line\\n   second line"))
    'ValueError: first line second line'
    """
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    return textwrap.shorten(text.strip().rstrip(".:"), width, placeholder=" ...")
