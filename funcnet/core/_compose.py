"""Nets from plain functions."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pickle import PicklingError
from typing import Any

from funcnet.core._net import Net
from funcnet.core._parts import check_part
from funcnet.core._view import RESERVED


class Composed(Net, fields_in_view=False):
    """A net made by :func:`compose`: named parts and the function that uses them."""

    name: str
    body: Callable[..., Any]
    items: tuple[tuple[str, Any], ...]

    @property
    def forward(self) -> Callable[..., Any]:
        """The body itself, ``body(p, *inputs)``."""
        return self.body

    def title(self) -> str:
        return self.name

    def parts(self) -> Mapping[str, Any]:
        return dict(self.items)

    def _with_children(self, nets: Mapping[str, Net]) -> Net:
        return Composed(self.name, self.body, tuple({**dict(self.items), **nets}.items()))

    def __reduce__(self) -> Any:
        # By name, as functions are: the decorated name is this net, so the bare body cannot be pickled.
        module, name = self.body.__module__, self.body.__qualname__
        found: Any = sys.modules.get(module)
        for key in name.split("."):
            found = getattr(found, key, None)
        if isinstance(found, Composed) and found._record()[:-1] == self._record()[:-1]:
            return (_load, (module, name, self._aliases, self._edits.frozen))
        raise PicklingError(
            f"{self.name} cannot be pickled: {module}.{name} is another. Compose it at the top of a module."
        )


def _load(module: str, name: str, aliases: dict[str, str], frozen: tuple[str, ...]) -> Any:
    __import__(module)
    found: Any = sys.modules[module]
    for key in name.split("."):
        found = getattr(found, key)
    found = found if found.aliases == aliases else found.tie(aliases)
    return found if found._edits.frozen == frozen else found.freeze(frozen)


def compose(function: Callable[..., Any] | None = None, /, **parts: Any) -> Any:
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

    def decorate(body: Callable[..., Any]) -> Composed:
        if not callable(body) or isinstance(body, Net):
            given = body.title() if isinstance(body, Net) else repr(body)
            raise TypeError(
                f"compose decorates a function body(p, *inputs), not {given}. Parts are given by name: fc=..."
            )
        name = getattr(body, "__name__", type(body).__name__)
        return Composed("Lambda" if name == "<lambda>" else name, body, tuple(parts.items()))

    return decorate if function is None else decorate(function)
