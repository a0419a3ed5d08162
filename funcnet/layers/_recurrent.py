"""Recurrent layers, the counterparts of torch/nn/modules/rnn.py. The cells are in ``_recurrent_cells``.

Axes: L time, N batch, I input, H hidden, P output of a layer (``proj_size``, or H where that is 0), D directions (2 if
``bidirectional``), S layers times D, G gates times H (one gate for RNN, 3 for GRU, 4 for LSTM).
"""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.types import Device

from funcnet.core import Param, View
from funcnet.layers._layer import Layer
from funcnet.layers._linear import fan_in_uniform
from funcnet.layers._recurrent_call import Hidden, call_recurrent

_GATES = {"RNN_TANH": 1, "RNN_RELU": 1, "GRU": 3, "LSTM": 4}


class RNNBase(Layer, ignores_view=True):
    """The base of RNN, LSTM and GRU: their hyperparameters and weights. As in torch, it computes nothing.

    Args:
        mode: "RNN_TANH", "RNN_RELU", "GRU" or "LSTM".
        input_size: size I of the last axis of ``input``.
        hidden_size: size H.
        num_layers: how many layers are stacked; the input of each is the output of the layer before.
        bias: when false, there are no ``bias_*`` entries.
        batch_first: whether ``input`` and output are (N, L, *) instead of (L, N, *); ``hx`` is the same in both.
        dropout: probability in [0, 1] that an element of the output of a layer but the last is zeroed in training.
        bidirectional: whether each layer also runs from the end to the start; the two outputs are concatenated.
        proj_size: size P to which an LSTM projects its output of size H; 0 for no projection.
        device, dtype: the defaults of :meth:`init`.

    Params: for each layer k weight_ih_lk (G, I) or, from the second layer on, (G, D * P), weight_hh_lk (G, P),
    bias_ih_lk (G,), bias_hh_lk (G,), weight_hr_lk (P, H) if projected; with ``_reverse`` for the other direction.

    >>> list(RNNBase("LSTM", 3, 4, bias=False).init(0)[0])
    ['weight_ih_l0', 'weight_hh_l0']
    """

    mode: str
    input_size: int
    hidden_size: int
    num_layers: int = 1
    bias: bool = True
    batch_first: bool = False
    dropout: float = 0.0
    bidirectional: bool = False
    proj_size: int = 0
    device: Device = None
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self._has_unused_dropout():
            warnings.warn(
                f"dropout={self.dropout} has no effect with num_layers=1: it is applied after each layer but the last.",
                stacklevel=4,
            )

    def _has_unused_dropout(self) -> bool:
        return self.num_layers == 1 and isinstance(self.dropout, float) and 0 < self.dropout <= 1

    def as_module(self) -> nn.Module:
        if not self._has_unused_dropout():
            return super().as_module()
        # The twin warns whenever it is built, even for a repr, so it is built without dropout.
        module: Any = dataclasses.replace(self, dropout=0.0).as_module()
        module.dropout = self.dropout
        return module

    @classmethod
    def fields_from_module(cls, module: nn.Module) -> dict[str, Any]:
        names = [record_field.name for record_field in dataclasses.fields(cls) if record_field.init]
        fields = {name: getattr(module, name) for name in names if name not in ("device", "dtype", "impl")}
        return fields | ({"impl": getattr(module, "_funcnet_impl", "fused")} if "impl" in names else {})

    def parts(self) -> dict[str, Any]:
        gates, output_size = _GATES[self.mode] * self.hidden_size, self.proj_size or self.hidden_size
        directions = ("", "_reverse") if self.bidirectional else ("",)
        scheme = fan_in_uniform(self.hidden_size)
        weights: dict[str, Param] = {}
        for layer in range(self.num_layers):
            size = output_size * len(directions) if layer else self.input_size
            for direction in directions:
                shapes: dict[str, tuple[int, ...]] = {"weight_ih": (gates, size), "weight_hh": (gates, output_size)}
                if self.bias:
                    shapes |= {"bias_ih": (gates,), "bias_hh": (gates,)}
                if self.proj_size:
                    shapes |= {"weight_hr": (output_size, self.hidden_size)}
                weights |= {f"{name}_l{layer}{direction}": Param(shape, scheme) for name, shape in shapes.items()}
        return {
            **weights,
            "weight_names": tuple(weights),
            "state_front": self.num_layers * len(directions),
            "state_sizes": (output_size, self.hidden_size) if self.mode == "LSTM" else (self.hidden_size,),
        }

    @staticmethod
    def forward(_: View, *input: Any) -> Any:
        raise TypeError("RNNBase computes nothing, as in torch: build RNN, GRU or LSTM.")


