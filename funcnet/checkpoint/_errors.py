"""What the room refuses."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence

from funcnet._errors import FuncnetError, bullet_list

SHOWN = 20


class CheckpointError(FuncnetError, ValueError):
    """A file is not a checkpoint funcnet can read, or cannot hold what is to be written. Names the file."""


class RuleError(FuncnetError, ValueError):
    """A rule does not fit the tensors it is applied to, or a plan loses something. Names all that are at fault."""


def file_error(path: str | os.PathLike[str], why: str, do: str = "") -> CheckpointError:
    """The error about one file.

    >>> str(file_error("a.npz", "is empty", "Save it again."))
    "'a.npz' is empty. Save it again."
    """
    return CheckpointError(f"{str(path)!r} {why}.{' ' * bool(do)}{do}")


def summarize_error(error: BaseException, after: str = "") -> str:
    """Somebody else's message in one line, and not a long one.

    Args:
        error: what was raised.
        after: leave out the message up to this mark, if it is there.

    >>> summarize_error(ValueError("first line\\n   second line."))
    'ValueError: first line second line'
    """
    text = str(error).rpartition(after)[2] if after else str(error)
    return textwrap.shorten(f"{type(error).__name__}: {text}".strip().rstrip(".:"), 300, placeholder=" ...")


def truncated_list(lines: Sequence[str]) -> str:
    """The body of an error: the first lines, and how many more there are."""
    more = [f"... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return bullet_list([*lines[:SHOWN], *more])
