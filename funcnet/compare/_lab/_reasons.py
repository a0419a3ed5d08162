"""Why a trial did not work: the errors that say so, and errors of others in one line."""

from __future__ import annotations

from funcnet.compare._errors import summarize_error


class FailedError(Exception):
    """A trial ran, and did not do what it should. The message says what was observed."""


class NothingToTryError(Exception):
    """The model has nothing that a trial could use."""


def first_line(error: BaseException) -> str:
    """The type and the first line of an error.

    >>> first_line(ValueError("one\\ntwo"))
    'ValueError: one'
    """
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return summarize_error(f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__, 200)
