"""One call of a recurrent layer: it brings the inputs into the form of the kernels, and chooses the kernels.

Axes: L time, N batch, I input, S states of all layers and directions, H hidden, P output of a layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from funcnet._context import calls_are_mapped, under_forward_mode
from funcnet._errors import TransformError
from funcnet._torch import any_autocast
from funcnet.core import View, draw_source
from funcnet.core.internals import describe_view
from funcnet.kernels.internals import CELL_STEPS, RECURRENT_KERNELS, State, divide_by_direction, run_layer
from funcnet.random import dropout

LayerRunner: TypeAlias = "Callable[[Tensor, State, list[Tensor]], tuple[Tensor, ...]]"
"""Computes one or more layers: ``run(data, state, weights)`` returns the output and each part of the last state."""

Hidden: TypeAlias = "Tensor | tuple[Tensor, ...]"
"""The states of a layer as its callers see them: h, or the pair (h, c) of an LSTM."""


def call_recurrent(
    p: View, input: Tensor | PackedSequence, hx: Hidden | None
) -> tuple[Tensor | PackedSequence, Hidden]:
    """The output and the last state, in the form of the inputs: packed, batched or neither."""
    weights = [getattr(p, name) for name in p.weight_names]
    if isinstance(input, PackedSequence):
        return _call_packed(p, input, hx, weights)
    if input.dim() not in (2, 3):
        raise ValueError(f"input has 2 or 3 dimensions, got {input.dim()}")
    is_batched, axis = input.dim() == 3, 0 if p.batch_first else 1
    data = input if is_batched else input.unsqueeze(axis)
    _check_data(p, data, weights)
    state = _initial_state(p, data, data.shape[axis], hx, is_batched)
    output, state = _run_layers(p, data, None, state, weights)
    if not is_batched:
        output, state = output.squeeze(axis), tuple(part.squeeze(1) for part in state)
    return output, state if p.mode == "LSTM" else state[0]


def _call_packed(
    p: View, input: PackedSequence, hx: Hidden | None, weights: list[Tensor]
) -> tuple[PackedSequence, Hidden]:
    if torch.compiler.is_compiling():
        raise TransformError(
            f"{describe_view(p)} cannot run under compile or export on a PackedSequence, whose lengths are values: "
            f"give it the padded tensor, and mask its output."
        )
    data, batch_sizes, order, order_back = input
    if data.dim() != 2:
        raise ValueError(f"the data of a PackedSequence has 2 dimensions, got {data.dim()}")
    _check_data(p, data, weights)
    state = _initial_state(p, data, int(batch_sizes[0]), hx, True)
    if hx is not None and order is not None:
        state = tuple(part.index_select(1, order) for part in state)
    output, state = _run_layers(p, data, batch_sizes, state, weights)
    if order_back is not None:
        state = tuple(part.index_select(1, order_back) for part in state)
    return PackedSequence(output, batch_sizes, order, order_back), state if p.mode == "LSTM" else state[0]


def _check_data(p: View, data: Tensor, weights: list[Tensor]) -> None:
    if data.dtype != weights[0].dtype and not any_autocast():
        raise ValueError(f"input is {data.dtype} and the weights are {weights[0].dtype}: convert one of them")
    if data.shape[-1] != p.input_size:
        raise ValueError(f"the last axis of input has size {data.shape[-1]}, not {p.input_size}")


def _initial_state(p: View, data: Tensor, batch: int, hx: Hidden | None, is_batched: bool) -> State:
    """The first state, (S, N, P) and for an LSTM also (S, N, H): zeros, or ``hx`` after a check of its shapes."""
    front, sizes = p.state_front, p.state_sizes
    if hx is None:
        return tuple(torch.zeros(front, batch, size, dtype=data.dtype, device=data.device) for size in sizes)
    if isinstance(hx, Tensor) != (len(sizes) == 1):
        raise ValueError("hx is a tensor" if len(sizes) == 1 else "hx is a pair of tensors (h, c)")
    state = (hx,) if isinstance(hx, Tensor) else tuple(hx)
    shapes = [(front, batch, size) if is_batched else (front, size) for size in sizes]
    if [tuple(part.shape) for part in state] != shapes:
        raise ValueError(f"for this input hx is of shape {', '.join(map(str, shapes))}")
    return state if is_batched else tuple(part.unsqueeze(1) for part in state)


def _run_layers(
    p: View, data: Tensor, batch_sizes: Tensor | None, state: State, weights: list[Tensor]
) -> tuple[Tensor, State]:
    """The output and the last state of all layers, computed by one kernel where that is possible."""
    training = p.training
    needs_dropout = p.dropout > 0 and p.num_layers > 1 and training
    if p.impl == "composed" or calls_are_mapped() or _onednn_lacks_needed_rule(p, data, state, weights):
        run = _composed_runner(p, batch_sizes)
    elif needs_dropout:  # a kernel for all layers would draw from the global generator
        run = _kernel_runner(p, batch_sizes, 1, training, False)
    else:
        run = _kernel_runner(p, batch_sizes, p.num_layers, training, p.batch_first)
        output, *last_parts = run(data, state, weights)
        return output, tuple(last_parts)
    is_batch_first = p.batch_first and batch_sizes is None
    data = data.transpose(0, 1) if is_batch_first else data
    output, last_state = _run_layer_by_layer(p, run, data, state, weights, needs_dropout)
    return output.transpose(0, 1) if is_batch_first else output, last_state


def _onednn_lacks_needed_rule(p: View, data: Tensor, state: State, weights: list[Tensor]) -> bool:
    """Whether oneDNN's LSTM, which computes most calls on a CPU, would lack a rule that this call needs.

    The kernel has no forward-mode derivative, and torch.compile cannot save the tensors that its backward pass needs.
    """
    if p.mode != "LSTM" or p.proj_size:
        return False
    if torch.compiler.is_compiling() and not torch.compiler.is_exporting():
        return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (data, *state, *weights))
    return under_forward_mode()


def _kernel_runner(p: View, batch_sizes: Tensor | None, layers: int, training: bool, batch_first: bool) -> LayerRunner:
    """A runner that calls torch's kernel for this many layers, without dropout."""
    kernel, is_lstm = RECURRENT_KERNELS[p.mode], p.mode == "LSTM"
    options = (p.bias, layers, 0.0, training, p.bidirectional)
    if batch_sizes is None:
        return lambda data, state, weights: kernel(data, state if is_lstm else state[0], weights, *options, batch_first)
    return lambda data, state, weights: kernel(data, batch_sizes, state if is_lstm else state[0], weights, *options)


