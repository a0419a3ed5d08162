"""Where a call is: the path of the module that runs, and the line of user code."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, NamedTuple

from torch import Tensor, nn

from funcnet._torch import Memory


class Place(NamedTuple):
    """A path, and a line of user code."""

    path: str
    file: str
    line: int

    @property
    def code(self) -> str:
        """The line itself."""
        return linecache.getline(self.file, self.line).strip()


@dataclass
class Visit:
    """One call of one module, from its start to its end.

    ``handed`` names the memory of tensors it was handed by its caller or by its parts: it need not account for them.
    """

    path: str
    module: nn.Module
    error: BaseException | None
    handed: set[Memory] = field(default_factory=set)


class Places:
    """The modules that run, innermost last."""

    def __init__(self, root: nn.Module) -> None:
        self.root = root
        self.visits: list[Visit] = []
        self.failed: tuple[BaseException, Place] | None = None
        self._paths: dict[int, list[str]] = {}
        for path, module in root.named_modules(remove_duplicate=False):
            self._paths.setdefault(id(module), []).append(path)
        self.order = [path for path, _ in root.named_modules(remove_duplicate=False)]

    @property
    def path(self) -> str:
        """Where the call is now."""
        return self.visits[-1].path if self.visits else ""

    def enter(self, module: nn.Module) -> Visit:
        """Note that a module starts. One that is shared is at the path below the module that calls it."""
        paths = self._paths[id(module)]
        above = f"{self.path}." if self.path else ""
        path = next((path for path in paths if path.startswith(above)), paths[0])
        self.visits.append(Visit(path, module, sys.exc_info()[1]))
        return self.visits[-1]

    def leave(self, module: nn.Module) -> Visit:
        """Note that it ended, by an error perhaps."""
        while self.visits[-1].module is not module:
            self.visits.pop()
        visit = self.visits[-1]
        error = sys.exc_info()[1]
        if error is not None and error is not visit.error and (self.failed is None or self.failed[0] is not error):
            self.failed = (error, self.now())
        return self.visits.pop()

    def now(self) -> Place:
        """Where the call is, and the innermost line of user code."""
        frame = user_frame()
        if frame is None:
            return Place(self.path, "", 0)
        return Place(self.path, frame.f_code.co_filename, frame.f_lineno)

    def name_of(self, tensor: Tensor) -> str:
        """What user code calls a tensor: an attribute of the module that runs, a global or a free variable."""
        memory = Memory(tensor.untyped_storage())
        if self.visits:
            for name, value in vars(self.visits[-1].module).items():
                if any(Memory(found.untyped_storage()) == memory for found in _tensors_in(value)):
                    return f"self.{name}"
        frame = user_frame()
        if frame is not None:
            spaces = ((frame.f_globals, frame.f_code.co_names), (frame.f_locals, frame.f_code.co_freevars))
            for space, names in spaces:
                for name in names:
                    if any(Memory(found.untyped_storage()) == memory for found in _tensors_in(space.get(name))):
                        return name
        return "a tensor"


def spelled(path: str) -> str:
    """A path in words."""
    return repr(path) if path else "the root"


def user_frame() -> FrameType | None:
    """The innermost frame of the caller that is neither torch's, nor funcnet's, nor the standard library's."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        room = str(frame.f_globals.get("__name__", "")).split(".")[0]
        if frame.f_code.co_filename.startswith("<doctest") or room not in _NOT_OF_USERS:
            return frame
        frame = frame.f_back
    return None


_NOT_OF_USERS = frozenset({"torch", "funcnet"}) | sys.stdlib_module_names


def _tensors_in(value: Any) -> Iterator[Tensor]:
    """A tensor, or those a list, tuple or dict holds."""
    if isinstance(value, dict):
        value = list(value.values())
    for item in value if isinstance(value, (list, tuple)) else (value,):
        if isinstance(item, Tensor):
            yield item
