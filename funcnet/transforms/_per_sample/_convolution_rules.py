"""The rule for convolutions in one to three dimensions, grouped, strided, dilated and padded, and for transposed ones.

The gradient by a weight is a linear map's, of the output's gradient and the patches of the input that each output was
computed from; of a transposed convolution, of the input and the patches of the output's gradient.

Axes: B examples, N batch within an example, G groups, L rows of a group's matrix, K kernel offsets, P positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import torch.nn.grad
from torch import Tensor

from funcnet._typing import Shape
from funcnet.transforms._per_sample._contributions import (
    Contribution,
    OuterProducts,
    StackedGrads,
    is_smaller_factored,
    squared_lengths,
)
from funcnet.transforms._per_sample._recorder import SavedInput, UseRecorder

_WORKSPACE = 1 << 18
"""How many numbers of patches exist at once, about; those of a few examples stay in the processor's cache."""

_WEIGHT_GRADIENTS = {1: torch.nn.grad.conv1d_weight, 2: torch.nn.grad.conv2d_weight, 3: torch.nn.grad.conv3d_weight}


@dataclass(frozen=True)
class Window:
    """Where the patches of a convolution lie; one number for each axis of space."""

    kernel: Shape
    stride: Shape
    dilation: Shape
    groups: int


def convolution(
    function: Callable[..., Tensor],
    recorder: UseRecorder,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Any:
    """Rule of F.conv1d, 2d and 3d."""
    space = weight.dim() - 2
    window = Window(tuple(weight.shape[2:]), _per_axis(stride, space), _per_axis(dilation, space), groups)

    def run(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return function(input, weight, bias, stride, padding, dilation, groups)

    def contribute(x: Tensor, g: Tensor) -> Contribution:
        pads = _padding_of(padding, window)
        if all(before == after for before, after in pads):
            return _contribution(recorder.batch_size, x, g, window, tuple(before for before, _ in pads), weight)
        padded = F.pad(x, [size for pair in reversed(pads) for size in pair])
        return _contribution(recorder.batch_size, padded, g, window, (0,) * space, weight)

    return _record_convolution(recorder, run, input, weight, bias, contribute)


def transposed_convolution(
    function: Callable[..., Tensor],
    recorder: UseRecorder,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> Any:
    """Rule of F.conv_transpose1d, 2d and 3d: that of a convolution with input and output exchanged."""
    space = weight.dim() - 2
    window = Window(tuple(weight.shape[2:]), _per_axis(stride, space), _per_axis(dilation, space), groups)

    def run(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return function(input, weight, bias, stride, padding, output_padding, groups, dilation)

    def contribute(x: Tensor, g: Tensor) -> Contribution:
        return _contribution(recorder.batch_size, g, x, window, _per_axis(padding, space), weight)

    return _record_convolution(recorder, run, input, weight, bias, contribute)


def _record_convolution(
    recorder: UseRecorder,
    run: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    contribute: Callable[[Tensor, Tensor], Contribution],
) -> Any:
    """The output of a convolution of either kind, whose weight and bias are recorded.

    Args:
        recorder, input, weight, bias: what the rule was called with.
        run: the function of torch, of the input with all examples in one batch, the weight and the bias.
        contribute: what the weight adds, from that input and the gradient of the output.
    """
    if not _fits(recorder, input, weight, bias):
        return NotImplemented
    x, has_batch = recorder.unwrap(input), input.dim() == weight.dim()
    plain = x.flatten(0, 1) if has_batch else x
    y = run(plain, recorder.alias(weight), recorder.alias(bias))
    saved = SavedInput(plain)

    def contribute_weight(g: Tensor) -> Contribution:
        return contribute(saved.read(), g.flatten(0, 1) if has_batch else g)

    shape = (*x.shape[:2], *y.shape[1:]) if has_batch else None
    uses = (weight, contribute_weight), (bias, _channel_sums(weight.dim() - 2))
    return recorder.record(y, "convolution", *uses, shape=shape)


def _fits(recorder: UseRecorder, input: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    is_shared = recorder.is_batched(input) and not recorder.is_batched(weight) and not recorder.is_batched(bias)
    return is_shared and weight.is_floating_point()


def _per_axis(value: int | Sequence[int], count: int) -> Shape:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * count if len(values) == 1 else values


def _padding_of(padding: int | Sequence[int] | str, window: Window) -> list[tuple[int, int]]:
    """How much is put before and after each axis of space."""
    if padding == "valid":
        return [(0, 0)] * len(window.kernel)
    if padding == "same":
        totals = [d * (k - 1) for k, d in zip(window.kernel, window.dilation, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    assert not isinstance(padding, str)
    return [(size, size) for size in _per_axis(padding, len(window.kernel))]


def _channel_sums(space: int) -> Callable[[Tensor], StackedGrads]:
    """From the gradient (B, [N,] C, *) by the output to that by a bias."""

    def contribute(g: Tensor) -> StackedGrads:
        axes = [*range(g.dim() - space, g.dim()), *range(1, g.dim() - space - 1)]
        return StackedGrads(g.sum(axes) if axes else g)

    return contribute


def _contribution(
    batch: int, input: Tensor, output: Tensor, window: Window, padding: Shape, weight: Tensor
) -> Contribution:
    """What a convolution adds to the gradients by its weight, in the smaller form."""
    positions = math.prod(output.shape[2:]) * (len(output) // batch)
    rows = output.shape[1] // window.groups
    columns = weight[0].numel()
    grads = ConvolutionGrads(batch, input, output, window, padding, weight.shape)
    if not is_smaller_factored(positions, rows, columns):
        return grads
    left, patches = grads.factors()
    return OuterProducts(left.transpose(-1, -2), patches.transpose(-1, -2), weight.shape)


class ConvolutionGrads(Contribution):
    """Gradients by the weight of a convolution, whose patches exist for a few examples at a time.

    Args:
        batch: number of examples B.
        input: (B * N, channels, *), what the patches are of.
        output: (B * N, channels, *), with one position for each patch.
        window: where the patches lie.
        padding: zeros around ``input``.
        shape: of the weight.
    """

    def __init__(self, batch: int, input: Tensor, output: Tensor, window: Window, padding: Shape, shape: Shape) -> None:
        super().__init__(shape)
        self.batch, self.input, self.output, self.window, self.padding = batch, input, output, window, padding
        self._transposed: Tensor | None = None

    def factors(self) -> tuple[Tensor, Tensor]:
        """The outputs (B, G, L, N * P) and the patches (B, G, K, N * P)."""
        outputs, patches = self._factor_views()
        columns = math.prod(self.shape[1:])
        return _join_batches(outputs.flatten(4)), _join_batches(patches.reshape(*patches.shape[:3], columns, -1))

    def _factor_views(self) -> tuple[Tensor, Tensor]:
        """Views of outputs (B, N, G, L, *positions) and patches (B, N, G, channels, *kernel, *positions)."""
        positions, groups = tuple(self.output.shape[2:]), self.window.groups
        patches = _patches(self.input, positions, self.window, self.padding)
        outputs, patches = (x.unflatten(0, (self.batch, -1)).unflatten(2, (groups, -1)) for x in (self.output, patches))
        return outputs, patches

    def stack(self) -> Tensor:
        matrices = self._stack_transposed().transpose(2, 3)  # in most cases a view is possible
        return matrices.reshape(self.batch, *self.shape)

    def _stack_transposed(self) -> Tensor:
        """The gradients as (B, G, K, L), the order in which the products of patches and outputs are quickest."""
        if self._transposed is None:
            outputs, patches = self._factor_views()
            groups, rows, columns = outputs.shape[2], outputs.shape[3], math.prod(self.shape[1:])
            step = min(self.batch, max(1, _WORKSPACE // max(1, patches[0].numel())))
            workspace = patches.new_empty(step, *patches.shape[1:])  # used again: new memory costs more than the copies
            transposed = patches.new_empty(self.batch, groups, columns, rows)
            for start in range(0, self.batch, step):
                examples = slice(start, min(start + step, self.batch))
                copied = workspace[: examples.stop - start].copy_(patches[examples])
                right = _join_batches(copied.reshape(*copied.shape[:3], columns, -1))
                left = _join_batches(outputs[examples].flatten(4))
                products = transposed[examples].flatten(0, 1)
                torch.bmm(right.flatten(0, 1), left.flatten(0, 1).transpose(1, 2), out=products)
            self._transposed = transposed
        return self._transposed

    def squared_norms(self) -> Tensor:
        return squared_lengths(self._stack_transposed().flatten(1))

    def sum_weighted(self, weights: Tensor) -> Tensor:
        if self._transposed is not None:
            total = StackedGrads(self._transposed).sum_weighted(weights)
            return total.transpose(1, 2).reshape(self.shape)
        output = self.output.unflatten(0, (self.batch, -1))
        output = (output * weights.to(output.dtype).view(-1, *[1] * (output.dim() - 1))).flatten(0, 1)
        window = self.window
        grad: Callable[..., Tensor] = _WEIGHT_GRADIENTS[len(window.kernel)]
        return grad(self.input, self.shape, output, window.stride, self.padding, window.dilation, window.groups)

    def dots(self, direction: Tensor) -> Tensor:
        groups, rows = self.window.groups, self.shape[0] // self.window.groups
        transposed = direction.reshape(groups, rows, -1).transpose(1, 2)
        return StackedGrads(self._stack_transposed()).dots(transposed)


def _join_batches(factor: Tensor) -> Tensor:
    """A factor (B, N, G, M, P) as (B, G, M, N * P)."""
    if factor.shape[1] == 1:
        return factor[:, 0]
    return factor.permute(0, 2, 3, 1, 4).flatten(3)


def _patches(input: Tensor, positions: Shape, window: Window, padding: Shape) -> Tensor:
    """The patches of an input (N, C, *), as a view (N, C, *kernel, *positions)."""
    if any(padding):
        input = F.pad(input, [size for pad in reversed(padding) for size in (pad, pad)])
    batch, channel, *space = input.stride()
    by_offset = [step * d for step, d in zip(space, window.dilation, strict=True)]
    by_position = [step * s for step, s in zip(space, window.stride, strict=True)]
    return input.as_strided((*input.shape[:2], *window.kernel, *positions), (batch, channel, *by_offset, *by_position))
