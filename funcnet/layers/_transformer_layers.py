"""One layer of a transformer, the counterparts in torch/nn/modules/transformer.py.

Axes: S sources, T targets, N batch, E features, F features in between, H heads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from funcnet.core import Net, View
from funcnet.core._parts import check_part
from funcnet.layers._attention import MultiheadAttention
from funcnet.layers._dropout import Dropout
from funcnet.layers._layer import Layer
from funcnet.layers._linear import Linear
from funcnet.layers._norm import LayerNorm


class _TransformerLayer(Layer):
    """What the two have in common: fields, and all parts but one attention and its norm and dropout."""

    d_model: int
    nhead: int
    dim_feedforward: int = 2048
    dropout: float = 0.1
    activation: str | Callable[[Tensor], Tensor] | Net = F.relu
    layer_norm_eps: float = 1e-5
    batch_first: bool = False
    norm_first: bool = False
    bias: bool = True
    device: Any = None
    dtype: torch.dtype | None = None
    impl: str = field(default="fused", kw_only=True)

    calls_parts = True
    attentions: ClassVar[tuple[str, ...]] = ("self_attn",)

    def __post_init__(self) -> None:
        check_part("activation", self.activation)
        if self.dim_feedforward < 0:
            raise ValueError(f"{self.title()}: dim_feedforward is a size, got {self.dim_feedforward}.")
        super().__post_init__()
        _ = self._parts  # which refuse what they cannot be made with

    def as_module(self) -> nn.Module:
        module = super().as_module()
        if self.impl != "fused":
            for name in self.attentions:
                getattr(module, name)._funcnet_impl = self.impl
        return module

    @classmethod
    def fields_from_module(cls, module: Any) -> dict[str, Any]:
        fields = {
            "d_model": module.self_attn.embed_dim,
            "nhead": module.self_attn.num_heads,
            "dim_feedforward": module.linear1.out_features,
            "dropout": module.dropout.p,
            "layer_norm_eps": module.norm1.eps,
            "batch_first": module.self_attn.batch_first,
            "norm_first": module.norm_first,
            "bias": module.linear1.bias is not None,
            "impl": getattr(module, "_funcnet_impl", "fused"),
        }
        if not isinstance(module.activation, nn.Module):  # then it is a part, see fields_from_children()
            fields["activation"] = module.activation
        return fields

    @classmethod
    def fields_from_children(cls, children: Mapping[str, Net]) -> Mapping[str, Any]:
        return {"activation": children["activation"]} if "activation" in children else {}

    def foreign(self) -> bool:
        return self.activation not in (F.relu, F.gelu) and not isinstance(self.activation, Net)

    def parts(self) -> dict[str, Any]:
        size, hidden, made = self.d_model, self.dim_feedforward, (self.device, self.dtype)
        count = len(self.attentions) + 1
        attention = MultiheadAttention(
            *(size, self.nhead, self.dropout, self.bias),
            batch_first=self.batch_first,
            device=self.device,
            dtype=self.dtype,
            impl=self.impl,
        )
        parts: dict[str, Any] = dict.fromkeys(self.attentions, attention)
        parts["linear1"] = Linear(size, hidden, self.bias, *made)
        parts["dropout"] = Dropout(self.dropout)
        parts["linear2"] = Linear(hidden, size, self.bias, *made)
        norm = LayerNorm(size, self.layer_norm_eps, True, self.bias, *made)
        parts |= {f"norm{number}": norm for number in range(1, count + 1)}
        parts |= {f"dropout{number}": Dropout(self.dropout) for number in range(1, count + 1)}
        if isinstance(self.activation, Net):
            parts["activation"] = self.activation
        return parts


class TransformerEncoderLayer(_TransformerLayer):
    """Self-attention and a small network beside it, each added to its input and normed.

    The module has a fused kernel for inference (eval mode, no gradients, ``batch_first``, relu or gelu, an even number
    of heads); its results differ by rounding from those the module gives in training, and a net never takes it.

    Args:
        d_model: size E of the last axis.
        nhead: number of heads H, which divides E.
        dim_feedforward: size F in between.
        dropout: probability that an element is zeroed in training: of the weights of attention and in three places.
        activation: "relu", "gelu", a function of one tensor, or a net.
        layer_norm_eps: added to the variance, in each norm.
        batch_first: whether the batch is the first axis, not the second.
        norm_first: norm the input of each step, not its sum with the result.
        bias: when false, no part has a bias.
        device, dtype: what :meth:`init` uses unless told otherwise.
        impl: "fused" or "composed", see :class:`MultiheadAttention`.

    Inputs: src, and masks as :class:`MultiheadAttention` takes them: ``src_mask`` is its ``attn_mask``.
    Params: of self_attn, linear1, linear2, norm1 and norm2.  Buffers: none.  Draws: in training.
    Shape:  src (S, N, E), or (S, E) -> the same.
    Source: torch.nn.TransformerEncoderLayer.

    >>> layer = TransformerEncoderLayer(8, 2, dim_feedforward=16)
    >>> layer(layer.init(0)[0], torch.ones(5, 3, 8)).shape
    torch.Size([5, 3, 8])
    """

    def expects(self) -> str:
        return _sequence("src", "S", self)

    @staticmethod
    def forward(
        p: View,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        masks = (src_mask, src_key_padding_mask, is_causal)
        if p.norm_first:
            x = p.norm1(src)
            x = src + p.dropout1(_attended(p.self_attn, x, x, masks))
            return x + p.dropout2(_fed_forward(p, p.norm2(x)))
        x = p.norm1(src + p.dropout1(_attended(p.self_attn, src, src, masks)))
        return p.norm2(x + p.dropout2(_fed_forward(p, x)))


class TransformerDecoderLayer(_TransformerLayer):
    """Self-attention, attention to a memory and a small network, each added to its input and normed.

    Args:
        d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first, bias, device,
            dtype, impl: as for :class:`TransformerEncoderLayer`.

    Inputs: tgt, memory, and masks of attention to each as :class:`MultiheadAttention` takes them.
    Params: of self_attn, multihead_attn, linear1, linear2, norm1, norm2 and norm3.  Draws: in training.
    Shape:  tgt (T, N, E) and memory (S, N, E), or both without N -> as tgt.
    Source: torch.nn.TransformerDecoderLayer.

    >>> layer = TransformerDecoderLayer(8, 2, dim_feedforward=16)
    >>> layer(layer.init(0)[0], torch.ones(4, 3, 8), torch.ones(5, 3, 8)).shape
    torch.Size([4, 3, 8])
    """

    attentions = ("self_attn", "multihead_attn")

    def expects(self) -> str:
        return f"{_sequence('tgt', 'T', self)} and memory of as many axes"

    @staticmethod
    def forward(
        p: View,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Tensor:
        own = (tgt_mask, tgt_key_padding_mask, tgt_is_causal)
        others = (memory_mask, memory_key_padding_mask, memory_is_causal)
        if p.norm_first:
            x = p.norm1(tgt)
            x = tgt + p.dropout1(_attended(p.self_attn, x, x, own))
            x = x + p.dropout2(_attended(p.multihead_attn, p.norm2(x), memory, others))
            return x + p.dropout3(_fed_forward(p, p.norm3(x)))
        x = p.norm1(tgt + p.dropout1(_attended(p.self_attn, tgt, tgt, own)))
        x = p.norm2(x + p.dropout2(_attended(p.multihead_attn, x, memory, others)))
        return p.norm3(x + p.dropout3(_fed_forward(p, x)))


def _attended(attention: Any, x: Tensor, memory: Tensor, masks: Any) -> Tensor:
    mask, padding, is_causal = masks
    return attention(
        *(x, memory, memory), attn_mask=mask, key_padding_mask=padding, need_weights=False, is_causal=is_causal
    )[0]


def _fed_forward(p: View, x: Tensor) -> Tensor:
    return p.linear2(p.dropout(p.activation(p.linear1(x))))


def _sequence(name: str, axis: str, layer: Any) -> str:
    front = f"(N, {axis}" if layer.batch_first else f"({axis}, N"
    return f"{name} {front}, {layer.d_model}) or ({axis}, {layer.d_model})"
