"""What a body sees: the net at its path, for one call. The classes of views are generated in ``_view_classes``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from funcnet._typing import Tree
from funcnet.core._draw_source import Call, call_and_path, draw_source
from funcnet.random import Stream, fold_in
from funcnet.random.internals import KeyAtPath

EMPTY_TREE: Tree = {}
RESERVED = frozenset(name for name in dir(nn.Module) if not name.startswith("__")) | {"training", "rng"}
"""Names that no part can have, because an nn.Module or a view means something else by them."""


class View:
    """The ``p`` of a body: params, buffers, parts and fields by name, for one call.

    ``p.fc(x)`` calls a part and ``p.fc.weight`` reads its tensor; assigning ``p.running_mean = new`` records a new
    buffer and writes nothing. An ``nn.Module`` with the same names does the same things.

    >>> import torch, funcnet as fn
    >>> class Counter(fn.Net):
    ...     def parts(self):
    ...         return {"fc": fn.Linear(2, 2), "calls": fn.Buffer(1, 0.0)}
    ...     @staticmethod
    ...     def forward(p, x):
    ...         p.calls = p.calls + 1
    ...         return p.fc(x)
    >>> params, buffers = Counter().init(0)
    >>> Counter().apply(params, buffers, torch.ones(1, 2))[1]
    {'calls': tensor([1.])}
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
        """Whether the net at this path is in training mode."""
        up = self._up
        while type(up) is not Call:
            up = up._up
        return up.train if isinstance(up.train, bool) else bool(up.train(call_and_path(self)[1]))

    @property
    def rng(self) -> Tensor | Stream:
        """What to draw from: with a Key, a new Key at every read; with an int seed, its sequence."""
        rng = draw_source(self)
        return fold_in(rng.key, rng.salt) if isinstance(rng, KeyAtPath) else rng

    def __repr__(self) -> str:
        return f"<view of {type(self).__name__} at {call_and_path(self)[1] or 'the root'!r}>"
