"""What does not fit in the state and the gradients that a step is given, said tensor by tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from funcnet._errors import TreeError, bullet_list
from funcnet.optim._leaf_batch import LeafBatch
from funcnet.optim._pairing import Pairing


def describe_shapes(record: Any, batch: LeafBatch, pairing: Pairing) -> list[str]:
    """One line for every tensor in the entries of a batch that is missing or has another shape than it should."""
    problems: list[str] = []
    for index, param, entry in zip(batch.indices, batch.params, batch.entries, strict=True):
        for name, expected in record._entry_shapes(param).items():
            tensor = entry.get(name)
            if tensor is None and record._starts_empty and not entry.keys() - {name}:
                continue
            if tensor is None or tensor.shape != expected:
                got = "is missing" if tensor is None else f"has shape {tuple(tensor.shape)}"
                problems.append(f"{pairing.format_place('state', index)}[{name!r}] {got}: expected {tuple(expected)}")
    return problems


def describe_kinds(record: Any, batch: LeafBatch, pairing: Pairing) -> list[str]:
    """One line for every number that is missing, and every tensor of another dtype or device than its param."""
    names = record._entry_names()
    problems: list[str] = []
    for index, param, entry in zip(batch.indices, batch.params, batch.entries, strict=True):
        for name in record._init_entry(param) if entry else ():
            tensor, place = entry.get(name), f"{pairing.format_place('state', index)}[{name!r}]"
            if not isinstance(tensor, Tensor):
                problems.append(f"{place}: expected a tensor, got {type(tensor).__name__}")
            elif name in names and (tensor.dtype, tensor.device) != (param.dtype, param.device):
                expected = f"{param.dtype} on {param.device}"
                problems.append(f"{place} is {tensor.dtype} on {tensor.device}: expected {expected}")
    return problems


def refuse_sparse(name: str, batches: Sequence[tuple[Any, LeafBatch]], pairing: Pairing, reason: object) -> None:
    """Say of a step that failed which gradients are sparse, if some are.

    Raises:
        TreeError: names all of them, and the reason.
    """
    places = [
        pairing.format_place("grads", index)
        for _, batch in batches
        for index, grad in zip(batch.indices, batch.grads, strict=True)
        if grad.layout != torch.strided
    ]
    if places:
        raise TreeError(
            f"{name} cannot step by sparse gradients, {', '.join(places)}: {str(reason).partition('. ')[0]}.\n"
            f"SGD, Adagrad and SparseAdam take them; grad.to_dense() is a gradient for all optimizers."
        )


def require_none(name: str, problems: list[str]) -> None:
    """Refuse a state with problems.

    Raises:
        TreeError: names all of them.
    """
    if problems:
        raise TreeError(
            f"the state does not fit {name} and its params:{bullet_list(problems)}\n"
            f"optimizer.init(params) makes one that does."
        )
