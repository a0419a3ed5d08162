"""What a body sees: its place in the net, for one call. The classes of views are generated in ``_view_classes``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from torch import Tensor, nn

from funcnet._errors import RandomnessError
from funcnet._typing import Tree
from funcnet.random import Rng, Stream, fold_in
from funcnet.random.internals import DrawInterceptor, KeyAtPath, rng_at_path
from funcnet.tree import join

if TYPE_CHECKING:
    from funcnet.core._lazy import ConcreteNets

EMPTY_TREE: Tree = {}
RESERVED = frozenset(name for name in dir(nn.Module) if not name.startswith("__")) | {"training", "rng"}
"""Names that no part can have, because an nn.Module or a view means something else by them."""

Mode: TypeAlias = "bool | Callable[[str], bool]"
"""The mode of a call: whether it is training; or a function that says so for the path of a net."""


class Call:
    """What one call knows: its mode, its source of draws and how often each path drew. The root of every view.

    Three attributes are set in some calls only. ``concrete_nets`` collects what lazy nets become, by path, in a call
    that is made to learn shapes. ``find_place`` is set while a foreign forward runs, and gives the place in it at which
    something draws, in the form that :func:`draw_source` takes. ``interceptor`` is set while torch's own random
    functions are answered.
    """

    __slots__ = ("closed", "concrete_nets", "counts", "find_place", "interceptor", "rng", "train")

    def __init__(self, train: Mode, rng: Rng | None, concrete_nets: ConcreteNets | None = None) -> None:
        self.train: Mode = train
        self.rng: Any = rng
        self.counts: dict[str, int] = {}
        self.closed = False
        self.concrete_nets = concrete_nets
        self.find_place: Callable[[], Any] | None = None
        self.interceptor: DrawInterceptor | None = None


class View:
    """The ``p`` of a body: params, buffers, parts and fields by name, for one call.

    ``p.fc(x)`` calls a part and ``p.fc.weight`` reads its tensor; assigning ``p.running_mean = new`` records a new
    buffer and writes nothing. An ``nn.Module`` with the same names does the same things.
    """

    __slots__ = ()

    if TYPE_CHECKING:
        _up: Any
        _part_classes: tuple[type[View], ...]
        _name: str
        _params: Tree
        _buffers: Tree

        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...
        def __call__(self, *inputs: Any, **kwargs: Any) -> Any: ...

    _classes: tuple[type[View], ...] = ()
    _getters: tuple[Callable[[View], Any], ...] = ()
    _steps: tuple[Callable[[View, Any], Any], ...] = ()
    _names: tuple[str, ...] = ()
    _tensors: tuple[str, ...] = ()
    _expects: str | None = None  # None for a body that is not funcnet's own
    _shared: ClassVar[View | None] = None  # the one view of a body that ignores its view

    @property
    def training(self) -> bool:
        """Whether the net at this place is in training mode."""
        up = self._up
        while type(up) is not Call:
            up = up._up
        return up.train if isinstance(up.train, bool) else bool(up.train(call_and_path(self)[1]))

    @property
    def rng(self) -> Tensor | Stream:
        """What to draw from: with a Key, another Key at every look; with an int seed, its sequence."""
        source = draw_source(self)
        return fold_in(source.key, source.salt) if isinstance(source, KeyAtPath) else source

    def __repr__(self) -> str:
        return f"<view of {type(self).__name__} at {call_and_path(self)[1] or 'the root'!r}>"


def call_and_path(view: View) -> tuple[Call, str]:
    """The call that a view belongs to, and its path in the net that was called."""
    path, up = view._name, view._up
    while type(up) is not Call:
        path, up = join(up._name, path), up._up
    return up, path


def describe_place(view: View) -> str:
    """Words for the place of a view: the name of its net, and its path."""
    path = call_and_path(view)[1]
    return f"{type(view).__name__} at {path!r}" if path else type(view).__name__


def draw_source(view: View, subpath: str = "") -> Rng:
    """What the next draw at the place of a view, or at a path under it, draws from.

    Raises:
        RandomnessError: if the call has no ``rng``, or is over.
    """
    up, path = view._up, view._name
    if subpath:
        path = join(path, subpath)
    while type(up) is not Call:
        name = up._name
        path, up = f"{name}.{path}" if name else path, up._up
    rng = up.rng
    if rng is None:
        raise RandomnessError(f"{describe_place(view)} draws random numbers and rng is None. {PASS_RNG}")
    if up.closed:
        raise RandomnessError(
            f"{describe_place(view)} draws after its call has ended, as when torch.utils.checkpoint runs a part again: "
            f"the draws would differ from the first run. Checkpoint a function of (params, x, key) that calls the net."
        )
    if type(rng) is Stream:
        return rng
    counts = up.counts
    count = counts.get(path, 0)
    counts[path] = count + 1
    return rng_at_path(rng, path, count)


PASS_RNG = "Pass rng=funcnet.random.key(0), or rng=0 for the draws of torch.manual_seed(0)."
