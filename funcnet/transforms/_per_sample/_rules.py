"""Rules for linear maps, products of matrices, embeddings and norms; those of convolutions have a file of their own.

A rule runs the kernel once on the whole batch, as a batch gradient does, and says how the gradients by the weights
follow from the gradient by the output. It returns NotImplemented for arguments that it does not fit.

Axes: B examples, T positions within an example, I in, O out, V rows of a table, C channels, * any.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from funcnet.transforms._per_sample._batched_losses import cross_entropy
from funcnet.transforms._per_sample._contributions import Contribution, OuterProducts, SelectedRows, StackedGrads
from funcnet.transforms._per_sample._convolution_rules import convolution, transposed_convolution
from funcnet.transforms._per_sample._recorder import SavedInput, UseRecorder


def _takes_shared_weights(recorder: UseRecorder, input: Any, *weights: Any) -> bool:
    """Whether a call has one input with examples, and weights that are the same for all of them."""
    return recorder.is_batched(input) and _are_shared(recorder, *weights)


def _are_shared(recorder: UseRecorder, *weights: Any) -> bool:
    """Whether weights are real floats, and the same for all examples."""
    return not any(map(recorder.is_batched, weights)) and all(
        weight is None or weight.is_floating_point() for weight in weights
    )


def _sum_positions(g: Tensor) -> StackedGrads:
    """The gradients by a bias, from the gradient (B, *, O) by the output."""
    return StackedGrads(g.flatten(1, -2).sum(1) if g.dim() > 2 else g)


def _as_positions(x: Tensor) -> Tensor:
    """The tensor (B, *, I) as (B, 1, T, I)."""
    return x.reshape(len(x), 1, -1, x.shape[-1])


# --- products ---


def _linear(recorder: UseRecorder, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    is_constant = not recorder.is_batched(input) and not input.requires_grad  # as the first state of a recurrent layer
    if not (is_constant or recorder.is_batched(input)) or not _are_shared(recorder, weight, bias) or weight.dim() != 2:
        return NotImplemented
    x, shape = recorder.unwrap(input), weight.shape
    y = F.linear(input if is_constant else x, recorder.alias(weight), recorder.alias(bias))
    saved = SavedInput(x)

    def contribute(g: Tensor) -> Contribution:
        return OuterProducts(_as_positions(g), _as_positions(saved.read()), shape)

    y = y.expand(len(x), *y.shape) if is_constant else y
    return recorder.record(y, "linear", (weight, contribute), (bias, _sum_positions))


def _matmul(recorder: UseRecorder, input: Tensor, other: Tensor) -> Any:
    if _takes_shared_weights(recorder, input, other) and other.dim() == 2:
        x = recorder.unwrap(input)
        y = x @ recorder.alias(other)
        return _record_right_factor(recorder, y, x, other, None)
    if _takes_shared_weights(recorder, other, input) and input.dim() == 2:
        x, weight, shape = recorder.unwrap(other), recorder.alias(input), input.shape
        is_vector, saved = x.dim() == 2, SavedInput(x)
        y = x @ weight.t() if is_vector else weight @ x

        def contribute(g: Tensor) -> Contribution:
            factors = (g, saved.read())
            left, right = factors if is_vector else (factor.transpose(-1, -2) for factor in factors)
            return OuterProducts(_as_positions(left), _as_positions(right), shape)

        return recorder.record(y, "matmul", (input, contribute))
    return NotImplemented


def _record_right_factor(recorder: UseRecorder, y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Record ``y = x @ weight + bias``, x (B, *, I); y has the same numbers of rows, however they are arranged."""
    saved, shape = SavedInput(x), weight.shape

    def contribute(g: Tensor) -> Contribution:
        return OuterProducts(_as_positions(saved.read()), _as_positions(g), shape)

    shape_of_output = (*x.shape[:-1], weight.shape[1])
    return recorder.record(y, "matmul", (weight, contribute), (bias, _sum_positions), shape=shape_of_output)


def _addmm(
    recorder: UseRecorder, input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1
) -> Any:
    if not _takes_shared_weights(recorder, mat1, mat2, input) or (beta, alpha) != (1, 1) or input.dim() != 1:
        return NotImplemented
    x, bias, weight = recorder.unwrap(mat1), recorder.alias(input), recorder.alias(mat2)
    y = torch.addmm(bias, x.flatten(0, 1), weight)
    return _record_right_factor(recorder, y, x, mat2, input)


# --- tables ---


