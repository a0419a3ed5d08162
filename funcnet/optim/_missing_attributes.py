"""What to write in place of the methods and arguments that optimizers and schedulers have elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from funcnet.optim._pairing import describe


class ExplainsMissing:
    """A record that says what to write in place of a method that it does not have, and torch.optim or optax has."""

    _instead: ClassVar[Mapping[str, str]] = {}
    """What to write, by the name of the method that there is elsewhere."""

    if not TYPE_CHECKING:  # a type checker would take it for a promise of every attribute

        def __getattr__(self, name: str) -> Any:
            advice = type(self)._instead.get(name)
            reason = f": {advice}." if advice else ""
            raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}{reason}", name=name, obj=self)


def refuse_params(name: str, args: tuple[Any, ...], hyperparameters: Mapping[str, Any]) -> None:
    """Refuse the params that an optimizer of torch takes first.

    Raises:
        TypeError: says what to write.
    """
    if "params" in hyperparameters:
        args = (hyperparameters["params"],)
    if args and isinstance(args[0], (Iterable, nn.Module)) and not isinstance(args[0], (Tensor, str)):
        shown = ", ".join(f"{key}=..." for key in hyperparameters if key != "params") or "lr=..."
        raise TypeError(
            f"an optimizer holds no params, and {name} is given {describe(args[0])}. "
            f"Write optimizer = {name}({shown}), then state = optimizer.init(params)."
        )
