"""Steps by torch's fused kernels, guarded: the kernels believe that all tensors lie in memory as the params do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from funcnet._torch import foreach_add_
from funcnet.optim._leaf_batch import LeafBatch
from funcnet.optim._optimizer import Optimizer
from funcnet.optim._update_operations import Memory

Columns: TypeAlias = dict[str, list[Any]]
"""Tensors of several entries of the state by name."""


@dataclass(frozen=True, eq=False, repr=False)
class FusedOptimizer(Optimizer):
    """An optimizer for which torch has a fused kernel; its subclasses have a field ``fused``."""

    def _is_fused(self) -> bool:
        return bool(getattr(self, "fused"))

    def _has_kernel(self, param: Tensor) -> bool:
        """Whether the fused kernel is right for the dtype and device of a param."""
        return True

    def _step_fused(self, params: list[Tensor], grads: list[Tensor], columns: Columns) -> None:
        """Write the next values over params and over the tensors of the state.

        Args:
            params, grads: of all leaves that are stepped.
            columns: the tensors of their entries by name, counts of steps too; an entry may lack one.
        """
        raise NotImplementedError

    def _check_param(self, param: Tensor) -> str | None:
        if self._is_fused() and not param.is_floating_point():
            return f"fused=True takes floating params, got {param.dtype}"
        return super()._check_param(param)

    def _update_batch(self, memory: Memory, batch: LeafBatch) -> list[Tensor]:
        if not memory.reuses or not self._is_fused() or not batch.params:
            return super()._update_batch(memory, batch)
        dtypes = {param.dtype for param in batch.params}
        # Lists, for they are quicker than generators here.
        if len(dtypes) == 1 and all([param.is_cpu for param in batch.params]):  # noqa: C419
            return self._update_kind(memory, batch)
        numbers_by_kind: dict[object, list[int]] = {}
        for number, param in enumerate(batch.params):
            numbers_by_kind.setdefault((param.dtype, param.device), []).append(number)
        new_params = batch.params.copy()
        for numbers in numbers_by_kind.values():
            results = self._update_kind(memory, batch.split(numbers))
            for number, param in zip(numbers, results, strict=True):
                new_params[number] = param
        return new_params

    def _update_kind(self, memory: Memory, batch: LeafBatch) -> list[Tensor]:
        """Step leaves of one dtype and device by one call of the kernel."""
        params = batch.params
        if not self._has_kernel(params[0]):
            return super()._update_batch(memory, batch)
        layouts = {grad.layout for grad in batch.grads}
        if layouts != {torch.strided} or not params[0].is_floating_point():
            raise TypeError(
                f"{type(self).__name__}(fused=True) takes dense gradients of floating params, got "
                f"{', '.join(map(str, layouts))} of {params[0].dtype}."
            )
        are_contiguous = all([param.is_contiguous() for param in params])  # noqa: C419
        targets = params if memory.donates else [param.clone() for param in params]
        if not are_contiguous:
            targets = [target if _is_dense(target) else torch.empty_like(target).copy_(target) for target in targets]
        columns: Columns = {}
        for name in self._entry_names():
            column = batch.column(name)
            columns[name] = laid_out = _lay_out_like(targets, column, are_contiguous)
            if not memory.donates:
                columns[name] = [
                    old.clone() if old is new and old is not None else new
                    for old, new in zip(column, laid_out, strict=True)
                ]
        if "step" in batch.entries[0]:
            columns["step"] = _count(memory.donates, batch.column("step"))
        self._step_fused(targets, _lay_out_like(targets, batch.grads, are_contiguous), columns)
        for name, column in columns.items():
            if column is not batch.column(name):
                for entry, tensor in zip(batch.entries, column, strict=True):
                    entry[name] = tensor
        if targets is params or not memory.donates:
            return targets
        return [
            param if param is target else param.copy_(target) for param, target in zip(params, targets, strict=True)
        ]


def _count(donates: bool, steps: list[Tensor]) -> list[Tensor]:
    """The next step counts."""
    if not donates:
        return [step + 1 for step in steps]
    if steps[0].is_cpu:
        foreach_add_(steps, _ONE, alpha=1)
    else:
        foreach_add_(steps, 1)
    return steps


_ONE = torch.ones(())


def _is_dense(tensor: Tensor) -> bool:
    """Whether the elements of a tensor fill one stretch of memory."""
    return tensor.is_contiguous() or torch.empty_like(tensor).stride() == tensor.stride()


def _lay_out_like(params: list[Tensor], tensors: list[Any], are_contiguous: bool) -> list[Any]:
    """The tensors with the strides of dense params, those that have them as they are; None stays None.

    Args:
        are_contiguous: whether all params are contiguous.
    """
    if are_contiguous and all([tensor is not None and tensor.is_contiguous() for tensor in tensors]):  # noqa: C419
        return tensors
    return [
        tensor if tensor is None or _has_strides_of(param, tensor) else torch.empty_like(param).copy_(tensor)
        for param, tensor in zip(params, tensors, strict=True)
    ]


def _has_strides_of(param: Tensor, tensor: Tensor) -> bool:
    return (param.is_contiguous() and tensor.is_contiguous()) or tensor.stride() == param.stride()
