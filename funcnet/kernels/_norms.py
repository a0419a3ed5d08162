"""Norms whose derivatives are right wherever torch's kernels have wrong ones; see layers/WRONG_KERNELS.md.

Axes: N batch, C channel, S space.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from funcnet._context import under_vmap
from funcnet._torch import unwrap_all
from funcnet.ranks import RankRun, current_run

# --- norms in operations whose derivatives of all orders are right ---


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """What torch.nn.functional.layer_norm computes, composed of operations that have all derivatives.

    >>> layer_norm(torch.tensor([1.0, 2.0, 3.0]), (3,))
    tensor([-1.2247,  0.0000,  1.2247])
    """
    y = _standardise(input, tuple(range(-len(normalized_shape), 0)), eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """What torch.nn.functional.batch_norm computes and writes; in training composed, like :func:`layer_norm`.

    >>> x = torch.arange(4.0).view(4, 1)
    >>> torch.allclose(batch_norm(x, None, None, training=True), F.batch_norm(x, None, None, training=True))
    True
    """
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    if running_mean is not None:  # the kernel updates the statistics, with its own bits
        F.batch_norm(input, running_mean, running_var, None, None, True, momentum, eps)
    return _scale_channels(_standardise(input, (0, *range(2, input.dim())), eps), weight, bias)


def batch_norm_of_all_ranks(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, run: RankRun
) -> tuple[Tensor, Tensor, Tensor]:
    """Batch normalisation by the rows of all ranks, with all derivatives; two sums over the ranks.

    Args:
        input: this rank's rows, (N, C, *).
        weight, bias: as for :func:`batch_norm`.
        eps: added to the variance.
        run: the run on many ranks.

    Returns:
        The normalised input; the mean (C,) and the unbiased variance (C,) of all rows, without gradient.
    """
    axes = (0, *range(2, input.dim()))
    values = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
    count = values.new_tensor(float(input.numel() // max(input.shape[1], 1)))
    total, count = run.add_up(values.sum(axes), count)
    mean = total / count
    centred = values - mean.view(-1, *(1,) * (input.dim() - 2))
    (squares,) = run.add_up(centred.square().sum(axes))  # about the common mean, which loses no digits
    scale = torch.rsqrt(squares / count + eps).view(-1, *(1,) * (input.dim() - 2))
    y = _scale_channels((centred * scale).to(input.dtype), weight, bias)
    return y, mean.detach(), (squares / (count - 1)).detach()


def batch_norm_on_ranks(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """What torch.nn.functional.batch_norm computes and writes, by the rows of all ranks where a loss runs on many."""
    run = current_run()
    if not training or run is None or not run.shares_statistics:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    y, mean, var = batch_norm_of_all_ranks(input, weight, bias, eps, run)
    with torch.no_grad():
        for running, value in ((running_mean, mean), (running_var, var)):
            if running is not None:
                running.mul_(1 - momentum).add_(unwrap_all(value).to(running.dtype), alpha=momentum)
    return y


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """What torch.nn.functional.instance_norm computes and writes; composed where it uses statistics of its input.

    >>> x = torch.arange(4.0).view(1, 2, 2)
    >>> torch.allclose(instance_norm(x), F.instance_norm(x))
    True
    """
    if not use_input_stats:
        return F.instance_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    if running_mean is not None:
        F.instance_norm(input, running_mean, running_var, None, None, True, momentum, eps)
    return _scale_channels(_standardise(input, tuple(range(2, input.dim())), eps), weight, bias)


def _standardise(input: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    centred = input - input.mean(axes, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(axes, keepdim=True) + eps)


def _scale_channels(y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    shape = (-1, *(1,) * (y.dim() - 2))
    y = y if weight is None else y * weight.view(shape)
    return y if bias is None else y + bias.view(shape)


# --- gradients in layouts that the kernels of the CPU read rightly ---

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def flatten_space_for_compiler(input: Tensor) -> Tensor:
    """In compiled code, an input (N, C, S) with one axis of space in place of several, if some axis has size 1.

    The kernel reads the gradients of such an input rightly in any layout, and compiled code takes no hooks.
    """
    is_misread = input.dim() > 3 and 1 in input.shape and input.is_cpu
    return input.flatten(2) if is_misread and torch.compiler.is_compiling() and input.is_contiguous() else input


def guard_batch_norm_gradient(input: Tensor, y: Tensor) -> Tensor:
    """The output of a batch norm, whose gradient will reach the kernel in a layout that it reads rightly.

    An axis of size 1 may have any stride. With some, a tensor counts as channels-last to one question of the kernel and
    as contiguous to another. If the input is so and the gradient is not, or the other way round, the gradient of the
    input is computed from elements at wrong places. Only such gradients are copied; all others keep their bits.
    """
    if y.requires_grad and y.dim() > 3 and 1 in y.shape and y.is_cpu and _takes_hooks():
        if input.is_contiguous():
            y.register_hook(_copy_ambiguous)
        elif _is_ambiguous(input):
            y.register_hook(_copy_contiguous)
    return y


def guard_instance_norm_gradient(y: Tensor) -> Tensor:
    """The output of an instance norm, whose gradient will reach the kernel in a layout that it reads rightly.

    The kernel is that of batch norm for one example with N * C channels. It gets a contiguous input, so gradients that
    are channels-last, seen that way, are copied.
    """
    if y.requires_grad and y.dim() > 3 and y.is_cpu and _takes_hooks():
        y.register_hook(_copy_channels_last)
    return y


def _takes_hooks() -> bool:
    return not torch.compiler.is_compiling() and not under_vmap()  # under vmap the kernels are others, and right


def _copy_ambiguous(grad: Tensor) -> Tensor:
    return grad.contiguous() if _is_ambiguous(grad) else grad


def _copy_contiguous(grad: Tensor) -> Tensor:
    return grad.contiguous(memory_format=_CHANNELS_LAST[grad.dim()]) if grad.is_contiguous() else grad


def _copy_channels_last(grad: Tensor) -> Tensor:
    if grad.is_contiguous():
        return grad
    (batch, channels, *space), strides = grad.shape, grad.stride()
    if batch > 1 and channels > 1 and strides[0] != channels * strides[1]:
        return grad  # the kernel cannot see it as one example, and copies it
    one_example = grad.as_strided(
        (1, batch * channels, *space), (1, strides[1] if channels > 1 else strides[0], *strides[2:])
    )
    return grad.contiguous() if one_example.is_contiguous(memory_format=_CHANNELS_LAST[grad.dim()]) else grad


def _is_ambiguous(tensor: Tensor) -> bool:
    """Whether a tensor is channels-last to one question of torch's kernels, and contiguous to another."""
    if tensor.is_contiguous() or not tensor.is_contiguous(memory_format=_CHANNELS_LAST[tensor.dim()]):
        return False
    sizes, strides = tensor.shape, tensor.stride()
    least = 0
    for axis in (1, *range(tensor.dim() - 1, 1, -1), 0):  # as torch decides which format a tensor suggests
        if strides[axis] < least or (axis == 0 and least == strides[1]):
            return True
        least = strides[axis] * max(sizes[axis], 1)
    return strides[1] == 0
