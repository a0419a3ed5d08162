"""What the methods of a net that return another net add to its record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from funcnet.core._net import Net


@dataclass(frozen=True)
class Edits:
    """What a record holds beside the fields that its class declares.

    Args:
        aliases: pairs of alias path and owner path, as :meth:`Net.tie` declares them.
        frozen: paths of the params that :meth:`Net.freeze` selected. They change no result, so nets that differ in
            this alone are equal.
        replaced: names of parts and the nets that :meth:`Net.replaced` put in their place.
    """

    aliases: tuple[tuple[str, str], ...] = ()
    frozen: tuple[str, ...] = ()
    replaced: tuple[tuple[str, Net], ...] = ()
