"""Llama (Touvron et al., 2023), with the bits of transformers' LlamaModel and LlamaForCausalLM.

Axes: N batch, L sequence, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from funcnet.core import Param
from funcnet.core.internals import StockNet
from funcnet.layers import Embedding, Linear
from funcnet.models._parts import ACTIVATIONS, Attention, Model, attention_mask, layers_of, tied
from funcnet.models._rotary import KINDS, angles, frequencies, rotated


class Llama(Model):
    """Logits of the next token from the tokens so far; without a head, the hidden states.

    Its float32 bits are those of transformers with ``attn_implementation="sdpa"`` and ``use_cache=False``, in eval mode
    and, for an int seed, in training. With an attention mask they are too where the mask hides something; transformers
    drops one that does not, for a kernel that rounds otherwise.

    Args:
        vocab_size, hidden_size, intermediate_size, num_hidden_layers, num_attention_heads: sizes; Llama 7B.
        num_key_value_heads: heads of keys and values; default as many as of queries, fewer are shared by groups.
        head_dim: size of a head; default ``hidden_size // num_attention_heads``.
        activation: of the gate: "silu", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "tanh".
        rms_norm_eps: added to mean squares.
        rope_theta: base of the rotary wavelengths.
        rope_scaling: pairs such as ``(("rope_type", "linear"), ("factor", 2.0))``; "default", "linear" or "llama3".
        attention_bias, mlp_bias: whether the maps of these have biases.
        attention_dropout: probability that a weight of the attention is zeroed in training.
        padding_idx: the token whose row of the embedding gets no gradient.
        head: whether there is a linear head.
        tie_word_embeddings: whether ``head.weight`` is ``embed.token.weight``.
        fused_qkv: whether queries, keys and values have one tensor ``attn.qkv``, or ``attn.q``, ``attn.k``, ``attn.v``.
        stacked: whether each tensor of the layers is one with the number of the layer in front, ``layers.norm1.weight``
            (num_hidden_layers, D), or one for each, ``layers.0.norm1.weight`` (D,).

    Inputs: input_ids (N, L) of ints; ``attention_mask`` (N, L), 0 where there is padding.
    Params: embed.token, layers (norm1, attn, norm2, mlp with gate, up, down), norm, head; weights are (out, in).
    Shape:  logits (N, L, V), or hidden states (N, L, D).  Draws: in training, with dropout.
    Source: transformers/models/llama/modeling_llama.py.

    >>> net = Llama(50, 8, 12, 2, num_attention_heads=4, num_key_value_heads=2, stacked=True)
    >>> params, _ = net.init(0)
    >>> params["layers"]["attn"]["qkv"]["weight"].shape
    torch.Size([2, 16, 8])
    >>> net(params, torch.tensor([[3, 1, 4]])).shape
    torch.Size([1, 3, 50])
    """

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    activation: str = "silu"
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: tuple[tuple[str, Any], ...] = (("rope_type", "default"),)
    attention_bias: bool = False
    mlp_bias: bool = False
    attention_dropout: float = 0.0
    padding_idx: int | None = None
    head: bool = True
    tie_word_embeddings: bool = False
    fused_qkv: bool = True
    stacked: bool = False

    def __post_init__(self) -> None:
        scaling = dict(self.rope_scaling)
        kind = scaling.get("rope_type")
        if kind not in KINDS or (missing := [name for name in KINDS[kind] if name not in scaling]):
            lacks = f", without {', '.join(missing)}" if kind in KINDS else f"; it is one of {', '.join(KINDS)}"
            raise ValueError(f"Llama: rope_scaling has rope_type {kind!r}{lacks}.")
        if self.head and self.tie_word_embeddings:
            tied(self, {"head.weight": "embed.token.weight"})

    def parts(self) -> Mapping[str, Any]:
        size, heads = self.hidden_size, self.num_attention_heads
        width = self.head_dim or size // heads
        attention = Attention(
            size,
            heads,
            self.num_key_value_heads or heads,
            width,
            self.attention_bias,
            self.fused_qkv,
            self.attention_dropout,
            width**-0.5,
        )
        layer = _Layer(attention, _MLP(size, self.intermediate_size, self.mlp_bias, self.activation), self.rms_norm_eps)
        return {
            "embed": _Embed(self.vocab_size, size, self.padding_idx),
            "layers": layers_of(lambda _: layer, self.num_hidden_layers, self.stacked),
            "norm": RMSNorm(size, self.rms_norm_eps),
            "head": Linear(size, self.vocab_size, bias=False) if self.head else None,
            "width": width,
            "theta": self.rope_theta,
            "scaling": self.rope_scaling,
        }

    @staticmethod
    def forward(p: Any, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        mask = _mask(attention_mask)
        x = p.embed(input_ids)
        cos, sin = angles(x.shape[-2], frequencies(p.width, p.theta, dict(p.scaling), x.device), x.dtype)
        for layer in p.layers:
            x = layer(x, mask, cos, sin)
        x = p.norm(x)
        return x if p.head is None else p.head(x)


def _mask(given: Tensor | None) -> Tensor | None:
    return attention_mask(given, causal=True)


class RMSNorm(StockNet):
    """Division by the root of the mean square over the last axis, taken in float32, then a scale.

    It multiplies in Llama's order, which rounds otherwise than torch.nn.functional.rms_norm.

    Params: weight (D,).  Shape: any (*, D).
    """

    features: int
    eps: float

    def parts(self) -> Mapping[str, Any]:
        return {"weight": Param(self.features, 1.0)}

    @staticmethod
    def forward(p: Any, x: Tensor) -> Tensor:
        wide = x.to(torch.float32)
        return p.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + p.eps)).to(x.dtype)


class _Embed(StockNet, fields_in_view=False):
    vocab_size: int
    hidden_size: int
    padding_idx: int | None

    def parts(self) -> Mapping[str, Any]:
        return {"token": Embedding(self.vocab_size, self.hidden_size, self.padding_idx)}

    @staticmethod
    def forward(p: Any, input_ids: Tensor) -> Tensor:
        return p.token(input_ids)


class _MLP(StockNet, fields_in_view=False):
    hidden_size: int
    intermediate_size: int
    bias: bool
    activation: str

    def parts(self) -> Mapping[str, Any]:
        return {
            "gate": Linear(self.hidden_size, self.intermediate_size, self.bias),
            "up": Linear(self.hidden_size, self.intermediate_size, self.bias),
            "act": ACTIVATIONS[self.activation],
            "down": Linear(self.intermediate_size, self.hidden_size, self.bias),
        }

    @staticmethod
    def forward(p: Any, x: Tensor) -> Tensor:
        return p.down(p.act(p.gate(x)) * p.up(x))


class _Layer(StockNet, fields_in_view=False):
    attention: Attention
    perceptron: _MLP
    eps: float

    def parts(self) -> Mapping[str, Any]:
        size = self.attention.hidden_size
        return {
            "norm1": RMSNorm(size, self.eps),
            "attn": self.attention,
            "norm2": RMSNorm(size, self.eps),
            "mlp": self.perceptron,
        }

    @staticmethod
    def forward(p: Any, x: Tensor, mask: Tensor | None, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + p.attn(p.norm1(x), mask, True, partial(rotated, cos=cos, sin=sin))
        return x + p.mlp(p.norm2(x))
