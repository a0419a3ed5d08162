"""Where each tensor of a call comes from, told by its memory: views and in-place results keep the memory they had."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from funcnet._torch import Memory, pytree

Names = frozenset[str]


class Held(NamedTuple):
    """Memory that was there before the call: what it is, and its name."""

    kind: str
    name: str


class Origins:
    """The memory of a call: what was given, what was made, and on what the values in it depend.

    Args:
        module: its parameters and buffers were given.
        inputs: pairs of a name and a tensor, given too.
    """

    def __init__(self, module: nn.Module, inputs: Iterable[tuple[str, Tensor]]) -> None:
        self.held: dict[Memory, Held] = {}
        self._depends: dict[Memory, Names] = {}
        for path, parameter in module.named_parameters():
            self.hold(parameter, Held("params", path))
        for path, buffer in module.named_buffers():
            self.hold(buffer, Held("buffers", path))
        for name, tensor in inputs:
            self.hold(tensor, Held("inputs", name))

    def hold(self, tensor: Tensor, held: Held) -> None:
        """Note what some memory is."""
        memory = memory_of(tensor)
        if memory is not None:
            self.held.setdefault(memory, held)
            self._depends.setdefault(memory, frozenset({held.name if held.kind == "inputs" else held.kind}))

    def holder(self, tensor: Tensor) -> Held | None:
        """What the memory of a tensor was before the call; None if it was made in it, or comes from elsewhere."""
        memory = memory_of(tensor)
        return None if memory is None else self.held.get(memory)

    def outside(self, tensor: Tensor) -> bool:
        """Whether a tensor was neither given nor made in the call."""
        memory = memory_of(tensor)
        return memory is not None and memory not in self._depends and tensor.numel() > 0

    def depends(self, tensors: Iterable[Tensor]) -> Names:
        """The names of all that the values of some tensors depend on; none for a constant."""
        found = (self._depends.get(memory, OUTSIDE) for memory in map(memory_of, tensors) if memory is not None)
        return frozenset().union(*found)

    def made(self, tensors: Iterable[Tensor], depends: Names) -> None:
        """Note that tensors were made or written to, of values that depend on these names."""
        for tensor in tensors:
            memory = memory_of(tensor)
            if memory is not None:
                self._depends[memory] = self._depends.get(memory, frozenset()) | depends


OUTSIDE: Names = frozenset({"a tensor from outside"})
DRAWN: Names = frozenset({"a draw"})


def memory_of(tensor: Tensor) -> Memory | None:
    """The memory of a tensor; None for one without a storage of its own (sparse, nested, of some subclass)."""
    if tensor.layout is not torch.strided or tensor.is_nested:
        return None
    try:
        return Memory(tensor.untyped_storage())
    except (NotImplementedError, RuntimeError):
        return None


def tensors_in(*values: Any) -> Iterator[Tensor]:
    """The tensors in the arguments or the result of an operator: themselves, or in lists."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from tensors_in(*value)
        elif isinstance(value, dict):
            yield from tensors_in(*value.values())


def leaves_in(tree: Any) -> list[Tensor]:
    """The tensors in what a module takes or gives."""
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]
