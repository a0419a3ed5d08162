"""What to write in place of the methods that optimizers and schedulers have elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar


class ExplainsMissing:
    """A record that says what to write in place of a method that it does not have, and torch.optim or optax has."""

    _instead: ClassVar[Mapping[str, str]] = {}
    """What to write, by the name of the method that there is elsewhere."""

    if not TYPE_CHECKING:  # a type checker would take it for a promise of every attribute

        def __getattr__(self, name: str) -> Any:
            advice = type(self)._instead.get(name)
            reason = f": {advice}." if advice else ""
            raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}{reason}", name=name, obj=self)
