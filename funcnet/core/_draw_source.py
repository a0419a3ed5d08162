"""The root of the views of one call, and where the next draw of a net comes from.

Layers call :func:`draw_source` with their view: it draws from a Key by the path of the net, or from the sequence of an
int seed. A foreign module's dropout gets its ``rng`` here too, by the path of the submodule that draws.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from funcnet._errors import RandomnessError
from funcnet.random import Rng, Stream
from funcnet.random.internals import DrawInterceptor, rng_at_path
from funcnet.tree import join

if TYPE_CHECKING:
    from funcnet.core._lazy import ConcreteNets
    from funcnet.core._view import View

PASS_RNG = "Pass rng=funcnet.random.key(0), or rng=0 for the draws of torch.manual_seed(0)."

Mode: TypeAlias = "bool | Callable[[str], bool]"
"""The mode of a call: whether it is training; or a function that says so for the path of a net."""


class Call:
    """What one call knows: its mode, its ``rng`` and how often each path drew. The root of every view.

    Four attributes are set in some calls only. ``stacks`` holds, by path, the layers that are taken out of stacked
    tensors once in a call, and what becomes of them. ``concrete_nets`` collects what lazy nets become, by path, in a
    call that is made to learn shapes. ``find_drawing_path`` is set while a foreign forward runs, and returns the path
    at which that forward draws, in the form that :func:`draw_source` takes. ``interceptor`` is set while draws of
    torch's own random functions come from ``rng``.

    Args:
        path: where the net that is called stands in the net of another call, of which this call is a part.
    """

    __slots__ = (
        *("closed", "concrete_nets", "counts", "find_drawing_path", "interceptor", "path", "rng", "stacks", "train"),
    )

    def __init__(self, train: Mode, rng: Rng | None, concrete_nets: ConcreteNets | None = None, path: str = "") -> None:
        self.path = path
        self.train: Mode = train
        self.rng: Any = rng
        self.counts: dict[str, int] = {}
        self.stacks: dict[str, OpenStack] = {}
        self.closed = False
        self.concrete_nets = concrete_nets
        self.find_drawing_path: Callable[[], Any] | None = None
        self.interceptor: DrawInterceptor | None = None

    def fork(self, path: str = "") -> Call:
        """A call in the same state, of a net that stands at ``path``; what it draws does not move this one."""
        rng = self.rng.fork() if type(self.rng) is Stream else self.rng
        fork = Call(self.train, rng, self.concrete_nets, path)
        fork.counts = dict(self.counts)
        return fork

    def go_on_from(self, fork: Call) -> None:
        """Be where a fork of this call has come to."""
        if type(self.rng) is Stream:
            self.rng.go_on_from(fork.rng)
        self.counts.update(fork.counts)


class OpenStack(Protocol):
    """The layers of stacked tensors, while a call uses them."""

    def record(self) -> None:
        """Put the new buffers of the layers into the tree of the call."""


class PartOfCall:
    """A net that stands at a path of another call: each run of its body is a fork of that call.

    Args:
        call: the other call.
        path: where the part stands in the net of that call.
    """

    def __init__(self, call: Call, path: str) -> None:
        self._call, self._path = call, path
        self._last_run: Call | None = None

    def start_run(self) -> Call:
        """The call for one more run of the body, from where the other call is."""
        self._last_run = self._call.fork(self._path)
        return self._last_run

    def end(self) -> None:
        """Let the other call go on after the last run."""
        assert self._last_run is not None
        self._call.go_on_from(self._last_run)


class CallRoot:
    """The root of a call in the place of a view, for draws at no path: those of torch's own functions in a body."""

    __slots__ = ("_name", "_up")

    def __init__(self, call: Call) -> None:
        self._up = call
        self._name = ""


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


def draw_source(view: View, subpath: str = "") -> Rng:
    """The ``rng`` of the next draw at the path of a view, or at a path under it.

    Raises:
        RandomnessError: if the call has no ``rng``, or is over.

    >>> import torch, funcnet as fn
    >>> @fn.compose()
    ... def noisy(p, x):
    ...     return x + fn.random.normal(draw_source(p), x.shape)
    >>> noisy.apply({}, {}, torch.ones(3), rng=fn.random.key(0))[0].shape
    torch.Size([3])
    """
    up, path = view._up, view._name
    if subpath:
        path = join(path, subpath)
    while type(up) is not Call:
        name = up._name
        path, up = f"{name}.{path}" if name else path, up._up
    rng = up.rng
    if rng is None:
        raise RandomnessError(f"{describe_view(view)} draws random numbers and rng is None. {PASS_RNG}")
    if up.closed:
        raise RandomnessError(
            f"{describe_view(view)} draws after its call has ended, as when torch.utils.checkpoint runs a part again: "
            f"the draws would differ from the first run. Checkpoint a function of (params, x, key) that calls the net."
        )
    if type(rng) is Stream:
        return rng
    counts = up.counts
    count = counts.get(path, 0)
    counts[path] = count + 1
    return rng_at_path(rng, path, count)
