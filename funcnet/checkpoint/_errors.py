"""The errors of this package, and helpers for their messages."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence

from funcnet._errors import FuncnetError, bullet_list

MOST_LINES = 20
"""Lines that an error lists before it only counts the rest."""


class CheckpointError(FuncnetError, ValueError):
    """A file is not a checkpoint funcnet can read, or cannot hold what is to be written. Names the file.

    >>> import torch
    >>> from funcnet import checkpoint
    >>> checkpoint.save("weights.npz", {"a": {"b": torch.ones(1)}, "a.b": torch.ones(1)})
    Traceback (most recent call last):
        ...
    funcnet.checkpoint._errors.CheckpointError: these paths each stand for two things; rename one of each:
      a.b
    """


class RuleError(FuncnetError, ValueError):
    """A rule does not fit the tensors it is applied to, or a plan loses something. Names all that are at fault.

    >>> import torch
    >>> from funcnet import checkpoint
    >>> checkpoint.plan({"v": checkpoint.Spec((2, 3), torch.float32)}, [checkpoint.Rename("w", "weight")])
    Traceback (most recent call last):
        ...
    funcnet.checkpoint._errors.RuleError: rule 1, rename(source='w', target='weight'): no tensor is named 'w'. Correct
    the pattern, or set optional = true.
    """


def file_error(path: str | os.PathLike[str], reason: str, advice: str = "") -> CheckpointError:
    """The error about one file.

    >>> str(file_error("a.npz", "is empty", "Save it again."))
    "'a.npz' is empty. Save it again."
    """
    return CheckpointError(f"{str(path)!r} {reason}.{' ' * bool(advice)}{advice}")


def summarize_error(error: BaseException, after: str = "") -> str:
    """The type and message of another library's error, shortened to one line.

    Args:
        error: the exception.
        after: a mark in the message; where it occurs, the text up to it is left out.

    >>> summarize_error(ValueError("first line\\n   second line."))
    'ValueError: first line second line'
    """
    text = str(error).rpartition(after)[2] if after else str(error)
    return textwrap.shorten(f"{type(error).__name__}: {text}".strip().rstrip(".:"), 300, placeholder=" ...")


def truncated_list(lines: Sequence[str]) -> str:
    """The body of an error: the first lines, and how many more there are."""
    count_line = [f"... and {len(lines) - MOST_LINES} more"] if len(lines) > MOST_LINES else []
    return bullet_list([*lines[:MOST_LINES], *count_line])
