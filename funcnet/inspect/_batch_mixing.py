"""Which operator mixes examples: every operator also runs with one example of the batch changed.

Version k changes only example k. An operator keeps examples apart if only example k of its result changes in version k:
then no element differs in two versions. If an element does, the operator mixes examples. It is reported, and its
changes to other examples are undone, so that later operators are judged only by what they do themselves.

The Python code runs once, and all versions see the same draws, branches and sizes. The axis of examples need not be
known after the start: a batch may be transposed, or merged into a different axis and split off again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from funcnet._tensors import iter_tensors
from funcnet._torch import pytree
from funcnet.inspect._example_versions import ExampleVersions, has_overlap, stack_differences
from funcnet.inspect._operator_effects import Args, Kwargs
from funcnet.inspect._tensor_origins import memory_of

RunOperator = Callable[[Args, Kwargs], object]


class Mixture(NamedTuple):
    """The record that an operator mixes examples.

    Attributes:
        shape: the shape of the first result in which they are mixed.
        is_reduced: whether that result has no place for each example any more.
    """

    shape: tuple[int, ...]
    is_reduced: bool


class ChangedInput(NamedTuple):
    """A tensor that an operator takes: where each version differs from it, and to which examples its slices belong."""

    shape: torch.Size
    differences: Tensor
    owners: Tensor | None


class OperatorRerun:
    """One call of an operator, which is run again in every version to see whether it mixes examples.

    It is made before the operator runs, because an operator that writes in place changes what it was called with.

    Args:
        versions: the versions of all tensors in the call.
        args, kwargs: what the operator is called with.
        written: those of its arguments that it writes to.
    """

    def __init__(self, versions: ExampleVersions, args: Args, kwargs: Kwargs, written: list[Tensor]) -> None:
        self.versions = versions
        self.written = written
        self._input_memory = {memory_of(tensor) for tensor in iter_tensors((args, kwargs))} | {None}
        for tensor in written:
            versions.add(tensor)
        self._leaves, self._spec = pytree.tree_flatten((args, kwargs))
        self._changing = [
            index for index, leaf in enumerate(self._leaves) if isinstance(leaf, Tensor) and versions.contains(leaf)
        ]
        # found now where the operator is about to change them, and otherwise when they are needed
        self._changed_inputs = self._find_changed_inputs() if written else None

    def _find_changed_inputs(self) -> list[ChangedInput]:
        tensors = [self._leaves[index] for index in self._changing]
        pairs = [(tensor.shape, self.versions.differences(tensor)) for tensor in tensors]
        return [
            ChangedInput(shape, differences, self.versions.find_owners(differences))
            for shape, differences in pairs
            if differences.any()
        ]

    @property
    def changed_inputs(self) -> list[ChangedInput]:
        """The inputs that differ in some version."""
        if self._changed_inputs is None:
            self._changed_inputs = self._find_changed_inputs()
        return self._changed_inputs

    def _iter_calls(self, changing: list[int]) -> Iterator[tuple[Args, Kwargs]]:
        """The arguments in each version, if only the leaves at these positions are changed in it."""
        for version in range(len(self.versions.examples)):
            replacements = {index: self.versions.get(self._leaves[index], version) for index in changing}
            yield self._spec.unflatten([replacements.get(index, leaf) for index, leaf in enumerate(self._leaves)])

    def find_mixture(self, result: object, run_operator: RunOperator) -> Mixture | None:
        """Run the operator in each version, and compare with its true result, which gets versions of its own.

        Args:
            result: what the operator returned.
            run_operator: runs it again, with the same draws.

        Returns:
            The first result in which examples are mixed; None if there is none.

        Raises:
            ValueError: if a version gives other shapes, because then it cannot be followed any further.
        """
        true_results = list(iter_tensors(result))
        new = [
            index
            for index, tensor in enumerate(true_results)
            if memory_of(tensor) not in self._input_memory and tensor.numel()
        ]
        if not new and not self.written:
            return None
        results = [list(iter_tensors(run_operator(*call))) for call in self._iter_calls(self._changing)]
        if any(tensors[index].shape != true_results[index].shape for tensors in results for index in new):
            raise ValueError("with another example the shape is another")
        mixtures = []
        for index in new:
            true = true_results[index]
            versions = [tensors[index] for tensors in results]
            differences = stack_differences(true, versions)
            if not differences.any() or (has_overlap(differences) and self._is_work_space(index, true, run_operator)):
                continue
            find_owned = partial(self._find_owned_by_one_input, index, true, run_operator)
            mixtures.append(self._undo_mixture(true, versions, differences, find_owned))
            self.versions.add(true)
            for version, stored in zip(versions, self.versions.get_all(true), strict=True):
                stored.copy_(version)
        for tensor in self.written:
            versions, differences = self.versions.get_all(tensor), self.versions.differences(tensor)
            mixtures.append(self._undo_mixture(tensor, versions, differences, lambda: None))
        return next((mixture for mixture in mixtures if mixture is not None), None)

    def _is_work_space(self, index: int, true: Tensor, run_operator: RunOperator) -> bool:
        """Whether a result has memory that nothing was written to: its contents differ from run to run."""
        if self.written:
            return False
        second = list(iter_tensors(run_operator(*self._spec.unflatten(self._leaves))))[index]
        return bool(stack_differences(true, [second]).any())

    def _undo_mixture(
        self,
        true: Tensor,
        versions: list[Tensor],
        differences: Tensor,
        find_owned: Callable[[], list[Tensor] | None],
    ) -> Mixture | None:
        """If a result is mixed, put back everything in each version that does not belong to its example."""
        if not has_overlap(differences):
            return None
        owned = find_owned() or self._find_owned_by_shape(true)
        for index, version in enumerate(versions):
            version.copy_(true if owned is None else torch.where(owned[index], version, true))
        return Mixture(tuple(true.shape), owned is None)

    def _find_owned_by_one_input(self, index: int, true: Tensor, run_operator: RunOperator) -> list[Tensor] | None:
        """Where one of several inputs, changed alone, puts each example, as the query of attention does."""
        for leaf in self._changing if len(self._changing) > 1 and not self.written else ():
            results = [list(iter_tensors(run_operator(*call)))[index] for call in self._iter_calls([leaf])]
            differences = stack_differences(true, results)
            owners = self.versions.find_owners(differences) if differences.any() else None
            if owners is not None:
                return self.versions.masks_of_owned(owners)
        return None

    def _find_owned_by_shape(self, true: Tensor) -> list[Tensor] | None:
        """Where an input of the same shape has what belongs to each example."""
        for changed in self.changed_inputs:
            if changed.shape == true.shape:
                if changed.owners is None:
                    return list(changed.differences)
                return self.versions.masks_of_owned(changed.owners)
        return None

    def moves_examples(self, result: object) -> bool:
        """Whether the operator moves values of one example to the position of a different one."""
        if not any(is_misplaced(self.versions, tensor) for tensor in (*iter_tensors(result), *self.written)):
            return False
        return all(changed.owners is not None for changed in self.changed_inputs)


def is_misplaced(versions: ExampleVersions, tensor: Tensor) -> bool:
    """Whether a tensor has values of an example at the position of a different one, or without an axis of examples."""
    if not versions.contains(tensor):
        return False
    differences = versions.differences(tensor)
    return bool(differences.any()) and versions.find_owners(differences) is None