def _composed_runner(p: View, batch_sizes: Tensor | None) -> LayerRunner:
    """A runner that computes one layer cell by cell."""
    cell, lengths = CELL_STEPS[p.mode], None if batch_sizes is None else batch_sizes.tolist()

    def run_one_layer(data: Tensor, state: State, weights: list[Tensor]) -> tuple[Tensor, ...]:
        states = list(zip(*(part.unbind(0) for part in state), strict=True))
        by_direction = divide_by_direction(weights, 2 if p.bidirectional else 1, p.bias, p.proj_size > 0)
        output, last_state = run_layer(cell, data, lengths, states, by_direction)
        return output, *last_state

    return run_one_layer


def _run_layer_by_layer(
    p: View, run: LayerRunner, data: Tensor, state: State, weights: list[Tensor], needs_dropout: bool
) -> tuple[Tensor, State]:
    """The output and last state of the layers in sequence, with dropout between them; ``data`` (L, N, I) or packed."""
    if data.shape[0] == 0:
        raise ValueError("input has no time steps")
    layers, directions = p.num_layers, 2 if p.bidirectional else 1
    weights_per_layer = len(weights) // layers
    states = list(zip(*(part.view(layers, directions, *part.shape[1:]).unbind(0) for part in state), strict=True))
    last_states = []
    for index in range(layers):
        if index and needs_dropout:
            data = dropout(data, p.dropout, rng=draw_source(p))
        data, *last_state = run(
            data, states[index], weights[index * weights_per_layer : (index + 1) * weights_per_layer]
        )
        last_states.append(last_state)
    return data, tuple(torch.cat(parts) for parts in zip(*last_states, strict=True))
