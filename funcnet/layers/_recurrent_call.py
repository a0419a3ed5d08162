"""One call of a recurrent layer: its inputs in the form of the kernels, and which kernels compute it.

Axes: L time, N batch, I input, S sequences of all layers and directions, H hidden, P what a layer passes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from funcnet._context import forward_mode, levels_of, under_vmap
from funcnet._errors import TransformError
from funcnet._torch import any_autocast
from funcnet.core import View, draw_source
from funcnet.core.internals import describe_place
from funcnet.layers._recurrent_composed import STEPS, State, one_layer
from funcnet.random import dropout

KERNELS: dict[str, Callable[..., Any]] = {
    "RNN_TANH": torch.rnn_tanh,
    "RNN_RELU": torch.rnn_relu,
    "GRU": torch.gru,
    "LSTM": torch.lstm,
}
"""torch's kernel of each mode."""

Run: TypeAlias = "Callable[[Tensor, State, list[Tensor]], tuple[Tensor, ...]]"
"""What computes one or more layers: ``run(data, state, weights)`` gives the output and each part of the last state."""

NO_BATCHING = 'torch\'s kernel has no batching rule; build it with impl="composed"'


def call(p: View, input: Any, hx: Any) -> tuple[Any, Any]:
    """Output and last state, in the form of the inputs: packed, batched or neither."""
    weights = [getattr(p, name) for name in p.weight_names]
    if isinstance(input, PackedSequence):
        return _packed(p, input, hx, weights)
    if input.dim() not in (2, 3):
        raise ValueError(f"input has 2 or 3 dimensions, got {input.dim()}")
    batched, axis = input.dim() == 3, 0 if p.batch_first else 1
    data = input if batched else input.unsqueeze(axis)
    _check(p, data, weights)
    state = _state(p, data, data.shape[axis], hx, batched)
    output, state = _computed(p, data, None, state, weights)
    if not batched:
        output, state = output.squeeze(axis), tuple(part.squeeze(1) for part in state)
    return output, state if p.mode == "LSTM" else state[0]


def _packed(p: View, input: PackedSequence, hx: Any, weights: list[Tensor]) -> tuple[PackedSequence, Any]:
    if torch.compiler.is_compiling():
        raise TransformError(
            f"{describe_place(p)} cannot run under compile or export on a PackedSequence, whose lengths are values: "
            f"give it the padded tensor, and mask its output."
        )
    data, batch_sizes, order, order_back = input
    if data.dim() != 2:
        raise ValueError(f"the data of a PackedSequence has 2 dimensions, got {data.dim()}")
    _check(p, data, weights)
    state = _state(p, data, int(batch_sizes[0]), hx, True)
    if hx is not None and order is not None:
        state = tuple(part.index_select(1, order) for part in state)
    output, state = _computed(p, data, batch_sizes, state, weights)
    if order_back is not None:
        state = tuple(part.index_select(1, order_back) for part in state)
    return PackedSequence(output, batch_sizes, order, order_back), state if p.mode == "LSTM" else state[0]


def _check(p: View, data: Tensor, weights: list[Tensor]) -> None:
    if data.dtype != weights[0].dtype and not any_autocast():
        raise ValueError(f"input is {data.dtype} and the weights are {weights[0].dtype}: convert one of them")
    if data.shape[-1] != p.input_size:
        raise ValueError(f"the last axis of input has size {data.shape[-1]}, not {p.input_size}")


def _state(p: View, data: Tensor, batch: int, hx: Any, batched: bool) -> State:
    """The first state, (S, N, P) and for an LSTM (S, N, H) too: zeros, or ``hx`` checked."""
    front, sizes = p.state_front, p.state_sizes
    if hx is None:
        return tuple(torch.zeros(front, batch, size, dtype=data.dtype, device=data.device) for size in sizes)
    if isinstance(hx, Tensor) != (len(sizes) == 1):
        raise ValueError("hx is a tensor" if len(sizes) == 1 else "hx is a pair of tensors (h, c)")
    state = (hx,) if isinstance(hx, Tensor) else tuple(hx)
    shapes = [(front, batch, size) if batched else (front, size) for size in sizes]
    if [tuple(part.shape) for part in state] != shapes:
        raise ValueError(f"for this input hx is of shape {', '.join(map(str, shapes))}")
    return state if batched else tuple(part.unsqueeze(1) for part in state)


