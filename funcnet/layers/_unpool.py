"""The way back from max pooling. These layers have no params or buffers. Axes: N batch, C channel, L D H W space."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from funcnet._context import under_vmap
from funcnet._torch import unpool_output_size
from funcnet.core import View
from funcnet.layers._layer import Layer
from funcnet.layers._sizes import Size, check_sizes, describe_spatial_input


class _MaxUnpool(Layer):
    """The base of MaxUnpool1d to MaxUnpool3d; each says how many axes of space it has."""

    axes: ClassVar[int]

    kernel_size: Size
    stride: Size | None = None
    padding: Size = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, self.axes, "kernel_size", "stride", exactly=True)
        check_sizes(self, self.axes, "padding", least=0, exactly=True)

    def expects(self) -> str:
        return f"{describe_spatial_input('C', self.axes)} and indices of the same shape, as pooling returned them"


def _scatter_to_indices(
    unpool: Callable[..., Tensor], p: View, input: Tensor, indices: Tensor, output_size: Sequence[int] | None
) -> Tensor:
    if not under_vmap():
        return unpool(input, indices, p.kernel_size, p.stride, p.padding, output_size)
    # The kernel has no batching rule, so torch would loop over the examples.
    if input.shape != indices.shape:
        raise ValueError(f"indices have the shape of input, {tuple(input.shape)}, got {tuple(indices.shape)}")
    size = unpool_output_size(input, p.kernel_size, p.stride, p.padding, output_size)
    axes = len(p.kernel_size)
    flat = input.new_zeros((*input.shape[:-axes], math.prod(size)))
    return flat.scatter(-1, indices.flatten(-axes), input.flatten(-axes)).unflatten(-1, tuple(size))


class MaxUnpool1d(_MaxUnpool):
    """Put values back where max pooling took them from, with zeros between them.

    Args:
        kernel_size, stride, padding: those of the pooling, in elements.

    Shape:  input (N, C, L) or (C, L), indices of the same shape -> y (N, C, L'). Pooling maps several sizes to the same
        one, so ``output_size`` may say which it was: the sizes of its axes of space, or of all its axes.
    Raises: ShapeError for an index outside the output, or an output size that is not pooled to the size of ``input``.
    Source: torch.nn.functional.max_unpool1d.

    >>> import torch
    >>> MaxUnpool1d(2)({}, torch.tensor([[3.0, 2.0]]), torch.tensor([[1, 2]]))
    tensor([[0., 3., 2., 0.]])
    """

    axes = 1

    @staticmethod
    def forward(p: View, input: Tensor, indices: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        return _scatter_to_indices(F.max_unpool1d, p, input, indices, output_size)


class MaxUnpool2d(_MaxUnpool):
    """See :class:`MaxUnpool1d`. Shape: input and indices (N, C, H, W). Source: F.max_unpool2d.

    >>> import torch
    >>> MaxUnpool2d(2)({}, torch.ones(1, 1, 1), torch.tensor([[[3]]]))
    tensor([[[0., 0.],
             [0., 1.]]])
    """

    axes = 2

    @staticmethod
    def forward(p: View, input: Tensor, indices: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        return _scatter_to_indices(F.max_unpool2d, p, input, indices, output_size)


class MaxUnpool3d(_MaxUnpool):
    """See :class:`MaxUnpool1d`. Shape: input and indices (N, C, D, H, W). Source: F.max_unpool3d.

    >>> import torch
    >>> MaxUnpool3d(2)({}, torch.ones(1, 1, 1, 1), torch.tensor([[[[3]]]])).shape
    torch.Size([1, 2, 2, 2])
    """

    axes = 3

    @staticmethod
    def forward(p: View, input: Tensor, indices: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        return _scatter_to_indices(F.max_unpool3d, p, input, indices, output_size)
