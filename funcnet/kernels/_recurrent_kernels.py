"""Torch's recurrent layers as functions, composed cell by cell: ``torch.lstm`` and its kin have no batching rule.

Axes: L time, N batch, I input, S states of all layers and directions, H hidden, P output of a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from funcnet._torch_functions import recurrent_mode_position
from funcnet.kernels._recurrent_cells_composed import CELL_STEPS, LayerWeights, State, run_layer

RECURRENT_KERNELS: dict[str, Callable[..., Any]] = {
    "RNN_TANH": torch.rnn_tanh,
    "RNN_RELU": torch.rnn_relu,
    "GRU": torch.gru,
    "LSTM": torch.lstm,
}
"""Torch's kernel for each mode."""


def run_recurrent_layers(mode: str, *args: Any) -> tuple[Tensor, ...]:
    """What torch's kernel of a mode computes: the output, and each part of the last state.

    Args:
        mode: a key of :data:`RECURRENT_KERNELS`.
        args: those of the kernel: ``(input, hx, weights, has_biases, num_layers, dropout, train, bidirectional,
            batch_first)``, or for packed data ``(data, batch_sizes, hx, weights, ...)`` without the last. Between
            layers it calls torch.nn.functional.dropout.

    Source: torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu.

    >>> weights = [torch.ones(4, 3), torch.ones(4, 4)]
    >>> output, last = run_recurrent_layers(
    ...     "RNN_TANH", torch.ones(5, 1, 3), torch.zeros(1, 1, 4), weights, False, 1, 0.0, False, False, False
    ... )
    >>> output.shape, last.shape
    (torch.Size([5, 1, 4]), torch.Size([1, 1, 4]))
    """
    *tensors, has_biases, num_layers, dropout, train, bidirectional = args[: recurrent_mode_position(args) + 2]
    batch_first = args[-1] if len(args) > len(tensors) + 5 else False
    data, batch_sizes, hx, weights = tensors if len(tensors) == 4 else (tensors[0], None, *tensors[1:])
    states = [hx] if isinstance(hx, Tensor) else list(hx)
    has_projection = mode == "LSTM" and states[0].shape[-1] != states[1].shape[-1]
    data = data.transpose(0, 1) if batch_first else data
    lengths = None if batch_sizes is None else batch_sizes.tolist()
    directions = 2 if bidirectional else 1
    per_layer = len(weights) // num_layers
    by_layer = list(zip(*(part.unflatten(0, (num_layers, directions)).unbind(0) for part in states), strict=True))
    finals: list[State] = []
    for index in range(num_layers):
        if index and dropout and train:
            data = F.dropout(data, dropout, True)
        layer_weights = weights[index * per_layer : (index + 1) * per_layer]
        weights_by_direction = divide_by_direction(layer_weights, directions, has_biases, has_projection)
        starts = list(zip(*(part.unbind(0) for part in by_layer[index]), strict=True))
        data, final = run_layer(CELL_STEPS[mode], data, lengths, starts, weights_by_direction)
        finals.append(final)
    output = data.transpose(0, 1) if batch_first else data
    return output, *(torch.cat(parts) for parts in zip(*finals, strict=True))


def divide_by_direction(
    weights: Sequence[Tensor], directions: int, has_biases: bool, has_projection: bool
) -> list[LayerWeights]:
    """The weights of one layer, in the form that :func:`run_layer` expects."""
    step = len(weights) // directions
    by_direction: list[LayerWeights] = []
    for start in range(0, len(weights), step):
        w_ih, w_hh, *optional = weights[start : start + step]
        b_ih, b_hh = optional[:2] if has_biases else (None, None)
        by_direction.append((w_ih, b_ih, w_hh, b_hh, optional[-1] if has_projection else None))
    return by_direction


RECURRENT_FORMS = {kernel: partial(run_recurrent_layers, mode) for mode, kernel in RECURRENT_KERNELS.items()}
"""Torch's kernel -> the composed form with its arguments."""
