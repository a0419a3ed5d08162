"""Cells, which compute one step of a recurrent layer; counterparts of those in torch/nn/modules/rnn.py.

Axes: N batch, I input, H hidden, G gates times H.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.types import Device

from funcnet._context import under_vmap
from funcnet.core import Param, View
from funcnet.kernels.internals import CellStep, State, step_gru, step_lstm, step_rnn_relu, step_rnn_tanh
from funcnet.layers._layer import Layer
from funcnet.layers._linear import fan_in_uniform


class RNNCellBase(Layer, ignores_view=True):
    """The base of the cells: their hyperparameters and weights. As in torch, it computes nothing.

    Args:
        input_size: size I of the last axis of ``input``.
        hidden_size: size H of the last axis of the state.
        bias: when false, there are no ``bias_*`` entries.
        num_chunks: how many gates there are for each hidden element: 1, 3 or 4.
        device, dtype: the defaults of :meth:`init`.

    Params: weight_ih (G, I), weight_hh (G, H), bias_ih (G,), bias_hh (G,).

    >>> list(RNNCellBase(3, 4, False, 3).init(0)[0])
    ['weight_ih', 'weight_hh']
    """

    input_size: int
    hidden_size: int
    bias: bool
    num_chunks: int
    device: Device = None
    dtype: torch.dtype | None = None

    @classmethod
    def fields_from_module(cls, module: nn.Module) -> dict[str, Any]:
        cell = cast(nn.RNNCellBase, module)
        fields = {"input_size": cell.input_size, "hidden_size": cell.hidden_size, "bias": bool(cell.bias)}
        if cls is RNNCellBase:
            fields["num_chunks"] = cell.weight_ih.shape[0] // max(cell.hidden_size, 1)
        return fields

    def parts(self) -> dict[str, Any]:
        gates, scheme = self.num_chunks * self.hidden_size, fan_in_uniform(self.hidden_size)
        return {
            "weight_ih": Param((gates, self.input_size), scheme),
            "weight_hh": Param((gates, self.hidden_size), scheme),
            "bias_ih": Param(gates, scheme) if self.bias else None,
            "bias_hh": Param(gates, scheme) if self.bias else None,
        }

    def expects(self) -> str:
        return f"input (N, {self.input_size}) or ({self.input_size},), and hx (N, {self.hidden_size}) alike, or None"

    @staticmethod
    def forward(_: View, *input: Any) -> Any:
        raise TypeError("RNNCellBase computes nothing, as in torch: build RNNCell, GRUCell or LSTMCell.")


class RNNCell(RNNCellBase):
    """One step of :class:`RNN`, ``h = tanh(W_ih @ input + b_ih + W_hh @ hx + b_hh)``.

    Args:
        input_size, hidden_size: sizes I and H.
        bias: when false, there are no ``bias_*`` entries.
        nonlinearity: "tanh" or "relu".
        device, dtype: the defaults of :meth:`init`.

    Params: weight_ih (H, I), weight_hh (H, H), bias_ih (H,), bias_hh (H,).  Buffers: none.  Draws: none at apply.
    Shape:  input (N, I) or (I,), hx (N, H) or (H,), zeros if None -> the next h, as ``hx``.
    Raises: ShapeError if ``input`` or ``hx`` do not fit; ValueError for another nonlinearity.
    Source: torch.rnn_tanh_cell, torch.rnn_relu_cell.

    >>> cell = RNNCell(3, 4)
    >>> cell(cell.init(0)[0], torch.ones(2, 3)).shape
    torch.Size([2, 4])
    """

    bias: bool = True
    num_chunks: int = field(default=1, init=False)
    nonlinearity: str = "tanh"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        # Written by hand, because nonlinearity is between arguments that RNNCellBase declares.
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        self.__dict__.update(arguments)
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"nonlinearity is 'tanh' or 'relu', got {nonlinearity!r}.")
        self.__post_init__()

    @classmethod
    def fields_from_module(cls, module: nn.Module) -> dict[str, Any]:
        return {**super().fields_from_module(module), "nonlinearity": module.nonlinearity}

    @staticmethod
    def forward(p: View, input: Tensor, hx: Tensor | None = None) -> Tensor:
        if p.nonlinearity == "tanh":
            return _step_one_state(p, input, hx, torch.rnn_tanh_cell, step_rnn_tanh)
        return _step_one_state(p, input, hx, torch.rnn_relu_cell, step_rnn_relu)


class GRUCell(RNNCellBase):
    """One step of :class:`GRU`.

    Args:
        input_size, hidden_size, bias, device, dtype: as for :class:`RNNCell`.

    Params: weight_ih (3 * H, I), weight_hh (3 * H, H), bias_ih (3 * H,), bias_hh (3 * H,).  Draws: none at apply.
    Shape:  input (N, I) or (I,), hx (N, H) or (H,), zeros if None -> the next h, as ``hx``.
    Raises: ShapeError if ``input`` or ``hx`` do not fit.
    Source: torch.gru_cell.

    >>> cell = GRUCell(3, 4)
    >>> cell(cell.init(0)[0], torch.ones(2, 3)).shape
    torch.Size([2, 4])
    """

    bias: bool = True
    num_chunks: int = field(default=3, init=False)

    @staticmethod
    def forward(p: View, input: Tensor, hx: Tensor | None = None) -> Tensor:
        return _step_one_state(p, input, hx, torch.gru_cell, step_gru)


class LSTMCell(RNNCellBase):
    """One step of :class:`LSTM`, without a projection.

    Args:
        input_size, hidden_size, bias, device, dtype: as for :class:`RNNCell`.

    Params: weight_ih (4 * H, I), weight_hh (4 * H, H), bias_ih (4 * H,), bias_hh (4 * H,).  Draws: none at apply.
    Shape:  input (N, I) or (I,), hx a pair (h, c) of (N, H) or (H,), zeros if None -> the next (h, c), as ``hx``.
    Raises: ShapeError if ``input`` or ``hx`` do not fit.
    Source: torch.lstm_cell.

    >>> cell = LSTMCell(3, 4)
    >>> h, c = cell(cell.init(0)[0], torch.ones(2, 3))
    >>> h.shape, c.shape
    (torch.Size([2, 4]), torch.Size([2, 4]))
    """

    bias: bool = True
    num_chunks: int = field(default=4, init=False)

    def expects(self) -> str:
        return f"{super().expects().removesuffix(', or None')} for each of its pair (h, c), or None"

    @staticmethod
    def forward(p: View, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        if hx is not None and (isinstance(hx, Tensor) or len(hx) != 2):
            raise ValueError("hx is a pair of tensors (h, c)")
        return _step_state(p, input, hx, torch.lstm_cell, step_lstm)  # type: ignore[return-value]


def _step_one_state(p: View, input: Tensor, hx: Tensor | None, kernel: Callable[..., Any], step: CellStep) -> Tensor:
    return _step_state(p, input, None if hx is None else (hx,), kernel, step)[0]


def _step_state(p: View, input: Tensor, hx: State | None, kernel: Callable[..., Any], step: CellStep) -> State:
    """The state after ``input``; it has a batch axis where ``input`` has one."""
    if input.dim() not in (1, 2):
        raise ValueError(f"input has 1 or 2 dimensions, got {input.dim()}")
    if hx is not None and any(part.dim() not in (1, 2) for part in hx):
        raise ValueError("hx has 1 or 2 dimensions")
    is_batched, is_lstm = input.dim() == 2, p.num_chunks == 4
    if not is_batched:
        input = input.unsqueeze(0)
    if hx is None:
        zeros = torch.zeros(input.shape[0], p.hidden_size, dtype=input.dtype, device=input.device)
        hx = (zeros, zeros) if is_lstm else (zeros,)
    elif not is_batched:
        hx = tuple(part.unsqueeze(0) for part in hx)
    if under_vmap():  # the kernels have no batching rule
        state = step(F.linear(input, p.weight_ih, p.bias_ih), hx, p.weight_hh, p.bias_hh)
    else:
        state = kernel(input, hx if is_lstm else hx[0], p.weight_ih, p.weight_hh, p.bias_ih, p.bias_hh)
        state = state if is_lstm else (state,)
    return state if is_batched else tuple(part.squeeze(0) for part in state)
