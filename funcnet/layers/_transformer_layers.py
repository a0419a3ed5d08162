"""The layers of a transformer, counterparts of those in torch/nn/modules/transformer.py.

Axes: S sources, T targets, N batch, E features, F hidden features, H heads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.types import Device

from funcnet.core import Net, View
from funcnet.core.internals import check_part
from funcnet.layers._attention import MultiheadAttention
from funcnet.layers._dropout import Dropout
from funcnet.layers._layer import Layer
from funcnet.layers._linear import Linear
from funcnet.layers._norm import LayerNorm


class _TransformerLayer(Layer):
    """The base of both layers: their fields, and their parts for the attentions that a subclass names."""

    d_model: int
    nhead: int
    dim_feedforward: int = 2048
    dropout: float = 0.1
    activation: str | Callable[[Tensor], Tensor] | Net = F.relu
    layer_norm_eps: float = 1e-5
    batch_first: bool = False
    norm_first: bool = False
    bias: bool = True
    device: Device = None
    dtype: torch.dtype | None = None
    impl: str = field(default="fused", kw_only=True)

    calls_parts = True
    attentions: ClassVar[tuple[str, ...]] = ("self_attn",)

    def __post_init__(self) -> None:
        check_part("activation", self.activation)
        if self.dim_feedforward < 0:
            raise ValueError(f"{self.title()}: dim_feedforward is a size, got {self.dim_feedforward}.")
        super().__post_init__()
        _ = self._parts  # building the parts refuses bad arguments

    def as_module(self) -> nn.Module:
        module = super().as_module()
        if self.impl != "fused":
            for name in self.attentions:
                getattr(module, name)._funcnet_impl = self.impl
        return module

    @classmethod
    def fields_from_module(cls, module: nn.Module) -> dict[str, Any]:
        layer: Any = module  # an encoder layer or a decoder layer
        fields = {
            "d_model": layer.self_attn.embed_dim,
            "nhead": layer.self_attn.num_heads,
            "dim_feedforward": layer.linear1.out_features,
            "dropout": layer.dropout.p,
            "layer_norm_eps": layer.norm1.eps,
            "batch_first": layer.self_attn.batch_first,
            "norm_first": layer.norm_first,
            "bias": layer.linear1.bias is not None,
            "impl": getattr(module, "_funcnet_impl", "fused"),
        }
        if not isinstance(layer.activation, nn.Module):  # a module is a part, see fields_from_children()
            fields["activation"] = layer.activation
        return fields

    @classmethod
    def fields_from_children(cls, children: Mapping[str, Net]) -> Mapping[str, Any]:
        return {"activation": children["activation"]} if "activation" in children else {}

    def list_unread_attributes(self) -> frozenset[str]:
        return frozenset({"activation_relu_or_gelu"})  # chooses the fused kernel for inference, which a net never uses

    def calls_unknown_code(self) -> bool:
        return self.activation not in (F.relu, F.gelu) and not isinstance(self.activation, Net)

    def _describe_sequence(self, name: str, axis: str) -> str:
        front = f"(N, {axis}" if self.batch_first else f"({axis}, N"
        return f"{name} {front}, {self.d_model}) or ({axis}, {self.d_model})"

    def parts(self) -> dict[str, Any]:
        size, hidden, factory = self.d_model, self.dim_feedforward, (self.device, self.dtype)
        count = len(self.attentions) + 1
        attention = MultiheadAttention(
            *(size, self.nhead, self.dropout, self.bias),
            batch_first=self.batch_first,
            device=self.device,
            dtype=self.dtype,
            impl=self.impl,
        )
        parts: dict[str, Any] = dict.fromkeys(self.attentions, attention)
        parts["linear1"] = Linear(size, hidden, self.bias, *factory)
        parts["dropout"] = Dropout(self.dropout)
        parts["linear2"] = Linear(hidden, size, self.bias, *factory)
        norm = LayerNorm(size, self.layer_norm_eps, True, self.bias, *factory)
        parts |= {f"norm{number}": norm for number in range(1, count + 1)}
        parts |= {f"dropout{number}": Dropout(self.dropout) for number in range(1, count + 1)}
        if isinstance(self.activation, Net):
            parts["activation"] = self.activation
        return parts


class TransformerEncoderLayer(_TransformerLayer):
    """Self-attention, then a small feed-forward network; each result is added to its input and normalised.

    The module has a fused kernel for inference (in eval mode, without gradients, with ``batch_first``, relu or gelu,
    and an even number of heads), which rounds differently. A net never uses that kernel.

    Args:
        d_model: size E of the last axis.
        nhead: number of heads H, which divides E.
        dim_feedforward: size F of the hidden layer of the feed-forward network.
        dropout: probability that an element is zeroed in training; of the attention weights and at three more places.
        activation: "relu", "gelu", a function of one tensor, or a net.
        layer_norm_eps: added to the variance, in each norm.
        batch_first: whether the batch is the first axis, not the second.
        norm_first: normalise the input of each step, instead of the sum of input and result.
        bias: when false, no part has a bias.
        device, dtype: the defaults of :meth:`init`.
        impl: "fused" or "composed", see :class:`MultiheadAttention`.

    Inputs: src, and masks as for :class:`MultiheadAttention`; ``src_mask`` is its ``attn_mask``.
    Params: of self_attn, linear1, linear2, norm1 and norm2.  Buffers: none.  Draws: in training.
    Shape:  src (S, N, E), or (S, E) -> y of the same shape.
    Source: torch.nn.TransformerEncoderLayer.

    >>> layer = TransformerEncoderLayer(8, 2, dim_feedforward=16)
    >>> layer(layer.init(0)[0], torch.ones(5, 3, 8)).shape
    torch.Size([5, 3, 8])
    """

    def expects(self) -> str:
        return self._describe_sequence("src", "S")

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
            x = src + p.dropout1(_run_attention(p.self_attn, x, x, masks))
            return x + p.dropout2(_run_feed_forward(p, p.norm2(x)))
        x = p.norm1(src + p.dropout1(_run_attention(p.self_attn, src, src, masks)))
        return p.norm2(x + p.dropout2(_run_feed_forward(p, x)))


class TransformerDecoderLayer(_TransformerLayer):
    """Self-attention, attention to a memory, and a small feed-forward network; each result is added and normalised.

    Args:
        d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first, bias, device,
            dtype, impl: as for :class:`TransformerEncoderLayer`.

    Inputs: tgt, memory, and masks for attention to each, as for :class:`MultiheadAttention`.
    Params: of self_attn, multihead_attn, linear1, linear2, norm1, norm2 and norm3.  Draws: in training.
    Shape:  tgt (T, N, E) and memory (S, N, E), or both without N -> y of the shape of tgt.
    Source: torch.nn.TransformerDecoderLayer.

    >>> layer = TransformerDecoderLayer(8, 2, dim_feedforward=16)
    >>> layer(layer.init(0)[0], torch.ones(4, 3, 8), torch.ones(5, 3, 8)).shape
    torch.Size([4, 3, 8])
    """

    attentions = ("self_attn", "multihead_attn")

    def expects(self) -> str:
        return f"{self._describe_sequence('tgt', 'T')} and memory of as many axes"

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
        self_masks = (tgt_mask, tgt_key_padding_mask, tgt_is_causal)
        memory_masks = (memory_mask, memory_key_padding_mask, memory_is_causal)
        if p.norm_first:
            x = p.norm1(tgt)
            x = tgt + p.dropout1(_run_attention(p.self_attn, x, x, self_masks))
            x = x + p.dropout2(_run_attention(p.multihead_attn, p.norm2(x), memory, memory_masks))
            return x + p.dropout3(_run_feed_forward(p, p.norm3(x)))
        x = p.norm1(tgt + p.dropout1(_run_attention(p.self_attn, tgt, tgt, self_masks)))
        x = p.norm2(x + p.dropout2(_run_attention(p.multihead_attn, x, memory, memory_masks)))
        return p.norm3(x + p.dropout3(_run_feed_forward(p, x)))


def _run_attention(
    attention: Callable[..., tuple[Tensor, None]],
    x: Tensor,
    memory: Tensor,
    masks: tuple[Tensor | None, Tensor | None, bool],
) -> Tensor:
    mask, padding, is_causal = masks
    return attention(
        *(x, memory, memory), attn_mask=mask, key_padding_mask=padding, need_weights=False, is_causal=is_causal
    )[0]


def _run_feed_forward(p: View, x: Tensor) -> Tensor:
    return p.linear2(p.dropout(p.activation(p.linear1(x))))
