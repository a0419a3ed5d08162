"""A call that is followed line by line: which line changes what, and which line asks for a clock, a file, and the like.

Python's own hooks are used, ``sys.settrace`` and ``sys.setprofile``, for the thread and the time of one call.
"""

from __future__ import annotations

import gc
import io
import os
import random
import sys
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import Any

import torch
from torch import nn
from typing_extensions import Self

from funcnet._torch import MODULE_CALL_CODE
from funcnet.inspect._code_locations import Location, ModulePaths, find_user_frame, is_user_frame
from funcnet.inspect._state_snapshot import Place

_CLOCKS = frozenset(
    {
        *("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time"),
        *("process_time_ns", "thread_time", "localtime", "gmtime", "ctime", "strftime", "now", "today", "utcnow"),
    }
)
_ENVIRONMENT_CODES = frozenset(
    vars(type(os.environ))[name].__code__ for name in ("__getitem__", "__setitem__", "__delitem__")
)
_SEED_CODE = random.Random.seed.__code__
_NOT_FOR_THE_OUTPUT = ("importlib", "_frozen_importlib", "linecache", "warnings", "inspect", "traceback", "logging")
_PASSING_FRAMES = ("torch.serialization", "torch.random")
_HARMLESS_OF_THE_SYSTEM = frozenset({"fspath", "getpid", "sched_yield"})


class LineTrace:
    """A context in which a call is followed.

    Args:
        module: the module that will be called.
        poll: returns the places that have changed since it was called last.

    Attributes:
        changes: the first location at which each place changed.
        requests: what was asked for outside of the program, and where, each with the kind of effect that it is.
    """

    def __init__(self, module: nn.Module, poll: Callable[[], Sequence[Place]]) -> None:
        self.changes: dict[Place, Location] = {}
        self.requests: dict[tuple[str, Location], str] = {}
        self._poll = poll
        self._module_paths = ModulePaths(module)
        self._running: list[str] = []
        self._location = Location("", "", 0)
        self._hooks: tuple[Any, Any] = (None, None)
        self._collects_garbage = True

    def __enter__(self) -> Self:
        self._collects_garbage = gc.isenabled()
        gc.disable()  # what finalizers of other objects do, such as removing files, is not asked by the call
        self._poll()
        self._hooks = sys.gettrace(), sys.getprofile()
        sys.settrace(self._on_call)
        sys.setprofile(self._on_profile)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        sys.settrace(self._hooks[0])
        sys.setprofile(self._hooks[1])
        if self._collects_garbage:
            gc.enable()
        self._note_changes()

    @property
    def _path(self) -> str:
        return self._running[-1] if self._running else ""

    def _note_changes(self) -> None:
        for place in self._poll():
            self.changes.setdefault(place, self._location)

    def _locate(self, frame: FrameType | None) -> Location:
        user_frame = find_user_frame(frame)
        if user_frame is None:
            return self._location
        return Location(self._path, user_frame.f_code.co_filename, user_frame.f_lineno)

    def _on_call(self, frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code is MODULE_CALL_CODE:
            self._running.append(self._module_paths.find(frame.f_locals["self"], self._path))
            frame.f_trace_lines = False
            return self._on_module_event
        if is_user_frame(frame):
            self._on_line(frame, event, argument)
            return self._on_line
        return None

    def _on_module_event(self, frame: FrameType, event: str, argument: object) -> Any:
        if event == "return":
            self._note_changes()
            self._running.pop()
            self._location = self._locate(frame.f_back)
        return self._on_module_event

    def _on_line(self, frame: FrameType, event: str, argument: object) -> Any:
        self._note_changes()
        self._location = self._locate(frame.f_back if event == "return" else frame)
        return self._on_line

    # --- what lies outside of the program ---

    def _on_profile(self, frame: FrameType, event: str, argument: Any) -> None:
        kind = "reaches outside"
        if event == "c_call":
            request = _name_entropy(argument)
            kind = kind if request is None else "draws"
            request = request or _name_request(argument)
        elif event == "call" and frame.f_code in _ENVIRONMENT_CODES:
            request = "asks the environment (os.environ)"
        elif event == "call" and frame.f_code is _SEED_CODE and frame.f_locals.get("a") is None:
            kind, request = "draws", "seeds random.Random from the operating system"
        else:
            return
        if request is not None and _is_asked_by_user_code(frame):
            self.requests.setdefault((request, self._locate(frame)), kind)


def _name_entropy(function: Any) -> str | None:
    """What a function of C draws of the randomness of the operating system; None if it draws nothing."""
    name = getattr(function, "__name__", "")
    if name in ("urandom", "getrandom") and getattr(function, "__module__", "") in ("posix", "nt"):
        return f"os.{name}"
    if name == "seed" and isinstance(getattr(function, "__self__", None), torch.Generator):
        return "seeds a torch.Generator from the operating system"
    return None


def _name_request(function: Any) -> str | None:
    """What a function of C asks for that lies outside of the program; None if it asks for nothing."""
    name, owner = getattr(function, "__name__", ""), getattr(function, "__self__", None)
    if isinstance(owner, io.IOBase):
        if owner in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__) or isinstance(owner, io.StringIO):
            return None
        return f"uses a file ({name})" if name.startswith(("read", "write", "seek")) else None
    module = getattr(function, "__module__", None) or getattr(owner, "__module__", None) or ""
    if name in _CLOCKS and module in ("time", "datetime"):
        return f"reads a clock ({module}.{name})"
    if module in ("_io", "io", "builtins") and name in ("open", "open_code", "input"):
        return f"opens a file ({name})" if name != "input" else "asks the terminal (input)"
    if module in ("posix", "nt") and not name.startswith("_") and name not in _HARMLESS_OF_THE_SYSTEM:
        return f"asks the operating system (os.{name})"
    return None


def _is_asked_by_user_code(frame: FrameType | None) -> bool:
    """Whether user code asks, itself or through the standard library, and not torch or a part of Python's machinery."""
    while frame is not None and not is_user_frame(frame):
        name = str(frame.f_globals.get("__name__", ""))
        package = name.partition(".")[0]
        if package in _NOT_FOR_THE_OUTPUT or (package in ("torch", "funcnet") and name not in _PASSING_FRAMES):
            return False
        frame = frame.f_back
    return frame is not None
