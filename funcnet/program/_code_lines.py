"""Lines of the traced code: which one an operation comes from, and the error about one that cannot be traced."""

from __future__ import annotations

import re
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from funcnet._errors import ConversionError
from funcnet._torch_tracer import CodeLine

Frame = tuple[str, int, str]
"""The file, the number of the line, and its code."""
FROM_MODULE = "funcnet.from_module(module) runs any forward as it is."
_FRAME = r'File "(.+)", line (\d+), in .+(?:\n\s+(?!File )(\S.*))?'
_TORCH = Path(torch.__file__).parent
_FUNCNET = Path(__file__).parents[1]


class UntraceableError(ConversionError):
    """A line that torch's tracer cannot follow: ``stopped_at``, if it is known."""

    stopped_at: CodeLine | None = None


def untraceable_error(module: nn.Module, error: Exception) -> UntraceableError:
    """The error about a forward that torch's tracer could not follow; names the line and the reason."""
    text = str(error)
    stack = getattr(error, "real_stack", None) or ()
    frames = [(frame.filename, frame.lineno or 0, frame.line or "") for frame in stack]
    own_lines = [(file, line) for file, line, _ in frames if not is_library_file(file)]
    if not frames:
        code = text.rpartition("from user code:")[2]
        frames = [(file, int(line), "") for file, line in re.findall(r'File "([^"<]+)", line (\d+)', code)]
    if not frames:
        stack = traceback.extract_tb(error.__traceback__)
        frames = [(frame.filename, frame.lineno or 0, frame.line or "") for frame in stack]
        frames = [frame for frame in frames if not is_library_file(frame[0])] or frames
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    reason = lines[0] if lines else type(error).__name__
    if "data-dependent" in reason.lower():
        reason = "what it does depends on numbers in a tensor"
    explanation = next((line.partition(":")[2].strip() for line in lines if line.startswith("Explanation:")), "")
    sentences = [f"{text.rstrip('.')}." for text in (reason, explanation) if text]
    result = UntraceableError(
        f"cannot capture {type(module).__name__}: torch's tracer stopped at {describe_frame(frames)}: "
        f"{' '.join(sentences)} Write that line without it, or keep the model as it is: {FROM_MODULE}"
    )
    result.stopped_at = own_lines[-1] if own_lines else None
    return result


def read_frames(stack_trace: str) -> list[Frame]:
    """The lines of a traceback, outermost first."""
    return [(file, int(line), code) for file, line, code in re.findall(_FRAME, stack_trace)]


def describe_frame(frames: Sequence[Frame]) -> str:
    """File, line and code of the innermost frame."""
    frame = innermost_frame(frames)
    if frame is None:
        return "an unknown line"
    file, line, code = frame
    return f"{file}:{line}" + (f" (`{code.strip()}`)" if code.strip() else "")


def innermost_frame(frames: Sequence[Frame]) -> Frame | None:
    """File, line and code of the innermost frame that is not in torch or funcnet, or else of the innermost one."""
    frames = [frame for frame in frames if not frame[0].startswith("<")]
    users = [frame for frame in frames if not is_library_file(frame[0])] or frames
    return users[-1] if users else None


def is_library_file(file: str) -> bool:
    """Whether a file belongs to torch or funcnet."""
    return Path(file).is_relative_to(_TORCH) or Path(file).is_relative_to(_FUNCNET)
