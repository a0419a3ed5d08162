"""Views of containers: indexing, slicing and iterating over parts, as on the torch.nn containers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

from torch import Tensor

from funcnet.core import View

T = TypeVar("T")


class SequenceView(View):
    """The view of a ModuleList: a sequence of parts."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self._getters)

    def __iter__(self) -> Iterator[Any]:
        return iter([get(self) for get in self._getters])

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [get(self) for get in self._getters[index]]
        return self._getters[index](self)


class SequentialView(SequenceView):
    """The view of a Sequential: a sequence of parts whose slices can be called, as nn.Sequential's."""

    __slots__ = ()

    def __getitem__(self, index: int | slice) -> Any:
        part = super().__getitem__(index)
        return CallableSlice(part) if isinstance(index, slice) else part


class CallableSlice(list[Any]):
    """The views of some parts of a Sequential, in order; called, it applies them one after the other."""

    def __call__(self, x: Any) -> Any:
        for part in self:
            x = part(x)
        return x


class MappingView(View):
    """The view of a ModuleDict: a mapping of names to parts."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise _missing_key_error(name, self._names)
        return self._getters[self._names.index(name)](self)

    def keys(self) -> tuple[str, ...]:
        """Names of the parts."""
        return self._names

    def values(self) -> list[Any]:
        """The parts."""
        return [get(self) for get in self._getters]

    def items(self) -> list[tuple[str, Any]]:
        """Names and parts."""
        return [(name, get(self)) for name, get in zip(self._names, self._getters, strict=True)]


class ParamSequenceView(View):
    """The view of a ParameterList: a sequence of tensors."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self._tensors)

    def __iter__(self) -> Iterator[Tensor]:
        return iter([self._params[name] for name in self._tensors])

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self._params[name] for name in self._tensors[index]]
        return self._params[self._tensors[index]]


class ParamMappingView(View):
    """The view of a ParameterDict: a mapping of names to tensors."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self._tensors)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __reversed__(self) -> Iterator[str]:
        return reversed(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._tensors:
            raise _missing_key_error(name, self._tensors)
        tensor: Tensor = self._params[name]
        return tensor

    def get(self, name: str, default: T | None = None) -> Tensor | T | None:
        """The tensor of this name, or ``default`` if there is none."""
        return self._params[name] if name in self._tensors else default

    def keys(self) -> tuple[str, ...]:
        """Names of the tensors."""
        return self._tensors

    def values(self) -> list[Tensor]:
        """The tensors."""
        return [self._params[name] for name in self._tensors]

    def items(self) -> list[tuple[str, Tensor]]:
        """Names and tensors."""
        return [(name, self._params[name]) for name in self._tensors]


def _missing_key_error(name: str, names: tuple[str, ...]) -> KeyError:
    return KeyError(f"{name!r}; the parts are {list(names)}")
