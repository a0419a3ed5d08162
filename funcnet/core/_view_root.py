"""The root of the views of one call, and the way from a view up to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from funcnet.random import Rng
from funcnet.random.internals import DrawInterceptor
from funcnet.tree import join

if TYPE_CHECKING:
    from funcnet.core._lazy import ConcreteNets
    from funcnet.core._view import View

Mode: TypeAlias = "bool | Callable[[str], bool]"
"""The mode of a call: whether it is training; or a function that says so for the path of a net."""


class Call:
    """What one call knows: its mode, its ``rng`` and how often each path drew. The root of every view.

    Three attributes are set in some calls only. ``concrete_nets`` collects what lazy nets become, by path, in a call
    that is made to learn shapes. ``find_drawing_path`` is set while a foreign forward runs, and returns the path at
    which that forward draws, in the form that :func:`draw_source` takes. ``interceptor`` is set while draws of torch's
    own random functions come from ``rng``.
    """

    __slots__ = ("closed", "concrete_nets", "counts", "find_drawing_path", "interceptor", "rng", "train")

    def __init__(self, train: Mode, rng: Rng | None, concrete_nets: ConcreteNets | None = None) -> None:
        self.train: Mode = train
        self.rng: Any = rng
        self.counts: dict[str, int] = {}
        self.closed = False
        self.concrete_nets = concrete_nets
        self.find_drawing_path: Callable[[], Any] | None = None
        self.interceptor: DrawInterceptor | None = None


def call_and_path(view: View) -> tuple[Call, str]:
    """The call that a view belongs to, and its path in the net that was called."""
    path, up = view._name, view._up
    while type(up) is not Call:
        path, up = join(up._name, path), up._up
    return up, path


def describe_view(view: View) -> str:
    """A view in words: the name of its net, and its path."""
    path = call_and_path(view)[1]
    return f"{type(view).__name__} at {path!r}" if path else type(view).__name__
