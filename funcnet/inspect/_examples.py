"""Which operator mixes examples: every operator also runs with one example of the batch changed.

An operator keeps examples apart if its result in version k differs from the true one in what belongs to example k only:
then no element differs in two versions. Where one does, the operator mixes examples; it is reported, and what it
changed in others is put back, so that what follows is judged by itself and not for carrying it.

There is one run of the Python code, and the versions see the same draws, branches and sizes. No axis need be known:
a batch may be transposed, or folded into another axis and out again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from funcnet._torch import pytree
from funcnet.inspect._origins import memory_of, tensors_in
from funcnet.inspect._versions import Versions, differences, overlap

Run = Callable[[Any, Any], Any]


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


class Step:
    """One operator, about to run and then to be run in every version.

    Args:
        versions: of all tensors in the call.
        args, kwargs: what it is called with.
        written: those of them that it writes to.
    """

    def __init__(self, versions: Versions, args: Any, kwargs: Any, written: list[Tensor]) -> None:
        self.versions = versions
        self.written = written
        given = list(tensors_in(args, kwargs))
        self._known = {memory_of(tensor) for tensor in given} | {None}
        for tensor in written:
            versions.open(tensor)
        self._leaves, self._spec = pytree.tree_flatten((args, kwargs))
        self._changing = [at for at, leaf in enumerate(self._leaves) if isinstance(leaf, Tensor) and versions.has(leaf)]
        self._found = self._look() if written else None  # now, for the operator is about to change them

    def _look(self) -> list[Source]:
        found = [(self._leaves[at].shape, self.versions.differs(self._leaves[at])) for at in self._changing]
        return [Source(shape, differs, self.versions.owners(differs)) for shape, differs in found if differs.any()]

    @property
    def sources(self) -> list[Source]:
        """The inputs that differ in some version."""
        if self._found is None:
            self._found = self._look()
        return self._found

    def _calls(self, changing: list[int]) -> Iterator[tuple[Any, Any]]:
        """What to call it with in each version, if only these leaves are changed in them."""
        for version in range(len(self.versions.tracked)):
            changed = {at: self.versions.of(self._leaves[at], version) for at in changing}
            yield self._spec.unflatten([changed.get(at, leaf) for at, leaf in enumerate(self._leaves)])

    def compare(self, result: Any, run: Run) -> Mixture | None:
        """Run the operator in each version, and compare with its true result, which gets versions of its own.

        Args:
            result: what the operator gave.
            run: runs it again, with the same draws.

        Raises:
            ValueError: if a version gives other shapes, so that it cannot be followed further.
        """
        true = list(tensors_in(result))
        fresh = [at for at, one in enumerate(true) if memory_of(one) not in self._known and one.numel()]
        if not fresh and not self.written:
            return None
        results = [list(tensors_in(run(*call))) for call in self._calls(self._changing)]
        if any(other[at].shape != true[at].shape for other in results for at in fresh):
            raise ValueError("with another example the shape is another")
        mixtures = []
        for at in fresh:
            versions = [other[at] for other in results]
            differs = differences(true[at], versions)
            if not differs.any() or (overlap(differs) and self._unfilled(at, true[at], run)):
                continue
            mixtures.append(self._settle(true[at], versions, differs, partial(self._alone, at, true[at], run)))
            self.versions.open(true[at])
            for version, place in zip(versions, self.versions.all_of(true[at]), strict=True):
                place.copy_(version)
        for tensor in self.written:
            versions, differs = self.versions.all_of(tensor), self.versions.differs(tensor)
            mixtures.append(self._settle(tensor, versions, differs, lambda: None))
        return next((mixture for mixture in mixtures if mixture is not None), None)

    def _unfilled(self, at: int, true: Tensor, run: Run) -> bool:
        """Whether a result has memory that nothing was written to, as work space may: it is not the same twice."""
        if self.written:
            return False
        again = list(tensors_in(run(*self._spec.unflatten(self._leaves))))[at]
        return bool(differences(true, [again]).any())

    def _settle(
        self, true: Tensor, versions: list[Tensor], differs: Tensor, alone: Callable[[], list[Tensor] | None]
    ) -> Mixture | None:
        """Put back, if a result is mixed, all in each version that does not belong to its example."""
        if not overlap(differs):
            return None
        own = alone() or self._in_place(true)
        for index, version in enumerate(versions):
            version.copy_(true if own is None else torch.where(own[index], version, true))
        return Mixture(tuple(true.shape), own is None)

    def _alone(self, at: int, true: Tensor, run: Run) -> list[Tensor] | None:
        """Where one of several inputs alone puts what belongs to each example, as a query does in attention."""
        for leaf in self._changing if len(self._changing) > 1 and not self.written else ():
            differs = differences(true, [list(tensors_in(run(*call)))[at] for call in self._calls([leaf])])
            owners = self.versions.owners(differs) if differs.any() else None
            if owners is not None:
                return self.versions.belongs(owners)
        return None

    def _in_place(self, true: Tensor) -> list[Tensor] | None:
        """Where an input of the same shape has what belongs to each example."""
        for source in self.sources:
            if source.shape == true.shape:
                return list(source.differs) if source.owners is None else self.versions.belongs(source.owners)
        return None

    def misplaces(self, result: Any) -> bool:
        """Whether the operator puts what belongs to an example at a wrong place, and was not given it so."""
        if not any(misplaced(self.versions, tensor) for tensor in (*tensors_in(result), *self.written)):
            return False
        return all(source.owners is not None for source in self.sources)


def misplaced(versions: Versions, tensor: Tensor) -> bool:
    """Whether a tensor has something of an example where it belongs to another, or to none."""
    if not versions.has(tensor):
        return False
    differs = versions.differs(tensor)
    return bool(differs.any()) and versions.owners(differs) is None