class _Recurrent(RNNBase):
    """The base of the layers that compute something."""

    impl: Literal["fused", "composed"] = field(default="fused", kw_only=True)

    def draws(self, training: bool) -> bool:
        return training and self.dropout > 0 and self.num_layers > 1

    def expects(self) -> str:
        axes = "N, L" if self.batch_first else "L, N"
        sizes = [f"({self._parts['state_front']}, N, {size})" for size in self._parts["state_sizes"]]
        hx = f"a pair of {sizes[0]} and {sizes[1]}" if len(sizes) == 2 else sizes[0]
        return f"input ({axes}, {self.input_size}), (L, {self.input_size}) or packed, and as hx {hx}, or None"

    @staticmethod
    def forward(
        p: View, input: Tensor | PackedSequence, hx: Hidden | None = None
    ) -> tuple[Tensor | PackedSequence, Hidden]:
        return call_recurrent(p, input, hx)


class RNN(_Recurrent):
    """Plain recurrent layers (Elman, 1990), ``h = tanh(W_ih @ x + b_ih + W_hh @ h + b_hh)``.

    Args:
        input_size, hidden_size, num_layers: sizes I and H, and how many layers are stacked.
        nonlinearity: "tanh" or "relu".
        bias, batch_first, dropout, bidirectional, device, dtype: as for :class:`RNNBase`.
        impl: "fused" runs torch's kernel, with the bits of the module; under vmap, for which the kernel has no rule, it
            is composed. "composed" runs cell by cell everywhere: it takes two to five times as long, and differs in the
            last bits.

    Params: see :class:`RNNBase`.  Buffers: none.  Draws: in training, with dropout between several layers.
    Shape:  input (L, N, I) or (L, I) without a batch, or a PackedSequence; hx (S, N, H) or (S, H), zeros if None
        -> output (L, N, D * H), last state (S, N, H). If packed, the batch of ``hx`` is in the order before packing.
    Raises: ShapeError if ``input`` or ``hx`` do not fit.
    Source: torch.rnn_tanh, torch.rnn_relu. With ``batch_first``, these kernels, torch.gru and torch.lstm round
        differently when the weights require gradients. A net has the bits of a module whose weights require gradients
        exactly where ``params`` do.

    >>> rnn = RNN(3, 4, num_layers=2, nonlinearity="relu")
    >>> output, last = rnn(rnn.init(0)[0], torch.ones(5, 1, 3))
    >>> output.shape, last.shape
    (torch.Size([5, 1, 4]), torch.Size([2, 1, 4]))
    """

    mode: str = field(default="RNN_TANH", init=False)
    proj_size: int = field(default=0, init=False)
    nonlinearity: str = "tanh"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Device = None,
        dtype: torch.dtype | None = None,
        *,
        impl: Literal["fused", "composed"] = "fused",
    ) -> None:
        # Written by hand, because nonlinearity is between arguments that RNNBase declares.
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        self.__dict__.update(arguments, mode="RNN_RELU" if nonlinearity == "relu" else "RNN_TANH")
        self.__post_init__()


class LSTM(_Recurrent):
    """Long short-term memory (Hochreiter and Schmidhuber, 1997); gates in the order input, forget, cell, output.

    Args:
        input_size, hidden_size, num_layers: sizes I and H, and how many layers are stacked.
        bias, batch_first, dropout, bidirectional, proj_size, device, dtype: as for :class:`RNNBase`.
        impl: "fused" or "composed", as for :class:`RNN`.

    Params: see :class:`RNNBase`.  Buffers: none.  Draws: in training, with dropout between several layers.
    Shape:  input as for :class:`RNN`; hx a pair (h, c) of (S, N, P) and (S, N, H), zeros if None
        -> output (L, N, D * P), (last h, last c).
    Raises: ShapeError if ``input`` or ``hx`` do not fit.
    Source: torch.lstm. On a CPU, for float32, that is oneDNN's kernel, which has no forward-mode derivative and no
        compiled backward pass: where these are needed, "fused" runs cell by cell.

    >>> lstm = LSTM(3, 4, proj_size=2)
    >>> output, (h, c) = lstm(lstm.init(0)[0], torch.ones(5, 1, 3))
    >>> output.shape, h.shape, c.shape
    (torch.Size([5, 1, 2]), torch.Size([1, 1, 2]), torch.Size([1, 1, 4]))
    """

    mode: str = field(default="LSTM", init=False)


class GRU(_Recurrent):
    """Gated recurrent units (Cho et al., 2014); gates in the order reset, update, new.

    The reset gate is applied after ``weight_hh``, as in cuDNN. Arguments and shapes are those of :class:`LSTM`,
    without ``proj_size``, and with one state ``h``.

    Raises: ShapeError if ``input`` or ``hx`` do not fit.
    Source: torch.gru.

    >>> gru = GRU(3, 4, batch_first=True, bidirectional=True)
    >>> output, h = gru(gru.init(0)[0], torch.ones(1, 5, 3))
    >>> output.shape, h.shape
    (torch.Size([1, 5, 8]), torch.Size([2, 1, 4]))

    The composed form takes the same params, and runs under ``torch.vmap``:

    >>> composed = GRU(3, 4, impl="composed")
    >>> params, _ = composed.init(0)
    >>> torch.vmap(lambda x: composed(params, x)[0])(torch.ones(7, 5, 1, 3)).shape
    torch.Size([7, 5, 1, 4])
    """

    mode: str = field(default="GRU", init=False)
    proj_size: int = field(default=0, init=False)
