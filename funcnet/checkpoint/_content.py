"""The content of a checkpoint that is to be written, in whatever format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from funcnet.checkpoint._checkpoint import Spec


@dataclass(frozen=True)
class Content:
    """Tensors as shapes, dtypes and a source of bytes, and the other values of a file.

    Attributes:
        specs: shape and dtype by name, in the order of the names in the file.
        chunks: returns the bytes of one tensor, row-major and little-endian, in pieces; a piece is valid until the next
            one is asked for.
        aliases: further names (ties): alias -> name in ``specs``.
        extras: values that are not tensors, by path.
        metadata: remarks to store.
    """

    specs: Mapping[str, Spec]
    chunks: Callable[[str], Iterator[memoryview]]
    aliases: Mapping[str, str] = field(default_factory=dict)
    extras: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)

    def take_shard(self, names: list[str], is_first: bool) -> Content:
        """The content of the shard that has these tensors; the extras go into the first shard."""
        owners = set(names)
        return replace(
            self,
            specs={name: self.specs[name] for name in names},
            aliases={alias: owner for alias, owner in self.aliases.items() if owner in owners},
            extras=self.extras if is_first else {},
        )
