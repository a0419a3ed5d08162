"""What the class of a net promises about its body, given as keywords of the class statement."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from funcnet.core._net import Net

_PACKAGE = __name__.partition(".")[0]


@dataclass(frozen=True)
class BodyTraits:
    """The promises of one class of nets about its ``forward``: ``class ReLU(Layer, ignores_view=True)``.

    Args:
        trusted: the body draws random numbers from ``p`` only and writes to nothing in place.
        ignores_view: the body never uses its ``p``, so any view will do for it.
        reads_trees: the body finds its tensors in the dicts of the call, so its view needs no names for them.
        one_piece: the body calls none of the parts, and writes to no buffer in place.
        fields_in_view: the body reads the fields of the record by name on its view.
    """

    trusted: bool = False
    ignores_view: bool = False
    reads_trees: bool = False
    one_piece: bool = False
    fields_in_view: bool = True


def traits_of_class(cls: type[Net], declared: dict[str, bool | None]) -> BodyTraits:
    """The promises of a class: those in its class statement, else those of the class that it extends.

    A promise about a body holds for that body only. So ``ignores_view`` ends where a subclass has a forward of its own,
    and a class outside of funcnet inherits neither it nor ``trusted``: any method that it overrides may be one that
    the body relies on. Such a class can make the promises itself.
    """
    inherited: BodyTraits = cls._traits
    if cls.__module__.partition(".")[0] != _PACKAGE:
        inherited = replace(inherited, trusted=False, ignores_view=False)
    elif "forward" in cls.__dict__:
        inherited = replace(inherited, ignores_view=False)
    return replace(inherited, **{name: value for name, value in declared.items() if value is not None})
