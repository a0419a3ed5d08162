"""Layers that only change shapes, the counterparts of torch/nn/modules/flatten.py."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from funcnet.layers._layer import Layer


class Flatten(Layer):
    """Join the axes from ``start_dim`` to ``end_dim`` into one. Source: torch.flatten.

    >>> import torch
    >>> Flatten()({}, torch.ones(2, 3, 4)).shape
    torch.Size([2, 12])
    """

    start_dim: int = 1
    end_dim: int = -1

    @staticmethod
    def forward(p: Any, input: Tensor) -> Tensor:
        return input.flatten(p.start_dim, p.end_dim)


class Unflatten(Layer):
    """Split axis ``dim`` into axes of the sizes ``unflattened_size``. Source: torch.unflatten.

    >>> import torch
    >>> Unflatten(1, (3, 4))({}, torch.ones(2, 12)).shape
    torch.Size([2, 3, 4])
    """

    dim: int | str
    unflattened_size: tuple[Any, ...]

    @staticmethod
    def forward(p: Any, input: Tensor) -> Tensor:
        return input.unflatten(p.dim, p.unflattened_size)
