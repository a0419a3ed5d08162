"""What is to be written, format by format."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from funcnet.checkpoint._checkpoint import Spec
from funcnet.checkpoint._errors import CheckpointError, truncated_list
from funcnet.checkpoint._flat import to_plain


@dataclass(frozen=True)
class Content:
    """Tensors as shapes, dtypes and a source of bytes; and what else a file shall hold.

    Attributes:
        specs: shape and dtype by name, in the order of the names in the file.
        chunks: gives the bytes of one tensor, row-major and little-endian, in pieces; a piece is valid until the next
            is asked for.
        aliases: further names: alias -> name in ``specs``.
        extras: what is not a tensor, by path.
        metadata: remarks to keep.
    """

    specs: Mapping[str, Spec]
    chunks: Callable[[str], Iterator[memoryview]]
    aliases: Mapping[str, str] = field(default_factory=dict)
    extras: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)

    def only(self, names: list[str], first: bool) -> Content:
        """The part of it in one shard; extras go into the first."""
        held = set(names)
        return replace(
            self,
            specs={name: self.specs[name] for name in names},
            aliases={alias: owner for alias, owner in self.aliases.items() if owner in held},
            extras=self.extras if first else {},
        )


def values_as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values for a format that has no place for Python objects but text.

    Raises:
        CheckpointError: names the values that text cannot hold.
    """
    plain, wrong = {}, []
    for name, value in values.items():
        try:
            plain[name] = to_plain(value)
            json.dumps(plain[name])
        except (TypeError, ValueError, RecursionError) as error:  # noqa: PERF203  all at once
            wrong.append(f"{name}: {error}")
    if wrong:
        raise CheckpointError(
            f"these values are neither tensors nor plain numbers, strings, lists or dicts:{truncated_list(wrong)}\n"
            f"Pick the part that holds the tensors, or save them to a .pt file."
        )
    return plain
