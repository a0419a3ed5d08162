"""Nets from plain functions."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pickle import PicklingError
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

from funcnet.core._edits import Edits
from funcnet.core._net import Net
from funcnet.core._part_check import check_part
from funcnet.core._view import RESERVED

P = ParamSpec("P")
R = TypeVar("R")


class Composed(Net, Generic[P, R], fields_in_view=False):
    """A net made by :func:`compose`: named parts and the function that uses them.

    >>> import funcnet as fn
    >>> @fn.compose(fc=fn.Linear(2, 3))
    ... def model(p, x):
    ...     return p.fc(x)
    >>> isinstance(model, Composed), fn.tree.paths(model.init(0)[0])
    (True, ['fc.weight', 'fc.bias'])
    """

    name: str
    body: Callable[Concatenate[Any, P], R]
    named_parts: tuple[tuple[str, Any], ...]

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """A part by name: a net, a ``Param`` or ``Buffer``, a function or a constant."""

    @property
    def forward(self) -> Callable[Concatenate[Any, P], R]:
        """The body itself, ``body(p, *inputs)``."""
        return self.body

    def title(self) -> str:
        return self.name

    def parts(self) -> Mapping[str, Any]:
        return dict(self.named_parts)

    def _with_children(self, nets: Mapping[str, Net], replaced: Mapping[str, Net]) -> Net:
        return Composed(self.name, self.body, tuple({**dict(self.named_parts), **nets}.items()))

    def __reduce__(self) -> Any:
        # By name, as functions are: the name of the body now means this net, so the body itself cannot be pickled.
        module, name = self.body.__module__, self.body.__qualname__
        value: Any = sys.modules.get(module)
        for key in name.split("."):
            value = getattr(value, key, None)
        if isinstance(value, Composed) and _differ_only_in_edits(value, self):
            return (_load_composed, (module, name, self._edits))
        raise PicklingError(
            f"{self.name} cannot be pickled: {module}.{name} is another. Compose it at the top of a module."
        )


def _differ_only_in_edits(net: Composed[..., Any], edited_net: Composed[..., Any]) -> bool:
    return net._field_values() == edited_net._field_values()


def _load_composed(module: str, name: str, edits: Edits) -> Composed[..., Any]:
    """The net with this name in a module, with the edits of the pickled net."""
    value: Any = import_module(module)
    for key in name.split("."):
        value = getattr(value, key)
    net: Composed[..., Any] = value
    return net if net._edits == edits else net._with_edits(edits)


class Decorator(Protocol):
    """The decorator that :func:`compose` returns: it keeps the inputs and the output of the body."""

    def __call__(self, body: Callable[Concatenate[Any, P], R], /) -> Composed[P, R]: ...


@overload
def compose(function: None = None, /, **parts: Any) -> Decorator: ...
@overload
def compose(function: Callable[Concatenate[Any, P], R], /, **parts: Any) -> Composed[P, R]: ...
def compose(function: Callable[..., Any] | None = None, /, **parts: Any) -> Composed[..., Any] | Decorator:
    """Make a net of named parts and the function below.

    Args:
        parts: nets; ``Param`` and ``Buffer``; functions; other hashable values, which the body reads as constants; or
            ``None`` for a part left out.

    Returns:
        A decorator of ``body(p, *inputs)``. The result is a :class:`Net` named after the function. In the body
        ``p.fc(x)`` calls a part, ``p.fc.weight`` and ``p.scale`` are tensors, ``p.running = new`` records a new buffer,
        ``p.training`` is the mode and ``p.rng`` what to draw from.

    Raises:
        TypeError: if a part is a tensor, a module, or not hashable.
        ValueError: if a name is one that nn.Module uses itself.

    >>> import torch
    >>> import torch.nn.functional as F
    >>> from funcnet import Linear
    >>> @compose(fc1=Linear(4, 8), fc2=Linear(8, 2))
    ... def mlp(p, x):
    ...     return p.fc2(F.relu(p.fc1(x)))
    >>> params, _ = mlp.init(0)
    >>> mlp(params, torch.ones(3, 4)).shape
    torch.Size([3, 2])
    """
    for name, part in parts.items():
        if name in RESERVED or "." in name:
            raise ValueError(
                f"a part cannot be named {name!r}: nn.Module or a view uses that name itself. Choose another."
            )
        check_part(name, part)

    def decorate(body: Callable[Concatenate[Any, P], R]) -> Composed[P, R]:
        if not callable(body) or isinstance(body, Net):
            got = body.title() if isinstance(body, Net) else repr(body)
            raise TypeError(
                f"compose decorates a function body(p, *inputs), not {got}. Parts are given by name: fc=..."
            )
        name = getattr(body, "__name__", type(body).__name__)
        return Composed("Lambda" if name == "<lambda>" else name, body, tuple(parts.items()))

    return decorate if function is None else decorate(function)
