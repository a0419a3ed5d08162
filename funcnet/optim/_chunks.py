"""Updates of large tensors in chunks that stay in the cache from the first operation of an update to the last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from funcnet._typing import Tree
from funcnet.optim._update_operations import Memory

CHUNK_SIZE = 2**18
"""Numbers in a chunk, for each thread. Vectors of all widths divide it, so no number is rounded otherwise."""


def is_large(memory: Memory, param: Tensor, grad: Tensor, entry: Tree) -> bool:
    """Whether an update is quicker in chunks: a long one, of tensors that lie in memory alike, on a CPU."""
    return (
        memory.reuses
        and param.numel() >= 16 * CHUNK_SIZE
        and param.is_cpu
        and param.is_contiguous()
        and grad.layout == torch.strided
        and all(tensor.is_contiguous() for tensor in (grad, *_tensors_like(param, entry).values()))
    )


def update_in_chunks(
    update: Callable[[Memory, Tensor, Tensor, Tree], tuple[Tensor, Tree]],
    memory: Memory,
    param: Tensor,
    grad: Tensor,
    entry: Tree,
) -> tuple[Tensor, Tree]:
    """What an update by single elements returns, computed chunk by chunk.

    Args:
        update: the update of a param, a gradient and an entry of the state.
        memory: what it may write over.
        param, grad, entry: contiguous tensors, and numbers of the state.
    """
    columns = _tensors_like(param, entry)
    numbers = {name: value for name, value in entry.items() if name not in columns}
    new_param = param if memory.donates else torch.empty_like(param)
    new_columns: dict[str, Tensor] = {}
    chunks = _iter_chunks(param, grad, *columns.values())
    offset = 0
    for at, (param_chunk, grad_chunk, *entry_chunks) in enumerate(chunks):
        # Each chunk counts the step anew, the last one in the memory of the state.
        own_numbers = numbers if at == len(chunks) - 1 else {name: _copy(value) for name, value in numbers.items()}
        moved, changes = update(
            memory, param_chunk, grad_chunk, {**own_numbers, **dict(zip(columns, entry_chunks, strict=True))}
        )
        end = offset + param_chunk.numel()
        _write(new_param, offset, end, moved)
        for name, value in changes.items():
            if _is_like(param_chunk, value):
                if name not in new_columns:
                    new_columns[name] = entry[name] if memory.donates and name in columns else torch.empty_like(param)
                _write(new_columns[name], offset, end, value)
        offset = end
    return new_param, {name: new_columns.get(name, value) for name, value in changes.items()}


def _iter_chunks(*tensors: Tensor) -> list[tuple[Tensor, ...]]:
    size = CHUNK_SIZE * torch.get_num_threads()
    return list(zip(*[tensor.view(-1).split(size) for tensor in tensors], strict=True))


def _write(target: Tensor, start: int, end: int, values: Tensor) -> None:
    chunk = target.view(-1)[start:end]
    if chunk.data_ptr() != values.data_ptr():
        chunk.copy_(values)


def _tensors_like(param: Tensor, entry: Tree) -> dict[str, Tensor]:
    return {name: value for name, value in entry.items() if _is_like(param, value)}


def _is_like(param: Tensor, value: Any) -> bool:
    return isinstance(value, Tensor) and value.shape == param.shape


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
