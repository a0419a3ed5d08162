"""What a body may do to a tensor besides writing to it in place: each is noticed, and undone.

The version counter of a tensor shows an in-place operation of torch. It does not show a write through ``x.numpy()``,
``x.data``, a DLPack capsule or the storage, another storage, ``requires_grad``, a gradient that a backward pass adds, a
hook or an attribute. To look for those takes longer than a small call. So it is done in the first call of each mode,
and in calls of bodies whose code names one of them (see ``_shown_writes``).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from funcnet._tensors import same_bits
from funcnet._torch import hooks_of_tensor, peek_transform

CAN_BE_RECORDED = (Tensor, nn.Parameter)


class TensorRecord:
    """A tensor as it was before a call.

    Args:
        tensor: of class Tensor or Parameter, and outside of transforms; of any other only the version shows something.
        has_bits: whether to copy its numbers.
    """

    __slots__ = ("_alias", "_attributes", "_bits", "_grad", "_grad_bits", "_hooks", "_requires_grad", "_tensor")

    def __init__(self, tensor: Tensor, has_bits: bool) -> None:
        self._tensor = tensor
        self._alias = tensor.data
        self._requires_grad = tensor.requires_grad
        self._grad = tensor.grad if tensor.is_leaf else None
        self._grad_bits = None if self._grad is None else self._grad.detach().clone()
        self._hooks = [dict(hooks) for hooks in hooks_of_tensor(tensor)]
        self._attributes = dict(vars(tensor))
        self._bits = self._alias.clone() if has_bits else None

    def undo_changes(self) -> Iterator[str]:
        """Undo what was done to the tensor; words for each change."""
        tensor = self._tensor
        if not _share_memory(tensor, self._alias):
            tensor.data = self._alias
            yield "other data"
        if self._bits is not None and not same_bits(self._alias, self._bits):
            self._alias.copy_(self._bits)
            yield "other numbers"
        if tensor.is_leaf and tensor.grad is not self._grad:
            tensor.grad = self._grad
            yield "another grad"
        if self._grad is not None and self._grad_bits is not None and not same_bits(self._grad, self._grad_bits):
            self._grad.data.copy_(self._grad_bits)
            yield "other numbers in grad"
        if tensor.requires_grad != self._requires_grad and tensor.is_leaf:
            tensor.requires_grad_(self._requires_grad)
            yield "another requires_grad"
        if self._undo_hooks():
            yield "a hook"
        if vars(tensor).keys() != self._attributes.keys() or any(
            value is not vars(tensor)[name] for name, value in self._attributes.items()
        ):
            vars(tensor).clear()
            vars(tensor).update(self._attributes)
            yield "another attribute"

    def _undo_hooks(self) -> bool:
        """Take away hooks that were registered; returns whether there were any."""
        has_changed = False
        for hooks, old_hooks in zip(hooks_of_tensor(self._tensor), self._hooks, strict=True):
            if hooks.keys() != old_hooks.keys():
                hooks.clear()
                hooks.update(old_hooks)
                has_changed = True
        return has_changed


def _share_memory(tensor: Tensor, alias: Tensor) -> bool:
    if tensor.shape != alias.shape or tensor.layout is not torch.strided:
        return tensor.shape == alias.shape
    is_same = tensor.stride() == alias.stride() and tensor.storage_offset() == alias.storage_offset()
    return is_same and tensor.untyped_storage()._cdata == alias.untyped_storage()._cdata


def record_tensor(tensor: Tensor, has_bits: bool) -> TensorRecord | None:
    """The record of a tensor; None where only its version shows that it was written to."""
    if type(tensor) not in CAN_BE_RECORDED or peek_transform() is not None or tensor.is_meta or tensor.is_sparse:
        return None
    return TensorRecord(tensor, has_bits)
