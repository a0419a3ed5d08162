"""Versions of the tensors in a call: each tensor has a few variants, and in each of them one example is changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from funcnet._torch import Memory
from funcnet.inspect._tensor_origins import memory_of

_MAX_VERSIONS = 4  # the first, second, middle and last example, so that neighbours and ends are among them


class ExampleVersions:
    """The versions of all tensors in a call. In version k what belongs to example k differs, and nothing else does.

    Versions are versions of memory, so that views, and values that are written in place, need no care.

    Attributes:
        batch_size: the number of examples.
        examples: the index of the example that is changed in each version.
        has_changed: whether an input differs in some version; otherwise there is nothing to learn.

    Args:
        batch: the inputs that hold examples, each with its axis of examples; all have the same number of them.
    """

    def __init__(self, batch: Sequence[tuple[Tensor, int]]) -> None:
        self.batch_size = batch[0][0].shape[batch[0][1]] if batch else 0
        last = self.batch_size - 1
        self.examples = sorted({0, 1, (last + 1) // 2, last})[:_MAX_VERSIONS] if self.batch_size > 1 else []
        self._versions: dict[Memory, list[Tensor]] = {}
        self.has_changed = False
        for tensor, axis in batch if self.examples else ():
            self.add(tensor)
            for version in range(len(self.examples)):
                self._change_example(tensor, axis, version)

    def _change_example(self, tensor: Tensor, axis: int, version: int) -> None:
        """Replace an example in its version by another example, because its values are certainly allowed there."""
        index = self.examples[version]
        example = tensor.select(axis, index)
        candidates = (tensor.select(axis, (index + step) % self.batch_size) for step in range(1, self.batch_size))
        replacement = next((candidate for candidate in candidates if not torch.equal(candidate, example)), None)
        if example.is_floating_point() or example.is_complex():
            # values between 0 and 1 may be probabilities, and stay there
            in_unit_interval = not example.is_complex() and bool((tensor >= 0).all() and (tensor <= 1).all())
            if replacement is None:
                replacement = torch.where(example == 0, 0.5, example * 0.5)
            elif not in_unit_interval and bool(replacement.any()):
                # so large that a maximum over examples changes
                replacement = replacement * (2 * tensor.abs().max() / replacement.abs().max())
        elif replacement is None:
            replacement = example.flip(list(range(example.dim())))
        self.get(tensor, version).select(axis, index).copy_(replacement)
        self.has_changed = self.has_changed or not torch.equal(replacement, example)

    def add(self, tensor: Tensor) -> None:
        """Give a tensor versions, which do not differ from it yet."""
        memory = memory_of(tensor)
        if memory is not None and memory not in self._versions:
            all_bytes = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage())
            self._versions[memory] = [all_bytes.clone() for _ in self.examples]
            for expired in [memory for memory in self._versions if memory.expired()]:
                del self._versions[expired]

    def contains(self, tensor: Tensor) -> bool:
        """Whether a tensor has versions; a tensor that has none is the same in all of them."""
        memory = memory_of(tensor)
        return memory is not None and memory in self._versions

    def get(self, tensor: Tensor, version: int) -> Tensor:
        """The tensor in a version: a view of that version's memory."""
        memory = memory_of(tensor)
        if memory is None or memory not in self._versions:
            return tensor
        view = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        storage = self._versions[memory][version].untyped_storage()
        view.set_(storage, tensor.storage_offset(), tensor.shape, tensor.stride())
        return view.conj() if tensor.is_conj() else view

    def get_all(self, tensor: Tensor) -> list[Tensor]:
        """The tensor in every version."""
        return [self.get(tensor, version) for version in range(len(self.examples))]

    def discard(self, tensors: Iterable[Tensor]) -> None:
        """Forget the versions of these tensors."""
        for tensor in tensors:
            memory = memory_of(tensor)
            if memory is not None:
                self._versions.pop(memory, None)

    def differences(self, tensor: Tensor) -> Tensor:
        """Where each version of a tensor is not the true tensor: a mask of shape (versions, *shape)."""
        return stack_differences(tensor, self.get_all(tensor))

    def find_owners(self, differences: Tensor) -> Tensor | None:
        """The example that each slice along some axis belongs to; None if there is no such axis.

        The axis is as long as the batch, or has the batch folded into it with other axes on either side.
        """
        for axis in sorted(range(1, differences.dim()), key=lambda axis: differences.shape[axis] != self.batch_size):
            size = differences.shape[axis]
            if size % self.batch_size or not size:
                continue
            reduced_axes = [index for index in range(1, differences.dim()) if index != axis]
            is_hit = torch.any(differences, reduced_axes) if reduced_axes else differences
            if has_overlap(is_hit):
                continue
            examples = torch.tensor(self.examples, device=is_hit.device)[:, None]
            folds = size // self.batch_size
            for fold in (fold for fold in range(1, folds + 1) if folds % fold == 0):
                owners = torch.arange(size, device=is_hit.device) // fold % self.batch_size
                if not bool((is_hit & (owners != examples)).any()):
                    return owners.view([-1 if index == axis else 1 for index in range(1, differences.dim())])
        return None

    def masks_of_owned(self, owners: Tensor) -> list[Tensor]:
        """For each version, where the slices of its example are."""
        return [owners == example for example in self.examples]


def stack_differences(true: Tensor, versions: Iterable[Tensor]) -> Tensor:
    """Where each of several tensors differs from a true one; a NaN does not differ from another NaN."""
    return torch.stack([(true != version) & ~((true != true) & (version != version)) for version in versions])


def has_overlap(differences: Tensor) -> bool:
    """Whether an element differs in two versions."""
    return bool((differences.sum(0) > 1).any())