def _computed(
    p: View, data: Tensor, batch_sizes: Tensor | None, state: State, weights: list[Tensor]
) -> tuple[Tensor, State]:
    training = p.training
    drops = p.dropout > 0 and p.num_layers > 1 and training
    if p.impl == "composed" or _beyond_onednn(p, data, state, weights):
        run = _composed(p, batch_sizes)
    elif drops:  # a kernel would draw from the global generator
        run = _kernel(p, batch_sizes, 1, training, False)
    else:
        output, *last = _kernel(p, batch_sizes, p.num_layers, training, p.batch_first)(data, state, weights)
        return output, tuple(last)
    turned = p.batch_first and batch_sizes is None
    output, final = _layer_by_layer(p, run, data.transpose(0, 1) if turned else data, state, weights, drops)
    return output.transpose(0, 1) if turned else output, final


def _beyond_onednn(p: View, data: Tensor, state: State, weights: list[Tensor]) -> bool:
    """Whether this is for oneDNN's LSTM, which most CPU calls run on, and asks of it what it has not.

    Its kernel has no forward-mode derivative, and torch.compile cannot save what its backward pass needs.
    """
    if p.mode != "LSTM" or p.proj_size:
        return False
    if torch.compiler.is_compiling() and not torch.compiler.is_exporting():
        return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (data, *state, *weights))
    return forward_mode()


def _kernel(p: View, batch_sizes: Tensor | None, layers: int, training: bool, batch_first: bool) -> Run:
    """Torch's kernel for this many layers, without dropout."""
    kernel, pair = KERNELS[p.mode], p.mode == "LSTM"
    options = (p.bias, layers, 0.0, training, p.bidirectional)
    if batch_sizes is None:
        return lambda data, state, weights: kernel(data, state if pair else state[0], weights, *options, batch_first)
    return lambda data, state, weights: kernel(data, batch_sizes, state if pair else state[0], weights, *options)


def _composed(p: View, batch_sizes: Tensor | None) -> Run:
    """One layer cell by cell."""
    step, lengths = STEPS[p.mode], None if batch_sizes is None else batch_sizes.tolist()

    def run(data: Tensor, state: State, weights: list[Tensor]) -> tuple[Tensor, ...]:
        states = list(zip(*(part.unbind(0) for part in state), strict=True))
        output, last = one_layer(step, data, lengths, states, _by_direction(p, weights))
        return output, *last

    return run


def _layer_by_layer(
    p: View, run: Run, data: Tensor, state: State, weights: list[Tensor], drops: bool
) -> tuple[Tensor, State]:
    """The layers one after the other, with dropout between them; ``data`` (L, N, I) or packed."""
    if data.shape[0] == 0:
        raise ValueError("input has no time steps")
    layers, directions = p.num_layers, 2 if p.bidirectional else 1
    step = len(weights) // layers
    mapped = drops and p.impl == "fused" and under_vmap()
    states = list(zip(*(part.view(layers, directions, *part.shape[1:]).unbind(0) for part in state), strict=True))
    finals = []
    for index in range(layers):
        if index and drops:
            data = dropout(data, p.dropout, rng=draw_source(p))
            if mapped and any(kind == "vmap" for kind, _ in levels_of(data)):  # over the Key alone
                raise TransformError(f"{describe_place(p)} cannot run under vmap: {NO_BATCHING}.")
        data, *last = run(data, states[index], weights[index * step : (index + 1) * step])
        finals.append(last)
    return data, tuple(torch.cat(parts) for parts in zip(*finals, strict=True))


def _by_direction(p: View, weights: Sequence[Tensor]) -> list[tuple[Tensor | None, ...]]:
    """The weights of one layer as :func:`one_layer` takes them."""
    step = len(weights) // 2 if p.bidirectional else len(weights)
    arranged: list[tuple[Tensor | None, ...]] = []
    for start in range(0, len(weights), step):
        w_ih, w_hh, *rest = weights[start : start + step]
        b_ih, b_hh = rest[:2] if p.bias else (None, None)
        arranged.append((w_ih, b_ih, w_hh, b_hh, rest[-1] if p.proj_size else None))
    return arranged
