"""The content of a checkpoint that is to be written, in whatever format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from funcnet.checkpoint._checkpoint import Spec
from funcnet.checkpoint._errors import CheckpointError
from funcnet.checkpoint._structure import Structure, encode_structure, is_state_dict, is_told_by_names


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
        structure: the dicts, lists and tuples that the names come from, if there are other than the names tell.
        forms: by name, what a .pt file has in place of a plain tensor.
    """

    specs: Mapping[str, Spec]
    chunks: Callable[[str], Iterator[memoryview]]
    aliases: Mapping[str, str] = field(default_factory=dict)
    extras: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    structure: Structure | None = None
    forms: Mapping[str, object] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """All names, in the order in which a file is read: of tensors, of ties, and of other values."""
        return [*self.specs, *self.aliases, *self.extras]

    def encode_structure(self) -> Any:
        """The structure for a file of names, as what JSON can hold; None if the names tell it.

        Raises:
            CheckpointError: if JSON cannot hold a key.
        """
        if self.structure is None or is_state_dict(self.structure) or is_told_by_names(self.structure, self.names):
            return None
        try:
            return encode_structure(self.structure)
        except TypeError as error:
            raise CheckpointError(f"a key of a dict is neither a number nor a string: {error}. Rename it.") from None

    def take_shard(self, names: list[str], is_first: bool) -> Content:
        """The content of the shard that has these tensors; extras and structure go into the first shard."""
        owners = set(names)
        return replace(
            self,
            specs={name: self.specs[name] for name in names},
            aliases={alias: owner for alias, owner in self.aliases.items() if owner in owners},
            extras=self.extras if is_first else {},
            structure=self.structure if is_first else None,
        )
