"""A net as a value: how it is compared, hashed, copied and pickled."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any, ClassVar

from typing_extensions import Self

from funcnet.core._edits import Edits


class RecordValue:
    """A frozen dataclass; two instances of one class are equal if their fields and edits are equal."""

    _edits: ClassVar[Edits] = Edits()  # set on an instance once it is tied, frozen, or has a replaced part

    def _with_edits(self, edits: Edits) -> Self:
        """The same record with other edits."""
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__getstate__(), _edits=edits)
        return copy

    def _field_values(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]

    def _equality_key(self) -> tuple[Any, ...]:
        """Two nets of one class are equal if these values are equal; edits that change no result are left out."""
        edits = self._edits
        return (*self._field_values().values(), edits.replaced, edits.order, edits.dtypes, edits.aliases)

    @cached_property
    def _hash(self) -> int:
        return hash((type(self), self._equality_key()))

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return type(other) is type(self) and hash(self) == hash(other) and self._equality_key() == other._equality_key()

    def __hash__(self) -> int:
        return self._hash

    def __getstate__(self) -> dict[str, Any]:
        names = {field.name for field in dataclasses.fields(self)} | {"_edits"}  # type: ignore[arg-type]
        return {name: value for name, value in self.__dict__.items() if name in names}

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __copy__(self) -> Self:
        return self
