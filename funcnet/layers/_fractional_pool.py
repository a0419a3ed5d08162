"""Max pooling over windows at random places, to any fraction of the size. Axes: N batch, C channel, D H W space."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from funcnet._context import under_vmap
from funcnet._torch import fractional_max_pool2d, fractional_max_pool3d
from funcnet.core import Buffer, View, draw_source
from funcnet.init.internals import nested_tuples
from funcnet.layers._layer import Layer
from funcnet.layers._sizes import Size, check_sizes, describe_spatial_input
from funcnet.random.internals import draw_tensor

Samples: TypeAlias = "tuple[tuple[tuple[float, ...], ...], ...]"
"""For each example, each channel and each axis of space: where the windows are shifted to, in [0, 1)."""


class _FractionalMaxPool(Layer):
    """The base of FractionalMaxPool2d and FractionalMaxPool3d; each says how many axes of space it has."""

    axes: ClassVar[int]

    kernel_size: Size
    output_size: Size | None = None
    output_ratio: float | tuple[float, ...] | None = None
    return_indices: bool = False
    _random_samples: Samples | None = None

    def __post_init__(self) -> None:
        if isinstance(self._random_samples, Tensor):
            raise TypeError(
                f"{type(self).__name__}: a net holds no tensor. Pass _random_samples as nested tuples of numbers: "
                f"(N, C, {self.axes}) of them."
            )
        object.__setattr__(self, "_random_samples", nested_tuples(self._random_samples))
        super().__post_init__()
        check_sizes(self, self.axes, "kernel_size", exactly=True)
        check_sizes(self, self.axes, "output_size", least=0, exactly=True)
        if self.output_ratio is not None and len(self.output_ratio) != self.axes:  # type: ignore[arg-type]
            raise ValueError(f"{type(self).__name__}: output_ratio has {self.axes} numbers, got {self.output_ratio}.")

    def as_module(self) -> nn.Module:
        samples = self._random_samples
        # The tensor is on the CPU wherever the module is built: it holds all that the module knows of these numbers.
        tensor = None if samples is None else torch.tensor(samples, dtype=torch.float64, device="cpu")
        return self.twin(self.kernel_size, self.output_size, self.output_ratio, self.return_indices, tensor)

    @classmethod
    def fields_from_module(cls, module: nn.Module) -> dict[str, Any]:
        fields = super().fields_from_module(module)
        if isinstance(module._random_samples, Tensor):
            fields["_random_samples"] = nested_tuples(module._random_samples.tolist())
        return fields

    def parts(self) -> dict[str, Any]:
        samples: Any = self._random_samples
        shape = None if samples is None else torch.tensor(samples, device="cpu").shape
        return {"_random_samples": None if shape is None else Buffer(shape, samples)}

    def draws(self, training: bool) -> bool:
        return self._random_samples is None

    def expects(self) -> str:
        return describe_spatial_input("C", self.axes)


def _pool_fractional(
    pool: Callable[..., tuple[Tensor, Tensor]], p: View, input: Tensor, sample_columns: tuple[int, ...]
) -> Tensor | tuple[Tensor, Tensor]:
    """The pooled input, with indices if asked for. ``sample_columns`` says which sample shifts each axis of space."""
    axes = len(sample_columns)
    if input.dim() not in (axes + 1, axes + 2):
        raise ValueError(f"expected {axes + 1}D or {axes + 2}D input (got {input.dim()}D input)")
    size = p.output_size
    if size is None:
        size = tuple(int(input.size(axis - axes) * p.output_ratio[axis]) for axis in range(axes))
    samples = p._random_samples
    if samples is None:
        examples = 1 if input.dim() == axes + 1 else input.size(0)
        channels = input.size(-axes - 1)
        shape, stride = (examples, channels, axes), (channels * axes, axes, 1)
        samples = draw_tensor(draw_source(p), shape, stride, "uniform", (0.0, 1.0), input.dtype, input.device)
    if under_vmap():
        y, indices = _gather_windows(input, p.kernel_size, size, samples, sample_columns)
    else:
        y, indices = pool(input, p.kernel_size, size, samples)
    return (y, indices) if p.return_indices else y


def _gather_windows(
    input: Tensor, kernel: tuple[int, ...], size: tuple[int, ...], samples: Tensor, sample_columns: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """The result of the kernel, computed by gathering every window, as the kernel has no batching rule."""
    axes = len(sample_columns)
    if samples.shape[0] != (1 if input.dim() == axes + 1 else input.shape[0]):
        raise ValueError(f"expected _random_samples for as many examples as input has, got {tuple(samples.shape)}")
    index = torch.zeros((1,) * (2 * axes + 2), dtype=torch.int64, device=input.device)
    for axis, column in enumerate(sample_columns):
        length = input.shape[axis - axes]
        starts = _window_starts(samples[..., column], length, kernel[axis], size[axis])
        positions = starts.unsqueeze(-1) + torch.arange(kernel[axis], device=input.device)  # (N, C, out, k)
        shape = [1] * (2 * axes)
        shape[axis], shape[axes + axis] = size[axis], kernel[axis]
        index = index * length + positions.reshape(*positions.shape[:2], *shape)
    index = index.flatten(2 + axes).flatten(2, 1 + axes)  # (N, C, outputs, elements of a window)
    batched = input.flatten(-axes) if input.dim() == axes + 2 else input.flatten(-axes).unsqueeze(0)
    index = index.expand(*batched.shape[:2], *index.shape[2:])
    y, best = batched.gather(-1, index.flatten(2)).unflatten(-1, index.shape[2:]).max(-1)
    indices = index.gather(-1, best.unsqueeze(-1)).squeeze(-1)
    y, indices = y.unflatten(-1, size), indices.unflatten(-1, size)
    return (y, indices) if input.dim() == axes + 2 else (y.squeeze(0), indices.squeeze(0))


def _window_starts(sample: Tensor, length: int, kernel: int, count: int) -> Tensor:
    """Where ``count`` windows begin, (*sample.shape, count). The last window ends where the axis ends."""
    if length < kernel + count - 1:
        raise ValueError(f"an axis of {length} elements has no {count} windows of {kernel}")
    step = torch.tensor(length - kernel, dtype=sample.dtype, device=sample.device) / max(count - 1, 1)
    nth = torch.arange(max(count - 1, 0), dtype=sample.dtype, device=sample.device)
    shifted = ((nth + sample.unsqueeze(-1)) * step).long() - (sample.unsqueeze(-1) * step).long()
    last = sample.new_full((*sample.shape, 1), length - kernel, dtype=torch.int64)
    return torch.cat([shifted, last], -1)[..., :count]


class FractionalMaxPool2d(_FractionalMaxPool):
    """Largest values of windows whose places are drawn at random, which allows any size of output.

    It draws in eval mode too, as the module does: call it with ``net.apply(params, buffers, x, rng=key)``.

    Args:
        kernel_size: size of the windows, in elements.
        output_size: size of the output.
        output_ratio: the same as a fraction of the input, in (0, 1); one of the two is given.
        return_indices: return ``(y, indices)``, with the position of each largest value.
        _random_samples: numbers in [0, 1) to use instead of draws, as nested tuples (N, C, 2); they are the first
            values of the buffer of that name.

    Params: none.  Buffers: none, or _random_samples (N, C, 2).  Draws: one number for each axis of each channel.
    Shape:  input (N, C, H, W) or (C, H, W) -> y (N, C, H', W').
    Raises: ValueError unless one of size and ratio is given; ShapeError if the input is too small.
    Source: the kernel of torch.nn.functional.fractional_max_pool2d.

    >>> pool = FractionalMaxPool2d(2, output_ratio=0.7)
    >>> pool.apply({}, {}, torch.ones(1, 10, 10), rng=0)[0].shape
    torch.Size([1, 7, 7])
    """

    axes = 2

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return _pool_fractional(fractional_max_pool2d, p, input, (1, 0))


class FractionalMaxPool3d(_FractionalMaxPool):
    """See :class:`FractionalMaxPool2d`. Shape: input (N, C, D, H, W). Source: F.fractional_max_pool3d.

    >>> pool = FractionalMaxPool3d(2, output_size=(2, 3, 4))
    >>> pool.apply({}, {}, torch.ones(1, 6, 6, 6), rng=0)[0].shape
    torch.Size([1, 2, 3, 4])
    """

    axes = 3

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return _pool_fractional(fractional_max_pool3d, p, input, (0, 1, 2))
