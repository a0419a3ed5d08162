"""Recurrent layers cell by cell, in operations that every transform supports.

Axes: L time, N batch, I input, H hidden, P output of a layer (the projection of H, or H itself), G gates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

State: TypeAlias = "tuple[Tensor, ...]"
"""The state (h,), or (h, c) of an LSTM."""

CellStep: TypeAlias = Callable[..., State]
"""One step of a cell: ``step(x, state, weight_hh, bias_hh, weight_hr)`` computes the next state."""


def step_rnn_tanh(x: Tensor, state: State, w_hh: Tensor, b_hh: Tensor | None = None, _: None = None) -> State:
    """One step of a plain cell. Here and below ``x`` is the input already multiplied by ``weight_ih``, (N, G)."""
    return ((x + F.linear(state[0], w_hh, b_hh)).tanh(),)


def step_rnn_relu(x: Tensor, state: State, w_hh: Tensor, b_hh: Tensor | None = None, _: None = None) -> State:
    """One step of a plain cell with relu."""
    return ((x + F.linear(state[0], w_hh, b_hh)).relu(),)


def step_gru(x: Tensor, state: State, w_hh: Tensor, b_hh: Tensor | None = None, _: None = None) -> State:
    """One step of a GRU cell; gates in the order reset, update, new (Cho et al., 2014)."""
    x_reset, x_update, x_new = x.chunk(3, -1)
    h_reset, h_update, h_new = F.linear(state[0], w_hh, b_hh).chunk(3, -1)
    new = (x_new + h_new * (h_reset + x_reset).sigmoid()).tanh()
    return ((state[0] - new) * (h_update + x_update).sigmoid() + new,)


def step_lstm(x: Tensor, state: State, w_hh: Tensor, b_hh: Tensor | None = None, w_hr: Tensor | None = None) -> State:
    """One step of an LSTM cell; gates in the order input, forget, cell, output (Hochreiter and Schmidhuber, 1997)."""
    i, f, g, o = (x + F.linear(state[0], w_hh, b_hh)).chunk(4, -1)
    c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c.tanh()
    return (h if w_hr is None else F.linear(h, w_hr)), c


CELL_STEPS: dict[str, CellStep] = {
    "RNN_TANH": step_rnn_tanh,
    "RNN_RELU": step_rnn_relu,
    "GRU": step_gru,
    "LSTM": step_lstm,
}
"""The step of each mode."""

LayerWeights: TypeAlias = "tuple[Tensor, Tensor | None, Tensor, Tensor | None, Tensor | None]"
"""weight_ih, bias_ih, weight_hh, bias_hh and weight_hr of one layer in one direction; None where it has none."""


def run_layer(
    step: CellStep,
    data: Tensor,
    lengths: Sequence[int] | None,
    states: Sequence[State],
    weights: Sequence[LayerWeights],
) -> tuple[Tensor, State]:
    """The output and last state of one layer, which runs in one direction or in both.

    Args:
        step: one of :data:`CELL_STEPS`.
        data: (L, N, I); or packed, (sum of ``lengths``, I).
        lengths: for packed data, how many sequences there are at each time, in descending order.
        states: the first state of each direction, (N, P) and (N, H).
        weights: the weights of each direction.

    Returns:
        The output (L, N, directions * P) or packed, and the last state, (directions, N, P) and (directions, N, H).
    """
    outputs, finals = [], []
    for direction, (w_ih, b_ih, *hidden_weights) in enumerate(weights):
        x = F.linear(data, w_ih, b_ih)  # for all times at once
        xs = x.unbind(0) if lengths is None else x.split(lengths)
        scan = _scan_backward if direction else _scan_forward
        hs, final = scan(step, xs, states[direction], hidden_weights)
        outputs.append(torch.stack(hs) if lengths is None else torch.cat(hs))
        finals.append(final)
    output = outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)
    return output, tuple(torch.stack(parts) for parts in zip(*finals, strict=True))


def _scan_forward(
    step: CellStep, xs: Sequence[Tensor], state: State, hidden_weights: Sequence[Tensor | None]
) -> tuple[list[Tensor], State]:
    """The output h of each step from the first to the last, and the last state."""
    hs, ended = [], []
    for x in xs:
        active = x.shape[0]
        if active < state[0].shape[0]:  # the last sequences of a packed batch end before this step
            ended.append([part[active:] for part in state])
            state = tuple(part[:active] for part in state)
        state = step(x, state, *hidden_weights)
        hs.append(state[0])
    if ended:
        state = tuple(torch.cat(parts) for parts in zip(state, *reversed(ended), strict=True))
    return hs, state


def _scan_backward(
    step: CellStep, xs: Sequence[Tensor], start: State, hidden_weights: Sequence[Tensor | None]
) -> tuple[list[Tensor], State]:
    """The output h of each step, computed from the last to the first, and the state after the first."""
    hs, state = [], tuple(part[: xs[-1].shape[0]] for part in start)
    for x in reversed(xs):
        before, active = state[0].shape[0], x.shape[0]
        if active > before:  # this step is the last one of further sequences of a packed batch
            state = tuple(torch.cat([part, first[before:active]]) for part, first in zip(state, start, strict=True))
        state = step(x, state, *hidden_weights)
        hs.append(state[0])
    return hs[::-1], state
