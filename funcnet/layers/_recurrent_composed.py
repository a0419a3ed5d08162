"""Recurrent layers cell by cell, in operations that every transform can pass.

Axes: L time, N batch, I input, H hidden, P what a layer passes on (the projection of H, or H itself), G gates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

State: TypeAlias = "tuple[Tensor, ...]"
"""(h,), or (h, c) of an LSTM."""

Step: TypeAlias = Callable[..., State]


def rnn_tanh(x: Tensor, state: State, w_hh: Tensor, b_hh: Tensor | None = None, _: Any = None) -> State:
    """One step of a plain cell; ``x`` is its input by ``weight_ih`` already, (N, G), as in each of these."""
    return ((x + F.linear(state[0], w_hh, b_hh)).tanh(),)


def rnn_relu(x: Tensor, state: State, w_hh: Tensor, b_hh: Tensor | None = None, _: Any = None) -> State:
    """One step of a plain cell with the other nonlinearity."""
    return ((x + F.linear(state[0], w_hh, b_hh)).relu(),)


def gru(x: Tensor, state: State, w_hh: Tensor, b_hh: Tensor | None = None, _: Any = None) -> State:
    """One step of a GRU cell; gates in the order reset, update, new (Cho et al., 2014)."""
    x_reset, x_update, x_new = x.chunk(3, -1)
    h_reset, h_update, h_new = F.linear(state[0], w_hh, b_hh).chunk(3, -1)
    new = (x_new + h_new * (h_reset + x_reset).sigmoid()).tanh()
    return ((state[0] - new) * (h_update + x_update).sigmoid() + new,)


def lstm(x: Tensor, state: State, w_hh: Tensor, b_hh: Tensor | None = None, w_hr: Tensor | None = None) -> State:
    """One step of an LSTM cell; gates in the order input, forget, cell, output (Hochreiter and Schmidhuber, 1997)."""
    take, keep, cell, show = (x + F.linear(state[0], w_hh, b_hh)).chunk(4, -1)
    c = keep.sigmoid() * state[1] + take.sigmoid() * cell.tanh()
    h = show.sigmoid() * c.tanh()
    return (h if w_hr is None else F.linear(h, w_hr)), c


STEPS: dict[str, Step] = {"RNN_TANH": rnn_tanh, "RNN_RELU": rnn_relu, "GRU": gru, "LSTM": lstm}
"""The step of each mode: ``step(x, state, weight_hh, bias_hh, weight_hr)`` gives the next state."""


def one_layer(
    step: Step, data: Tensor, lengths: Sequence[int] | None, states: Sequence[State], weights: Sequence[Any]
) -> tuple[Tensor, State]:
    """One layer in each direction.

    Args:
        step: of :data:`STEPS`.
        data: (L, N, I); or packed, (sum of ``lengths``, I).
        lengths: how many sequences there are at each time, falling, if packed.
        states: the first state of each direction, (N, P) and (N, H).
        weights: of each direction: weight_ih, bias_ih, weight_hh, bias_hh, weight_hr, None where there is none.

    Returns:
        (L, N, directions * P) or packed; and the last state, (directions, N, P) and (directions, N, H).
    """
    outputs, finals = [], []
    for direction, (w_ih, b_ih, *hidden) in enumerate(weights):
        x = F.linear(data, w_ih, b_ih)  # of all times at once
        xs = x.unbind(0) if lengths is None else x.split(lengths)
        scan = _backward if direction else _forward
        hs, final = scan(step, xs, states[direction], hidden)
        outputs.append(torch.stack(hs) if lengths is None else torch.cat(hs))
        finals.append(final)
    output = outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)
    return output, tuple(torch.stack(parts) for parts in zip(*finals, strict=True))


def _forward(step: Step, xs: Sequence[Tensor], state: State, hidden: Any) -> tuple[list[Tensor], State]:
    hs, ended = [], []
    for x in xs:
        alive = x.shape[0]
        if alive < state[0].shape[0]:  # the last sequences of a packed batch are over
            ended.append([part[alive:] for part in state])
            state = tuple(part[:alive] for part in state)
        state = step(x, state, *hidden)
        hs.append(state[0])
    if ended:
        state = tuple(torch.cat(parts) for parts in zip(state, *reversed(ended), strict=True))
    return hs, state


def _backward(step: Step, xs: Sequence[Tensor], start: State, hidden: Any) -> tuple[list[Tensor], State]:
    hs, state = [], tuple(part[: xs[-1].shape[0]] for part in start)
    for x in reversed(xs):
        before, alive = state[0].shape[0], x.shape[0]
        if alive > before:  # the ends of further sequences of a packed batch are reached
            state = tuple(torch.cat([part, more[before:alive]]) for part, more in zip(state, start, strict=True))
        state = step(x, state, *hidden)
        hs.append(state[0])
    return hs[::-1], state
