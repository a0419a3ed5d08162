"""Tensors of a program that are to be saved: which of them have bytes of their own, and which are the same.

A subclass of Tensor may keep its data anywhere: in tensors that it holds, on other ranks, or nowhere. Its ``data_ptr``
is then zero, and its methods run code of the subclass. So nothing here reads the memory of a tensor, or tells by its
address what it is tied to, before its storage is known to be there.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from funcnet._torch import is_fake
from funcnet.checkpoint._dtypes import DTYPES


def split_tensor(tensor: Tensor) -> Tensor | dict[str, Any]:
    """A tensor as what a file can hold: itself, the whole of one that is distributed, or its parts by their own names.

    The parts are those of ``__tensor_flatten__``, by which a subclass says which tensors it is made of. A tensor that
    nothing can be done about comes back as it is; see :func:`why_unwritable`.
    """
    distributed = sys.modules.get("torch.distributed.tensor")
    if distributed is not None and isinstance(tensor, distributed.DTensor):
        whole: Tensor = tensor.full_tensor()
        return split_tensor(whole)
    if type(tensor) is torch.nn.Parameter or not hasattr(tensor, "__tensor_flatten__") or has_memory(tensor):
        return tensor
    names, _ = tensor.__tensor_flatten__()
    return {name: split_tensor(getattr(tensor, name)) for name in names}


def has_memory(tensor: Tensor) -> bool:
    """Whether a tensor has a storage with memory for all its elements."""
    if is_fake(tensor):
        return False
    try:
        storage = tensor.untyped_storage()
        if not tensor.numel():
            return True
        steps = zip(tensor.shape, tensor.stride(), strict=True)
        end = tensor.storage_offset() + sum((size - 1) * step for size, step in steps) + 1
        return storage.data_ptr() != 0 and end * tensor.itemsize <= storage.nbytes()
    except (RuntimeError, NotImplementedError):
        return False


def why_unwritable(tensor: Tensor) -> str | None:
    """The reason why a tensor cannot be written, and what to do; None if it can."""
    if tensor.is_meta:
        return "is on the meta device and has no data"
    if tensor.is_quantized:
        return "is quantized: save its int_repr(), scale and zero point, or dequantize() it"
    if tensor.layout is not torch.strided:
        advice = _ADVICE_BY_LAYOUT.get(tensor.layout, "save to_dense()")
        return f"is {tensor.layout}, and only plain dense tensors are saved: {advice}"
    if tensor.is_nested:
        return "is nested: save the tensors of unbind(), or to_padded_tensor(0.0)"
    if not has_memory(tensor):
        name = f"{type(tensor).__module__}.{type(tensor).__qualname__}"
        return f"is a {name} without data of its own: {_ADVICE_BY_CLASS.get(type(tensor).__name__, _ADVICE)}"
    if tensor.dtype not in DTYPES.values():
        return f"has the dtype {tensor.dtype}, which is none of {', '.join(DTYPES)}"
    return None


_ADVICE_BY_LAYOUT = {
    torch.sparse_coo: "save its coalesce().indices() and values(), or to_dense()",
    torch.sparse_csr: "save its crow_indices(), col_indices() and values(), or to_dense()",
    torch.jagged: "save its values() and offsets()",
}
_ADVICE_BY_CLASS = {
    "FakeTensor": "save real tensors, made outside of FakeTensorMode",
    "FunctionalTensor": "save outside of what is traced",
    "MaskedTensor": "save its get_data() and get_mask(), or to_tensor(0.0)",
    "ShardedTensor": "save it with torch.distributed.checkpoint, whose folders funcnet reads",
    "Tensor": "save outside of vmap and grad, while its storage is there",
    "Parameter": "save it while its storage is there; of FSDP take the state_dict",
}
_ADVICE = "save the plain tensors that it holds, or what it is as a plain tensor, as dequantize() gives it"


def find_ties(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors without those that view the same memory in the same way; those as alias -> owner."""
    owners: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    owner_of_view: dict[object, str] = {}
    for name, tensor in tensors.items():
        view: object = id(tensor)
        if tensor.layout is torch.strided and has_memory(tensor) and tensor.numel():
            flags = (tensor.dtype, tensor.is_conj(), tensor.is_neg())
            address = tensor.untyped_storage().data_ptr() + tensor.storage_offset() * tensor.itemsize
            view = (tensor.device, address, tensor.shape, tensor.stride(), *flags)
        if view in owner_of_view:
            aliases[name] = owner_of_view[view]
        else:
            owner_of_view[view] = name
            owners[name] = tensor
    return owners, aliases


def to_plain_cpu(tensor: Tensor) -> Tensor:
    """The tensor on the CPU, row-major, without a class of its own, whose code does not run."""
    if type(tensor) not in (Tensor, torch.nn.Parameter):
        plain = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        plain.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())
        plain = plain.conj() if tensor.is_conj() else plain
        tensor = plain._neg_view() if tensor.is_neg() else plain
    return tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
