"""Versions of the tensors in a call: beside each lie a few others, in each of which one example is another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from funcnet._torch import Memory
from funcnet.inspect._origins import memory_of

_MOST = 4  # the first, second, middle and last example, so that neighbours and ends are among them


class Versions:
    """The versions of all tensors in a call. In version k what belongs to example k differs, and nothing else does.

    Versions are of memory, so that views, and what is written in place, need no care.

    Args:
        batch: the inputs that hold examples, each with its axis of them; all have the same number.
    """

    def __init__(self, batch: Sequence[tuple[Tensor, int]]) -> None:
        self.number = batch[0][0].shape[batch[0][1]] if batch else 0
        last = self.number - 1
        self.tracked = sorted({0, 1, (last + 1) // 2, last})[:_MOST] if self.number > 1 else []
        self._of: dict[Memory, list[Tensor]] = {}
        self.changed = False
        for tensor, axis in batch if self.tracked else ():
            self.open(tensor)
            for version in range(len(self.tracked)):
                self._change(tensor, axis, version)

    def _change(self, tensor: Tensor, axis: int, version: int) -> None:
        """Let an example be another in its version: one of the others, which has values that are allowed there."""
        example = self.tracked[version]
        own = tensor.select(axis, example)
        others = (tensor.select(axis, (example + step) % self.number) for step in range(1, self.number))
        other = next((value for value in others if not torch.equal(value, own)), None)
        if own.is_floating_point() or own.is_complex():
            within = not own.is_complex() and bool((tensor >= 0).all() and (tensor <= 1).all())  # probabilities, say
            if other is None:
                other = torch.where(own == 0, 0.5, own * 0.5)
            elif not within and bool(other.any()):
                other = other * (2 * tensor.abs().max() / other.abs().max())  # so that a maximum over examples moves
        elif other is None:
            other = own.flip(list(range(own.dim())))
        self.of(tensor, version).select(axis, example).copy_(other)
        self.changed = self.changed or not torch.equal(other, own)

    def open(self, tensor: Tensor) -> None:
        """Give a tensor versions, which do not differ as yet."""
        memory = memory_of(tensor)
        if memory is not None and memory not in self._of:
            whole = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage())
            self._of[memory] = [whole.clone() for _ in self.tracked]
            for gone in [memory for memory in self._of if memory.expired()]:
                del self._of[gone]

    def has(self, tensor: Tensor) -> bool:
        """Whether a tensor has versions; one that has none is the same in all."""
        memory = memory_of(tensor)
        return memory is not None and memory in self._of

    def of(self, tensor: Tensor, version: int) -> Tensor:
        """The tensor in a version: a view of that version's memory."""
        memory = memory_of(tensor)
        if memory is None or memory not in self._of:
            return tensor
        made = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        storage = self._of[memory][version].untyped_storage()
        made.set_(storage, tensor.storage_offset(), tensor.shape, tensor.stride())
        return made.conj() if tensor.is_conj() else made

    def all_of(self, tensor: Tensor) -> list[Tensor]:
        """The tensor in every version."""
        return [self.of(tensor, version) for version in range(len(self.tracked))]

    def forget(self, tensors: Iterable[Tensor]) -> None:
        """Let these have none any more."""
        for tensor in tensors:
            memory = memory_of(tensor)
            if memory is not None:
                self._of.pop(memory, None)

    def differs(self, tensor: Tensor) -> Tensor:
        """Where each version of a tensor is not the true one: (versions, *shape)."""
        return differences(tensor, self.all_of(tensor))

    def owners(self, differs: Tensor) -> Tensor | None:
        """The example that each slice along some axis belongs to; None if there is no such axis.

        The axis is as long as the batch, or has the batch folded into it with other axes on either side.
        """
        for axis in sorted(range(1, differs.dim()), key=lambda axis: differs.shape[axis] != self.number):
            size = differs.shape[axis]
            if size % self.number or not size:
                continue
            others = [other for other in range(1, differs.dim()) if other != axis]
            hit = torch.any(differs, others) if others else differs
            if overlap(hit):
                continue
            tracked = torch.tensor(self.tracked, device=hit.device)[:, None]
            for fold in (fold for fold in range(1, size // self.number + 1) if size // self.number % fold == 0):
                owner = torch.arange(size, device=hit.device) // fold % self.number
                if not bool((hit & (owner != tracked)).any()):
                    return owner.view([-1 if at == axis else 1 for at in range(1, differs.dim())])
        return None

    def belongs(self, owners: Tensor) -> list[Tensor]:
        """What belongs to the example of each version."""
        return [owners == example for example in self.tracked]


def differences(true: Tensor, versions: Iterable[Tensor]) -> Tensor:
    """Where tensors differ from a true one; a NaN is no different from another."""
    return torch.stack([(true != other) & ~((true != true) & (other != other)) for other in versions])


def overlap(differs: Tensor) -> bool:
    """Whether an element differs in two versions."""
    return bool((differs.sum(0) > 1).any())
