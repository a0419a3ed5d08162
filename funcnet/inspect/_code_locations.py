"""Where a call is: the path of the module that runs, and the line of user code."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import NamedTuple

from torch import Tensor, nn

from funcnet._torch import Memory
from funcnet.inspect._tensor_origins import memory_of


class Location(NamedTuple):
    """The path of a module, and a line of user code."""

    path: str
    file: str
    line: int

    @property
    def code(self) -> str:
        """The text of the line."""
        return linecache.getline(self.file, self.line).strip()


@dataclass
class ModuleVisit:
    """One call of one module, from its start to its end.

    Attributes:
        path: the path of the module.
        module: the module.
        error: the exception that was being handled when the call started.
        handed: the memory of tensors that the module was handed by its caller or by its parts. It need not account for
            them, because whoever handed them over did.
    """

    path: str
    module: nn.Module
    error: BaseException | None
    handed: set[Memory] = field(default_factory=set)


class ModulePaths:
    """The paths of the modules in a module.

    Attributes:
        order: all of them, in the order of ``named_modules``.
    """

    def __init__(self, root: nn.Module) -> None:
        self.order: list[str] = []
        self._paths: dict[int, list[str]] = {}
        for path, module in root.named_modules(remove_duplicate=False):
            self._paths.setdefault(id(module), []).append(path)
            self.order.append(path)

    def find(self, module: nn.Module, caller: str) -> str:
        """The path of a module that a module at a path calls. Of the paths of a shared one, that below the caller.

        A module that was made in the call, or that is held where torch does not look, has the path of its caller.
        """
        paths = self._paths.get(id(module), [caller])
        prefix = f"{caller}." if caller else ""
        return next((path for path in paths if path.startswith(prefix)), paths[0])


class CallStack:
    """The modules that are running, the innermost last.

    Attributes:
        visits: the calls that have started and not ended.
        failure: the last error that left a module, and where it was raised; None if there was none.
        order: the paths of all modules, in the order of ``named_modules``.
    """

    def __init__(self, root: nn.Module) -> None:
        self.visits: list[ModuleVisit] = []
        self.failure: tuple[BaseException, Location] | None = None
        self._module_paths = ModulePaths(root)
        self.order = self._module_paths.order

    @property
    def path(self) -> str:
        """The path of the innermost module that is running."""
        return self.visits[-1].path if self.visits else ""

    def enter(self, module: nn.Module) -> ModuleVisit:
        """Note that a module starts."""
        path = self._module_paths.find(module, self.path)
        self.visits.append(ModuleVisit(path, module, sys.exc_info()[1]))
        return self.visits[-1]

    def leave(self, module: nn.Module) -> ModuleVisit:
        """Note that a module ended, perhaps by an error."""
        while self.visits[-1].module is not module:
            self.visits.pop()
        visit = self.visits[-1]
        error = sys.exc_info()[1]
        if error is not None and error is not visit.error and (self.failure is None or self.failure[0] is not error):
            self.failure = (error, self.locate())
        return self.visits.pop()

    def locate(self) -> Location:
        """The path of the module that is running, and the innermost line of user code."""
        frame = find_user_frame()
        if frame is None:
            return Location(self.path, "", 0)
        return Location(self.path, frame.f_code.co_filename, frame.f_lineno)

    def name_in_user_code(self, tensor: Tensor) -> str:
        """What user code calls a tensor: an attribute of the module that runs, a global or a free variable."""
        memory = memory_of(tensor)
        for visit in reversed(self.visits):
            for name, value in vars(visit.module).items():
                if name not in ("_parameters", "_buffers", "_modules") and _contains_memory(value, memory):
                    return f"self.{name}" if visit is self.visits[-1] else f"{name} of {describe_path(visit.path)}"
        frame = find_user_frame()
        if frame is not None:
            scopes = ((frame.f_globals, frame.f_code.co_names), (frame.f_locals, frame.f_code.co_freevars))
            for scope, names in scopes:
                for name in names:
                    if _contains_memory(scope.get(name), memory):
                        return name
        return "a tensor"


def describe_path(path: str) -> str:
    """A path in words."""
    return repr(path) if path else "the root"


def find_user_frame(frame: FrameType | None = None) -> FrameType | None:
    """The innermost frame of user code among a frame, by default the caller's, and those that called it.

    None if there is none, as where a command of funcnet calls a stock layer.
    """
    frame = sys._getframe(1) if frame is None else frame
    while frame is not None and not is_user_frame(frame):
        frame = None if str(frame.f_globals.get("__name__", "")).startswith("funcnet.cli.") else frame.f_back
    return frame


def is_user_frame(frame: FrameType) -> bool:
    """Whether a frame runs code that is neither torch's, nor funcnet's, nor the standard library's."""
    package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    return is_of_users(package) or frame.f_code.co_filename.startswith("<doctest")


def is_of_users(package: str) -> bool:
    """Whether a package is neither torch, nor funcnet, nor of the standard library."""
    return package not in _NOT_OF_USERS


_NOT_OF_USERS = frozenset({"torch", "funcnet"}) | sys.stdlib_module_names


def _contains_memory(value: object, memory: Memory | None) -> bool:
    return any(memory_of(tensor) == memory for tensor in _iter_shallow_tensors(value))


def _iter_shallow_tensors(value: object, depth: int = 2) -> Iterator[Tensor]:
    """A tensor, or the tensors in a list, tuple or dict, or in one of those that it holds.

    It goes no deeper than that, as ``iter_tensors`` does: a global of a user may be large, or contain itself.
    """
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)) and depth:
        for item in list(value.values()) if isinstance(value, dict) else value:
            yield from _iter_shallow_tensors(item, depth - 1)
