"""The object that stands in a tree where a leaf was taken out."""

from __future__ import annotations

from typing import Any, ClassVar

import optree
from typing_extensions import Self

from funcnet._torch import pytree


class Absent:
    """The object that stands where a leaf was before :func:`funcnet.tree.partition` put it into the other tree.

    It is structure, not a leaf: ``torch.func.grad``, ``torch.vmap``, optree and torch's pytrees pass over it. So a
    partition can be differentiated or mapped over as it is, and keeps the order of its keys.

    >>> Absent() is ABSENT
    True
    """

    _instance: ClassVar[Any] = None

    def __new__(cls) -> Self:
        if cls._instance is None:
            cls._instance = super().__new__(cls)
        return cls._instance

    def __repr__(self) -> str:
        return "ABSENT"

    def __bool__(self) -> bool:
        return False

    def __copy__(self) -> Absent:
        return self

    def __deepcopy__(self, memo: object) -> Absent:
        return self

    def __reduce__(self) -> tuple[type[Absent], tuple[()]]:
        return (Absent, ())


ABSENT = Absent()
"""The one instance of :class:`Absent`."""

_register_node: Any = optree.register_pytree_node  # typed for collections, and this one has no items
_EVERYWHERE = vars(optree.registry)["__GLOBAL_NAMESPACE"]
_register_node(Absent, lambda _: ((), None), lambda _, __: ABSENT, namespace=_EVERYWHERE)
pytree.register_pytree_node(
    Absent, lambda _: ([], None), lambda _, __: ABSENT, flatten_with_keys_fn=lambda _: ([], None)
)
