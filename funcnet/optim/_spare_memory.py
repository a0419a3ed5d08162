"""Two sets of large tensors in turn: a pure step writes its results over those of the step before the last.

``params, state = optimizer.step(params, grads, state)`` drops the old tensors, and the next step needs as much memory
again. For large tensors the C library returns memory to the system and asks for it anew, page by page, which takes
longer than the arithmetic of the step. So a tensor that a step made keeps the memory of its predecessor, as long as it
lives itself. The peak of memory stays that of a step, in which both sets are in use anyway.

Only memory that torch asked for is taken again, and only when no tensor, array or process can read it. Memory that came
from elsewhere, from an array or a mapped file, may have readers that torch does not know.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from funcnet._torch import count_storage_uses

_predecessors: Any = WeakIdKeyDictionary()
"""By tensor that a step made: a list with the storage of the tensor it was made of, or without if others made that."""


def empty_in_turn(tensor: Tensor) -> Tensor:
    """A tensor like this contiguous one on a CPU, with any numbers in it, for the result of a step."""
    spare: list[Any] | None = _predecessors.get(tensor)
    new = None
    if spare:
        try:
            taken = [spare.pop()]  # by one thread only
        except IndexError:
            taken = []
        if taken and _is_unreachable(taken) and taken[0].nbytes() == tensor.nbytes:
            new = torch.empty(0, dtype=tensor.dtype).set_(taken[0], 0, tensor.shape, tensor.stride())
    if new is None:
        new = torch.empty_like(tensor)
    _predecessors[new] = [] if spare is None else [tensor.untyped_storage()]
    return new


def _is_unreachable(storages: list[Any]) -> bool:
    """Whether nothing but this list of one storage can read the memory.

    Tensors count in C++, and in some versions of torch in Python too; an object for the storage counts in Python alone.
    """
    return (
        _count_references(storages) == _ONE_REFERENCE
        and count_storage_uses(storages[0]._cdata) == 1
        and storages[0].resizable()  # false for the memory of others
        and not storages[0].is_shared()
    )


def _count_references(storages: list[Any]) -> int:
    return sys.getrefcount(storages[0])


_ONE_REFERENCE = _count_references([torch.empty(1).untyped_storage()])
"""What Python counts, which depends on its version, where there is only the list."""
