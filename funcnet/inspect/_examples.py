"""Which operator mixes examples: every operator also runs with one example of the batch changed.

Beside each tensor of the call lie a few *versions* of it. In version k everything that belongs to example k has other
values, and nothing else has. An operator keeps examples apart if its result in version k differs from the true one in
what belongs to k only: then no element differs in two versions. Where one does, the operator mixes examples; it is
reported, and what it changed in others is put back, so that what follows is judged by itself and not for carrying it.

There is one run of the Python code, and the versions see the same draws, branches and sizes. No axis need be known:
a batch may be transposed, or folded into another axis and out again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from funcnet._torch import Memory
from funcnet.inspect._origins import memory_of, tensors_in

_MOST = 4  # versions: the first, second, middle and last example, so that neighbours and ends are among them


class Mixture(NamedTuple):
    """That an operator mixes examples.

    ``shape`` is that of the first result that does; ``reduced`` if it has no place for each example any more.
    """

    shape: tuple[int, ...]
    reduced: bool


class Source(NamedTuple):
    """A tensor before an operator: where each version differs from it, and to whom its slices belong."""

    shape: torch.Size
    differs: Tensor
    owners: Tensor | None


class Step(NamedTuple):
    """What the versions of an operator need to know from before it ran."""

    calls: list[tuple[Any, Any]]
    known: frozenset[Memory | None]
    written: list[Tensor]
    sources: Callable[[], list[Source]]


class Examples:
    """The versions of all tensors in a call.

    Args:
        batch: the inputs that hold examples, each with its axis of them; all have the same number.
    """

    def __init__(self, batch: Sequence[tuple[Tensor, int]]) -> None:
        self.number = batch[0][0].shape[batch[0][1]] if batch else 0
        last = self.number - 1
        self.tracked = sorted({0, 1, (last + 1) // 2, last})[:_MOST] if self.number > 1 else []
        self._versions: dict[Memory, list[Tensor]] = {}
        self.changed = False
        for tensor, axis in batch if self.tracked else ():
            self._open(tensor)
            for index in range(len(self.tracked)):
                self._change(tensor, axis, index)

    # --- versions ---

    def _open(self, tensor: Tensor) -> None:
        """Give a tensor versions, which are no different as yet."""
        memory = memory_of(tensor)
        if memory is not None and memory not in self._versions:
            storage = tensor.untyped_storage()
            whole = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)  # type: ignore[call-overload]
            self._versions[memory] = [whole.clone() for _ in self.tracked]
            for dead in [memory for memory in self._versions if memory.expired()]:
                del self._versions[dead]

    def _has(self, tensor: Tensor) -> bool:
        memory = memory_of(tensor)
        return memory is not None and memory in self._versions

    def _version(self, tensor: Tensor, index: int) -> Tensor:
        """The tensor as it is in a version: a view of that version's memory."""
        memory = memory_of(tensor)
        if memory is None or memory not in self._versions:
            return tensor
        storage = self._versions[memory][index].untyped_storage()
        made = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        made.set_(storage, tensor.storage_offset(), tensor.shape, tensor.stride())  # type: ignore[call-overload]
        return made.conj() if tensor.is_conj() else made

    def _change(self, tensor: Tensor, axis: int, index: int) -> None:
        """Let an example be another in its version: one of the others, which has values that are allowed there."""
        own = tensor.select(axis, self.tracked[index])
        others = (tensor.select(axis, (self.tracked[index] + step) % self.number) for step in range(1, self.number))
        other = next((value for value in others if not torch.equal(value, own)), None)
        if own.is_floating_point() or own.is_complex():
            free = own.is_complex() or bool((tensor < 0).any() or (tensor > 1).any())  # of [0, 1], as probabilities are
            if other is None:
                other = torch.where(own == 0, 0.5, own * 0.5)
            elif free:
                other = other * 1.5  # so that a maximum moves too
        elif other is None:
            other = own.flip(list(range(own.dim())))
        self._version(tensor, index).select(axis, self.tracked[index]).copy_(other)
        self.changed = self.changed or not torch.equal(other, own)

    def differs(self, tensor: Tensor) -> Tensor:
        """Where each version of a tensor is not the true one: (versions, *shape)."""
        return torch.stack([different(tensor, self._version(tensor, index)) for index in range(len(self.tracked))])

    def owners(self, differs: Tensor) -> Tensor | None:
        """The example that each slice along some axis belongs to; None if there is no such axis.

        The axis is as long as the batch, or has the batch folded into it with other axes on either side.
        """
        for axis in sorted(range(1, differs.dim()), key=lambda axis: differs.shape[axis] != self.number):
            size = differs.shape[axis]
            others = [other for other in range(1, differs.dim()) if other != axis]
            if size % self.number or not size:
                continue
            hit = torch.any(differs, others) if others else differs
            if bool((hit.sum(0) > 1).any()):
                continue
            tracked = torch.tensor(self.tracked, device=hit.device)[:, None]
            for fold in (fold for fold in range(1, size // self.number + 1) if size // self.number % fold == 0):
                owner = torch.arange(size, device=hit.device) // fold % self.number
                if not bool((hit & (owner != tracked)).any()):
                    return owner.view([-1 if at == axis else 1 for at in range(1, differs.dim())])
        return None

    # --- operators ---

    def before(self, args: Any, kwargs: Any, written: list[Tensor]) -> Step | None:
        """What to keep for the versions of an operator that is about to run; None if all its inputs are as they are."""
        given = [tensor for tensor in tensors_in(args, kwargs) if self._has(tensor)]
        if not given:
            return None
        for tensor in written:
            self._open(tensor)
        calls = [
            tree_map(lambda leaf, at=index: self._version(leaf, at) if isinstance(leaf, Tensor) else leaf, (args, kwargs))
            for index in range(len(self.tracked))
        ]
        sources = self._sources(given) if written else None  # now, for the operator is about to change them
        known = frozenset(map(memory_of, tensors_in(args, kwargs)))
        return Step(calls, known, written, lambda: self._sources(given) if sources is None else sources)

    def _sources(self, given: Iterable[Tensor]) -> list[Source]:
        found = [(tensor.shape, self.differs(tensor)) for tensor in given]
        return [Source(shape, differs, self.owners(differs)) for shape, differs in found if bool(differs.any())]

    def after(
        self, step: Step, result: Any, run: Callable[[Any, Any], Any], again: Callable[[], Any] | None, drew: bool
    ) -> Mixture | None:
        """Run an operator in each version, and compare.

        Args:
            step: from :meth:`before`.
            result: what the operator gave.
            run: runs it on other arguments, with the same draws.
            again: runs it once more as it was; None if it wrote to its arguments.
            drew: whether it draws: a draw that depends on the values before it moves all that come after.

        Raises:
            ValueError: if a version gives other shapes, so that it cannot be followed further.
        """
        outputs = list(tensors_in(result))
        fresh = [at for at, value in enumerate(outputs) if memory_of(value) not in {*step.known, None} and value.numel()]
        if not fresh and not step.written:
            return None
        results = [list(tensors_in(run(*call))) for call in step.calls]
        if any(other[at].shape != outputs[at].shape for other in results for at in fresh):
            raise ValueError("another example gives another shape")
        mixture: Mixture | None = None
        for at in fresh:
            versions = [other[at] for other in results]
            differs = torch.stack([different(outputs[at], version) for version in versions])
            if again is not None and _overlap(differs):
                differs &= ~different(outputs[at], list(tensors_in(again()))[at])  # memory that nothing was written to
            if not bool(differs.any()):
                continue
            mixture = self._settle(outputs[at], versions, differs, step, mixture)
            self._open(outputs[at])
            for index, version in enumerate(versions):
                self._version(outputs[at], index).copy_(version)
        for tensor in step.written:
            versions = [self._version(tensor, index) for index in range(len(self.tracked))]
            mixture = self._settle(tensor, versions, self.differs(tensor), step, mixture)
        return None if drew else mixture

    def _settle(
        self, true: Tensor, versions: list[Tensor], differs: Tensor, step: Step, mixture: Mixture | None
    ) -> Mixture | None:
        """Put back, in what an operator mixed, all that does not belong to the example of a version."""
        if not _overlap(differs):
            return mixture
        own = self._belongs(true.shape, step.sources())
        for index, version in enumerate(versions):
            keep = torch.zeros((), dtype=torch.bool) if own is None else own[index]
            version.copy_(torch.where(keep.to(true.device), version, true))
        return mixture or Mixture(tuple(true.shape), own is None)

    def _belongs(self, shape: torch.Size, sources: list[Source]) -> list[Tensor] | None:
        """What belongs to each example in the result of an operator that mixes them: what did so in its inputs."""
        for source in sources:
            if source.owners is not None and source.owners.dim() == len(shape):
                axis = max(range(len(shape)), key=lambda at: source.owners.shape[at])  # type: ignore[union-attr]
                if shape[axis] == source.shape[axis]:
                    return [source.owners == example for example in self.tracked]
            elif source.shape == shape:
                return list(source.differs)
        return None

    def misplaces(self, step: Step, result: Any) -> bool:
        """Whether an operator puts what belongs to an example where :meth:`misplaced` finds it, and was not given it so."""
        if not any(self.misplaced(tensor) for tensor in (*tensors_in(result), *step.written)):
            return False
        return all(source.owners is not None for source in step.sources())

    def misplaced(self, tensor: Tensor) -> bool:
        """Whether a tensor has something of an example where it belongs to another, or to none."""
        if not self._has(tensor):
            return False
        differs = self.differs(tensor)
        return bool(differs.any()) and self.owners(differs) is None

    def forget(self, tensors: Iterable[Tensor]) -> None:
        """Follow these no further."""
        for tensor in tensors:
            memory = memory_of(tensor)
            if memory is not None:
                self._versions.pop(memory, None)


def different(left: Tensor, right: Tensor) -> Tensor:
    """Where two tensors differ; a NaN is no different from another."""
    return (left != right) & ~((left != left) & (right != right))


def _overlap(differs: Tensor) -> bool:
    return bool((differs.sum(0) > 1).any())
