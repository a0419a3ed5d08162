"""What this package needs of a net, as a protocol: so checkpoints import trees, and no package that makes nets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

from funcnet._typing import Shape


class DeclaredTensor(Protocol):
    """One tensor that a net declares: its path, and a spec with the shape (of a buffer also ``persistent``)."""

    @property
    def path(self) -> str: ...
    @property
    def spec(self) -> Any: ...  # a Param or a Buffer, whose fields are typed in the package of nets


@runtime_checkable
class NetLayout(Protocol):
    """The part of ``funcnet.Net`` that says which tensors a net has."""

    def entries(self) -> Iterable[DeclaredTensor]: ...
    @property
    def aliases(self) -> Mapping[str, str]: ...


def state_dict_shapes(net: NetLayout) -> dict[str, Shape]:
    """Shapes of the tensors that the ``state_dict`` of a net has, by path; ties are left out."""
    return {entry.path: tuple(entry.spec.shape) for entry in net.entries() if getattr(entry.spec, "persistent", True)}
