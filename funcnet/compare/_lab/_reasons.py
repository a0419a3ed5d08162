"""Why something was not measured, or did not work: the errors that say so, and errors of others in one line."""

from __future__ import annotations

from funcnet.compare._errors import summarize_error


class SkippedError(Exception):
    """Something is not measured. The message is the reason, and readers see it unchanged."""


class FailedError(Exception):
    """A trial ran, and did not do what it should. The message says what was observed."""


class NothingToTryError(Exception):
    """The model has nothing that a trial could use."""


def describe_reason(error: BaseException) -> str:
    """Why something could not be measured, in one line."""
    return str(error) if isinstance(error, SkippedError) else summarize_error(error, 220)


def first_line(error: BaseException) -> str:
    """The type and the first line of an error.

    >>> first_line(ValueError("one\\ntwo"))
    'ValueError: one'
    """
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return summarize_error(f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__, 200)