def _embedding(
    recorder: UseRecorder,
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Any:
    if max_norm is not None or sparse or recorder.is_batched(weight) or not weight.is_floating_point():
        return NotImplemented
    rows, table = recorder.unwrap(input), recorder.alias(weight)  # numbers that are the same for all are expanded
    y = F.embedding(rows, table) if recorder.is_batched(input) else F.embedding(input, table).expand(*rows.shape, -1)
    count, width = weight.shape
    rows = rows.reshape(len(rows), -1)
    padding = padding_idx if padding_idx is None or padding_idx >= 0 else count + padding_idx

    def contribute(g: Tensor) -> Contribution:
        values = g.reshape(*rows.shape, width)
        if padding is not None:
            values = values.masked_fill((rows == padding)[..., None], 0)
        if scale_grad_by_freq:
            values = values / (rows[:, :, None] == rows[:, None, :]).sum(-1, keepdim=True)
        return SelectedRows(rows, values, count)

    return recorder.record(y, "embedding", (weight, contribute))


# --- norms ---


def _record_norm(
    recorder: UseRecorder,
    normalise: Callable[..., Tensor],
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    by_channel: bool,
) -> Any:
    """Record a norm that treats the examples one by one.

    Args:
        recorder: of this call.
        normalise: ``(x, weight, bias)`` -> the output; without weight and bias, what they scale and shift.
        input: of the call; by channel it is (N, C, *).
        weight, bias: of the call; one of them at least is given.
        by_channel: whether they belong to axis 1, and not to the last axes.
    """
    if not _takes_shared_weights(recorder, input, weight, bias):
        return NotImplemented
    x = recorder.unwrap(input)
    batch, extra = x.shape[:2]
    plain = _flatten_odd_space(x.flatten(0, 1)) if by_channel else x
    y = normalise(plain, recorder.alias(weight), recorder.alias(bias))
    saved = SavedInput(plain)
    count = max(0 if scale is None else scale.dim() for scale in (weight, bias))

    def sum_positions(g: Tensor) -> StackedGrads:
        if by_channel:
            return StackedGrads(g.reshape(batch, extra, g.shape[2], -1).sum((1, 3)))
        return StackedGrads(g.flatten(1, -count - 1).sum(1) if g.dim() > count + 1 else g)

    def contribute(g: Tensor) -> StackedGrads:
        with torch.no_grad():
            return sum_positions(g * normalise(saved.read(), None, None).view(g.shape))

    return recorder.record(y, "norm", (weight, contribute), (bias, sum_positions), shape=x.shape)


def _flatten_odd_space(x: Tensor) -> Tensor:
    """An input (N, C, *) with one axis of space if an axis has size 1, whose stride torch's kernels misread."""
    return x.contiguous().flatten(2) if x.dim() > 3 and 1 in x.shape else x


def _layer_norm(
    recorder: UseRecorder,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Any:
    def normalise(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return F.layer_norm(x, normalized_shape, weight, bias, eps)

    return _record_norm(recorder, normalise, input, weight, bias, by_channel=False)


def _rms_norm(
    recorder: UseRecorder,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Any:
    def normalise(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return F.rms_norm(x, normalized_shape, weight, eps)

    return _record_norm(recorder, normalise, input, weight, None, by_channel=False)


def _group_norm(
    recorder: UseRecorder,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Any:
    def normalise(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return F.group_norm(x, num_groups, weight, bias, eps)

    return _record_norm(recorder, normalise, input, weight, bias, by_channel=True)


def _instance_norm(
    recorder: UseRecorder,
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    if use_input_stats and running_mean is not None:  # the kernel would write one average for all examples
        return NotImplemented
    if recorder.is_batched(running_mean) or recorder.is_batched(running_var):
        return NotImplemented

    def normalise(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return F.instance_norm(x, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)

    return _record_norm(recorder, normalise, input, weight, bias, by_channel=True)


def _batch_norm(
    recorder: UseRecorder,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    if training or recorder.is_batched(running_mean) or recorder.is_batched(running_var):
        return NotImplemented

    def normalise(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)

    return _record_norm(recorder, normalise, input, weight, bias, by_channel=True)


RULES: dict[Any, Callable[..., Any]] = {
    F.linear: _linear,
    **dict.fromkeys(
        (torch.matmul, torch.mm, torch.mv, Tensor.matmul, Tensor.mm, Tensor.mv, Tensor.__matmul__), _matmul
    ),
    torch.addmm: _addmm,
    F.cross_entropy: cross_entropy,
    F.embedding: _embedding,
    F.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    F.group_norm: _group_norm,
    F.instance_norm: _instance_norm,
    F.batch_norm: _batch_norm,
    **{function: partial(convolution, function) for function in (F.conv1d, F.conv2d, F.conv3d)},
    **{
        function: partial(transposed_convolution, function)
        for function in (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
    },
}
"""Function of torch -> its rule, called with the recorder and the arguments of the function."""
