"""A net as a value: how it is compared, hashed, copied and pickled."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cached_property, wraps
from typing import Any, ClassVar

from typing_extensions import Self

from funcnet.core._edits import Edits


@dataclasses.dataclass
class _EditsArgument:
    _added_edits: dataclasses.InitVar[Edits | None] = None


_REPLACED_FIELDS = "__dataclass_fields__"
_EDITS_FIELD: dataclasses.Field[Any] = _EditsArgument.__dict__[_REPLACED_FIELDS]["_added_edits"]
"""What ``dataclasses.replace`` reads from an edited net, besides its fields, and hands to the class."""


class RecordValue:
    """A frozen dataclass; two instances of one class are equal if their fields and edits are equal.

    ``dataclasses.replace`` and ``copy.replace`` make a new record of the fields of the old one. An edited net has one
    field more, ``_added_edits``, which ``dataclasses.fields`` does not list. So its edits come along, or are refused
    where they do not fit the new fields.
    """

    _edits: ClassVar[Edits] = Edits()  # set on an instance once it is tied, frozen, or has a replaced part

    def _with_edits(self, edits: Edits) -> Self:
        """The same record with other edits."""
        copy = object.__new__(type(self))
        copy.__setstate__({**self.__getstate__(), "_edits": edits})
        return copy

    def _add_edits(self, edits: Edits) -> None:
        """Take over the edits of another record of this class while this one is being built.

        Raises:
            TreeError: if they do not fit; lists every misfit.
        """
        raise NotImplementedError

    @property
    def _added_edits(self) -> Edits:
        """The edits that were made to the net since it was built of its fields."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(type(self)) if field.init}  # type: ignore[arg-type]
        return self._edits.without(type(self)(**fields)._edits)

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

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if "_edits" in state:
            self.__dict__[_REPLACED_FIELDS] = {**getattr(type(self), _REPLACED_FIELDS), "_added_edits": _EDITS_FIELD}

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __copy__(self) -> Self:
        return self


def take_added_edits(init: Callable[..., None]) -> Callable[..., None]:
    """The ``__init__`` of a class of nets, which also takes the edits that ``dataclasses.replace`` hands on."""

    @wraps(init)
    def init_with_edits(self: RecordValue, *args: Any, _added_edits: Edits | None = None, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        if _added_edits is not None:
            self._add_edits(_added_edits)

    return init_with_edits
