"""The leaves that have the same hyperparameters in one step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from funcnet._context import is_plainly_eager, under_forward_mode
from funcnet._typing import Tree
from funcnet.optim._update_operations import DONATIONS, NOTHING, TEMPORARIES, Memory


class LeafBatch:
    """Leaves that one record steps.

    Attributes:
        indices: the numbers of the leaves among all that are stepped.
        params, grads, entries: of these leaves.
    """

    def __init__(self, indices: Sequence[int], params: list[Tensor], grads: list[Tensor], entries: list[Tree]) -> None:
        self.indices = indices
        self.params = params
        self.grads = grads
        self.entries = entries
        self._columns: dict[str, list[Any]] = {}

    def column(self, name: str) -> list[Any]:
        """The tensors of this name in all entries; None where an entry has none."""
        if name not in self._columns:
            self._columns[name] = [entry.get(name) for entry in self.entries]
        return self._columns[name]

    def set_entry(self, number: int, entry: Tree) -> None:
        """Put an entry in the place of another."""
        self.entries[number] = entry
        self._columns.clear()

    def split(self, numbers: Sequence[int]) -> LeafBatch:
        """Some of these leaves, by their numbers in this batch."""
        return LeafBatch(
            [self.indices[number] for number in numbers],
            [self.params[number] for number in numbers],
            [self.grads[number] for number in numbers],
            [self.entries[number] for number in numbers],
        )

    def has_shapes_of_params(self, names: Sequence[str]) -> bool:
        """Whether all entries have tensors of these names with the shapes of their params."""
        shapes = [param.shape for param in self.params]
        return all([getattr(tensor, "shape", None) for tensor in self.column(name)] == shapes for name in names)

    def is_differentiated(self, names: Sequence[str], donate: bool) -> bool:
        """Whether autograd follows the gradients, the params, or the tensors of these names in the state.

        A param that is a leaf may be donated all the same, as torch.optim does; any other has a graph to keep.
        """
        tensors = self.grads if donate else self.grads + self.params
        # Lists, for they are quicker than generators here.
        if any([tensor.requires_grad for tensor in tensors]):  # noqa: C419
            return True
        if donate and any([param.requires_grad and not param.is_leaf for param in self.params]):  # noqa: C419
            return True
        for name in names:
            if any([isinstance(value, Tensor) and value.requires_grad for value in self.column(name)]):  # noqa: C419
                return True
        return False


def choose_memory(batches: Sequence[tuple[Any, LeafBatch]], donate: bool) -> Memory:
    """What a step may write over: its own temporaries and donations, but only where nobody differentiates it.

    Args:
        batches: records and the leaves that they step.
        donate: whether params and state are donated.
    """
    if not is_plainly_eager() or under_forward_mode():
        return NOTHING
    if torch.is_grad_enabled():
        for record, batch in batches:
            # A record has tensors only where they are not numbers, so where somebody differentiates by them.
            if record.has_tensors or batch.is_differentiated(record.differentiable_names(), donate):
                return NOTHING
    return DONATIONS if donate else TEMPORARIES
