"""Updates of large tensors in chunks that stay in the cache from the first operation of an update to the last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from funcnet._typing import Tree
from funcnet.optim._spare_memory import empty_in_turn
from funcnet.optim._update_operations import DONATIONS, Memory

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

    Where param and state are not donated, each chunk of theirs is copied, and the copy is. So a step takes no more
    memory than its results need: to take memory can cost more than all the arithmetic.

    Args:
        update: the update of a param, a gradient and an entry of the state.
        memory: what it may write over.
        param, grad, entry: contiguous tensors, and numbers of the state.
    """
    columns = _tensors_like(param, entry)
    numbers = {name: value for name, value in entry.items() if name not in columns}
    targets = [param, *columns.values()]
    if not memory.donates:
        targets = [empty_in_turn(tensor) for tensor in targets]
    new_param, new_columns = targets[0], dict(zip(columns, targets[1:], strict=True))
    chunks = list(zip(*[_split(tensor) for tensor in (grad, param, *columns.values(), *targets)], strict=True))
    count = len(targets)
    offset = 0
    for at, (grad_chunk, *rest) in enumerate(chunks):
        old_chunks, new_chunks = rest[:count], rest[count:]
        if not memory.donates:
            for old, new in zip(old_chunks, new_chunks, strict=True):
                new.copy_(old)
        # Each chunk counts the step anew, the last one in the memory of the state.
        is_last = memory.donates and at == len(chunks) - 1
        own_numbers = numbers if is_last else {name: _copy(value) for name, value in numbers.items()}
        own_entry = {**own_numbers, **dict(zip(columns, new_chunks[1:], strict=True))}
        moved, changes = update(DONATIONS, new_chunks[0], grad_chunk, own_entry)
        end = offset + grad_chunk.numel()
        _write(new_param, offset, end, moved)
        for name, value in changes.items():
            if _is_like(grad_chunk, value):
                if name not in new_columns:
                    new_columns[name] = torch.empty_like(param)
                _write(new_columns[name], offset, end, value)
        offset = end
    return new_param, {name: new_columns.get(name, value) for name, value in changes.items()}


def _split(tensor: Tensor) -> tuple[Tensor, ...]:
    return tensor.view(-1).split(CHUNK_SIZE * torch.get_num_threads())


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
