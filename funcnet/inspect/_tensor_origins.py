"""Where each tensor of a call comes from, told by its memory: views and in-place results keep the memory they had."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from funcnet._torch import Memory, is_wrapped_by_transform, pytree, unwrap_once

Names = frozenset[str]


class GivenMemory(NamedTuple):
    """Memory that existed before the call: whether it is of "params", "buffers" or "inputs", and its name."""

    kind: str
    name: str


class TensorOrigins:
    """The memory of a call: what was given to it, what was made in it, and on what the values in it depend.

    Args:
        module: the module that is called; its parameters and buffers are given.
        inputs: pairs of a name and a tensor, which are given too.
    """

    def __init__(self, module: nn.Module, inputs: Iterable[tuple[str, Tensor]]) -> None:
        self._given: dict[Memory, GivenMemory] = {}
        self._dependencies: dict[Memory, Names] = {}
        for path, parameter in module.named_parameters():
            self.register(parameter, GivenMemory("params", path))
        for path, buffer in module.named_buffers():
            self.register(buffer, GivenMemory("buffers", path))
        for name, tensor in inputs:
            self.register(tensor, GivenMemory("inputs", name))

    def register(self, tensor: Tensor, origin: GivenMemory) -> None:
        """Note what the memory of a tensor is; the first origin that is noted for it stays."""
        memory = memory_of(tensor)
        if memory is not None:
            self._given.setdefault(memory, origin)
            dependency = origin.name if origin.kind == "inputs" else origin.kind
            self._dependencies.setdefault(memory, frozenset({dependency}))

    def find_given(self, tensor: Tensor) -> GivenMemory | None:
        """What the memory of a tensor was before the call; None if it was made in it, or comes from elsewhere."""
        memory = memory_of(tensor)
        return None if memory is None else self._given.get(memory)

    def is_from_outside(self, tensor: Tensor) -> bool:
        """Whether a tensor was neither given to the call nor made in it."""
        memory = memory_of(tensor)
        return memory is not None and memory not in self._dependencies and tensor.numel() > 0

    def dependencies_of(self, tensors: Iterable[Tensor]) -> Names:
        """The names of everything that the values of the tensors depend on; no names for constants."""
        memories = (memory for memory in map(memory_of, tensors) if memory is not None)
        return frozenset().union(*(self._dependencies.get(memory, OUTSIDE) for memory in memories))

    def add_dependencies(self, tensors: Iterable[Tensor], names: Names) -> None:
        """Note that tensors were made, or written to, with values that depend on these names."""
        for tensor in tensors:
            memory = memory_of(tensor)
            if memory is not None:
                self._dependencies[memory] = self._dependencies.get(memory, frozenset()) | names


OUTSIDE: Names = frozenset({"a tensor from outside"})
DRAWN: Names = frozenset({"a draw"})


def memory_of(tensor: Tensor) -> Memory | None:
    """The memory of a tensor; None for a tensor without a storage of its own (sparse, nested, of some subclass).

    A tensor that a transform of torch.func wraps has the memory of the tensor inside.
    """
    while is_wrapped_by_transform(tensor):
        tensor = unwrap_once(tensor)
    if tensor.layout is not torch.strided or tensor.is_nested:
        return None
    try:
        return Memory(tensor.untyped_storage())
    except (NotImplementedError, RuntimeError):
        return None


def tensor_leaves(tree: object) -> list[Tensor]:
    """The tensors in what a module takes or returns, in containers that libraries register with torch too.

    ``iter_tensors`` does not know those containers, such as the caches of transformers.
    """
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]
