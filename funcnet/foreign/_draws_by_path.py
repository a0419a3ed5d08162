"""Where the draws inside of a foreign forward get their keys: from the path of the submodule that is running.

A net of funcnet's own knows the path of each part from its view. A foreign forward has one view, at its root, so the
path is found when something draws: in eager calls from the stack of frames, where a frame of ``nn.Module.__call__``
shows each module that is running; in compiled code, which has no frames, from hooks that note the path.

A submodule that drew once is known to draw. From then on its ``forward`` in the leased copies is wrapped: torch's
random functions in it are answered from the ``rng`` of the call, and all others run untouched. ``nn.Dropout`` and its
kind are wrapped from the start, because what they compute needs no interception.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from funcnet._errors import RandomnessError
from funcnet._torch import MODULE_CALL_CODE
from funcnet.core import View
from funcnet.core.internals import call_and_path, draw_source
from funcnet.foreign._module_walk import named_modules
from funcnet.random.internals import DROPOUT_OF_MODULES, DrawInterceptor
from funcnet.tree import join

if TYPE_CHECKING:
    from funcnet.foreign._leased_copies import LeasedCopy


class SubmodulePath:
    """The path of a submodule of a foreign module, in the form of a view, for :func:`draw_source`."""

    __slots__ = ("_name", "_up")

    def __init__(self, up: View, name: str) -> None:
        self._up = up
        self._name = name


# --- eager calls ---


def find_drawing_submodule(
    view: View, leased: LeasedCopy, learn_path: Callable[[str], bool], outermost: CodeType
) -> View | SubmodulePath:
    """The path of the submodule whose call is innermost. It is looked up only when something draws.

    Args:
        view: of the foreign net.
        leased: the copy that is running.
        learn_path: is called with the path, and returns whether that path is new.
        outermost: the code of the frame at which the search ends.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not outermost:
        if frame.f_code is MODULE_CALL_CODE:
            path = leased.path_by_id.get(id(frame.f_locals["self"]))
            if path is not None:
                if learn_path(path) and leased.call is not None and leased.call.interceptor is not None:
                    leased.call.interceptor.found_submodule = True
                _refuse_checkpoint(frame, view, path, outermost)
                return SubmodulePath(view, path)
        frame = frame.f_back
    return view


def _refuse_checkpoint(frame: FrameType | None, view: View, path: str, outermost: CodeType) -> None:
    """Raise if torch.utils.checkpoint is among the frames."""
    while frame is not None and frame.f_code is not outermost:
        if frame.f_globals.get("__name__") == "torch.utils.checkpoint":
            raise RandomnessError(
                f"{join(call_and_path(view)[1], path) or 'the module'} draws within torch.utils.checkpoint, which runs "
                f"it again in backward, after the call, with other draws. Switch checkpointing off in the module (or "
                f"its dropout), and checkpoint a function of (params, x, key) that calls the net."
            )
        frame = frame.f_back


def wrap_drawing_forwards(leased: LeasedCopy, drawing_paths: set[str]) -> None:
    """Make the submodules at these paths, and all dropout modules, draw from the call that has the copy."""
    for module in leased.modules:
        if type(module) in DROPOUT_OF_MODULES and "forward" not in module.__dict__:
            module.__dict__["forward"] = _dropout_forward(module, leased)
        elif leased.path_by_id[id(module)] in drawing_paths:
            module.__dict__["forward"] = _intercepted_forward(module.forward, leased)


def _intercepted_forward(forward: Callable[..., Any], leased: LeasedCopy) -> Callable[..., Any]:
    """A forward in which torch's random functions draw from the call that has the copy."""

    @wraps(forward)
    def run_intercepted(*inputs: Any, **kwargs: Any) -> Any:
        call = leased.call
        if call is None or call.interceptor is not None or call.find_drawing_path is None:
            return forward(*inputs, **kwargs)
        find_drawing_path = call.find_drawing_path
        call.interceptor = DrawInterceptor(lambda: draw_source(find_drawing_path()))
        try:
            with call.interceptor:
                return forward(*inputs, **kwargs)
        finally:
            call.interceptor = None

    return run_intercepted


def _dropout_forward(module: Any, leased: LeasedCopy) -> Callable[..., Tensor]:
    """The forward of a dropout module of torch.nn. It needs no interception, so it costs half as much."""
    dropout_function, forward = DROPOUT_OF_MODULES[type(module)], module.forward

    @wraps(forward)
    def draw_from_call(input: Tensor) -> Tensor:
        call = leased.call
        if call is None or call.interceptor is not None or call.find_drawing_path is None:
            return forward(input)
        find_drawing_path = call.find_drawing_path
        return dropout_function(
            lambda: draw_source(find_drawing_path()), input, module.p, module.training, module.inplace
        )

    return draw_from_call


# --- compiled calls ---

_running_paths: list[str] = []
"""The paths of the submodules that are running while torch.compile or torch.export traces a forward."""


def note_running_paths(module: nn.Module) -> None:
    """Hook a module and all its submodules, so that they note when they are running."""
    visited: set[int] = set()
    for path, submodule in named_modules(module):
        if id(submodule) not in visited:
            visited.add(id(submodule))
            submodule.register_forward_pre_hook(_hook_entering(path), prepend=True)
            submodule.register_forward_hook(_leave_submodule, always_call=False)


def _hook_entering(path: str) -> Callable[..., None]:
    def enter(module: nn.Module, inputs: Any) -> None:
        _running_paths.append(path)

    return enter


def _leave_submodule(module: nn.Module, inputs: Any, output: Any) -> None:
    _running_paths.pop()


def path_in_compiled_call(view: View) -> View | SubmodulePath:
    """The path of the innermost submodule that is running."""
    return SubmodulePath(view, _running_paths[-1]) if _running_paths else view
