"""The options of a conversion, as one record."""

from __future__ import annotations

from dataclasses import dataclass

from funcnet._typing import Selector


@dataclass(frozen=True)
class ConvertOptions:
    """The choices of one conversion, besides its source, target and rules.

    :func:`funcnet.checkpoint.convert` builds it from its keyword arguments; names, defaults and meanings are the same.
    """

    inverse: bool = False
    part: str | None = None
    select: Selector | None = None
    dtype: str | None = None
    lossy: bool = False
    shard_size: int | str | None = None
    format: str | None = None
