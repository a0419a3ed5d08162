"""Steps by torch's fused kernels, guarded: the kernels believe that all tensors lie in memory as the params do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import Self

from funcnet._errors import TreeError
from funcnet._torch import foreach_add, foreach_add_
from funcnet._typing import Tree
from funcnet.optim._optimizer import Optimizer
from funcnet.optim._pairing import Pairing, format_place
from funcnet.optim._update_operations import Memory


@dataclass(frozen=True, eq=False, repr=False)
class FusedOptimizer(Optimizer):
    """An optimizer for which torch has a fused kernel; its subclasses have a field ``fused``."""

    def _is_fused(self) -> bool:
        return bool(getattr(self, "fused"))

    def _has_kernel(self, param: Tensor) -> bool:
        """Whether the fused kernel is right for the dtype and device of a param."""
        return True

    def _step_fused(self, params: Sequence[Tensor], grads: Sequence[Tensor], entries: Sequence[Tree]) -> None:
        """Write the next values over params and over the tensors of their entries."""
        raise NotImplementedError

    def _check_param(self, param: Tensor) -> str | None:
        if self._is_fused() and not param.is_floating_point():
            return f"fused=True takes floating params, got {param.dtype}"
        return super()._check_param(param)

    def _update_all(
        self, memory: Memory, records: Sequence[Self], pairing: Pairing, entries: list[Tree]
    ) -> tuple[list[Tensor], list[Tree]]:
        if not memory.reuses or not any(record._is_fused() for record in records):
            return super()._update_all(memory, records, pairing, entries)
        params = list(pairing.params)
        for record, indices in _batch(records, params):
            if record._is_fused() and record._has_kernel(params[indices[0]]):
                record._update_batch(memory.donates, pairing, indices, params, entries)
                continue
            for at in indices:
                params[at], changes = record._update(memory, params[at], pairing.grads[at], entries[at])
                entries[at].update(changes)
        return params, entries

    def _update_batch(
        self, donates: bool, pairing: Pairing, indices: Sequence[int], params: list[Tensor], entries: list[Tree]
    ) -> None:
        """Step some leaves by the fused kernel; their results are put into ``params`` and ``entries``."""
        targets: list[Tensor] = []
        grads: list[Tensor] = []
        for at in indices:
            param, grad = params[at], pairing.grads[at]
            if grad.layout != torch.strided or not param.is_floating_point():
                place = format_place("grads", pairing.paths[pairing.indices[at]])
                raise TreeError(f"{place}: fused=True takes dense floating tensors, got {grad.layout}, {param.dtype}.")
            target = param
            if not donates:
                target = param.clone()
            if not _is_dense(target):
                target = torch.empty_like(param).copy_(param)
            targets.append(target)
            grads.append(_laid_out_like(target, grad))
            entry = entries[at]
            for name, value in entry.items():
                if value is not None and name != "step":
                    tensor = _laid_out_like(target, value)
                    entry[name] = value.clone() if tensor is value and not donates else tensor
        if "step" in entries[indices[0]]:
            self._count(donates, [entries[at] for at in indices])
        self._step_fused(targets, grads, [entries[at] for at in indices])
        for at, target in zip(indices, targets, strict=True):
            if donates and target is not params[at]:
                params[at].copy_(target)
            else:
                params[at] = target

    def _count(self, donates: bool, entries: Sequence[Tree]) -> None:
        """Add 1 to the step counts of these entries."""
        steps = [entry["step"] for entry in entries]
        increment = _ONE if steps[0].device.type == "cpu" else 1
        if donates:
            foreach_add_(steps, increment)
            return
        for entry, step in zip(entries, foreach_add(steps, increment), strict=True):
            entry["step"] = step


_ONE = torch.ones(())


def _batch(records: Sequence[FusedOptimizer], params: Sequence[Tensor]) -> list[tuple[FusedOptimizer, list[int]]]:
    """The leaves that one call of a kernel can step: those of one group, dtype and device."""
    batches: dict[object, tuple[FusedOptimizer, list[int]]] = {}
    for at, (record, param) in enumerate(zip(records, params, strict=True)):
        key = (id(record), param.dtype, param.device)
        if key not in batches:
            batches[key] = (record, [])
        batches[key][1].append(at)
    return list(batches.values())


def _is_dense(tensor: Tensor) -> bool:
    """Whether the elements of a tensor fill one stretch of memory."""
    return tensor.is_contiguous() or torch.empty_like(tensor).stride() == tensor.stride()


def _laid_out_like(param: Tensor, tensor: Tensor) -> Tensor:
    """The tensor with the strides of a dense param; itself, if it has them."""
    if tensor.stride() == param.stride() or (tensor.is_contiguous() and param.is_contiguous()):
        return tensor
    return torch.empty_like(param).copy_(tensor)
