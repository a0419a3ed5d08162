"""Llama (Touvron et al., 2023), with the bits of transformers' LlamaModel and LlamaForCausalLM.

Axes: N batch, L sequence, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from funcnet._typing import TreeLike
from funcnet.core import Param, View
from funcnet.core.internals import StockNet
from funcnet.layers import Embedding, Linear
from funcnet.models._decoder_model import CacheShape, DecoderModel
from funcnet.models._kv_cache import place_tokens, run_layers
from funcnet.models._rotary import ROPE_TYPES, apply_rotary, rotary_angles, rotary_frequencies
from funcnet.models._self_attention import Past, SelfAttention
from funcnet.models._transformer_model import ACTIVATIONS, make_layers, set_ties


class Llama(DecoderModel):
    """Logits of the next token from the tokens so far; without a head, the hidden states.

    Its float32 bits are those of transformers with ``attn_implementation="sdpa"`` and ``use_cache=False``, in eval mode
    and, for an int seed, in training. This holds with an attention mask too if the mask hides something; transformers
    drops a mask that hides nothing, for a kernel that rounds differently.

    Args:
        vocab_size, hidden_size, intermediate_size, num_hidden_layers, num_attention_heads: sizes; the
            defaults are those of Llama 7B.
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
        stacked: whether the tensors of all layers are stacked along a new first axis, as ``layers.norm1.weight``
            (num_hidden_layers, D), or each layer has its own tensors, as ``layers.0.norm1.weight`` (D,).

    Inputs: input_ids (N, L) of ints; ``attention_mask`` (N, L), 0 where there is padding; ``position_ids`` (N, L),
        default 0 to L - 1, and with a cache how many tokens of the text came before, padding not counted; ``cache``,
        what came before, first from :func:`static_cache` or :func:`growing_cache`; ``logits_to_keep``, how many of the
        last tokens get logits, default all.
    Params: embed.token, layers (norm1, attn, norm2, mlp with gate, up, down), norm, head; weights are (out, in).
    Shape:  logits (N, L, V), or hidden states (N, L, D); with a cache, the pair of these and of the next cache.
    Draws: in training, with dropout.
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
        rope_type = scaling.get("rope_type")
        if rope_type not in ROPE_TYPES:
            raise ValueError(f"Llama: rope_scaling has rope_type {rope_type!r}; it is one of {', '.join(ROPE_TYPES)}.")
        missing = [name for name in ROPE_TYPES[rope_type] if name not in scaling]
        if missing:
            raise ValueError(f"Llama: rope_scaling has rope_type {rope_type!r}, without {', '.join(missing)}.")
        if self.head and self.tie_word_embeddings:
            set_ties(self, {"head.weight": "embed.token.weight"})

    @property
    def cache_shape(self) -> CacheShape:
        heads = self.num_attention_heads
        return CacheShape(
            self.num_hidden_layers, self.num_key_value_heads or heads, self.head_dim or self.hidden_size // heads
        )

    def parts(self) -> Mapping[str, Any]:
        size, heads = self.hidden_size, self.num_attention_heads
        width = self.head_dim or size // heads
        attention = SelfAttention(
            size,
            heads,
            self.num_key_value_heads or heads,
            width,
            self.attention_bias,
            self.fused_qkv,
            self.attention_dropout,
            width**-0.5,
        )
        layer = _LlamaLayer(
            attention, _LlamaMLP(size, self.intermediate_size, self.mlp_bias, self.activation), self.rms_norm_eps
        )
        return {
            "embed": _LlamaEmbeddings(self.vocab_size, size, self.padding_idx),
            "layers": make_layers(lambda _: layer, self.num_hidden_layers, self.stacked),
            "norm": LlamaRMSNorm(size, self.rms_norm_eps),
            "head": Linear(size, self.vocab_size, bias=False) if self.head else None,
            "width": width,
            "theta": self.rope_theta,
            "scaling": self.rope_scaling,
        }

    @staticmethod
    def forward(
        p: View,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        position_ids: Tensor | None = None,
        cache: TreeLike | None = None,
        logits_to_keep: int | None = None,
    ) -> Any:
        places = place_tokens(input_ids, attention_mask, position_ids, cache, p.cache_shape)
        x = p.embed(input_ids)
        frequencies = rotary_frequencies(p.width, p.theta, dict(p.scaling), x.device)
        cos, sin = rotary_angles(places.positions, frequencies, x.dtype)
        x, entries = run_layers(p.layers, x, places.pasts, places.mask, cos, sin)
        x = p.norm(x)
        x = x if logits_to_keep is None else x[:, -logits_to_keep:]
        y = x if p.head is None else p.head(x)
        return y if cache is None else (y, places.next_cache(entries))


class LlamaRMSNorm(StockNet):
    """Division by the root of the mean square over the last axis, computed in float32, then a scale.

    It multiplies in Llama's order, which rounds differently from torch.nn.functional.rms_norm.

    Params: weight (D,).  Shape: any (*, D).
    """

    features: int
    eps: float

    def parts(self) -> Mapping[str, Any]:
        return {"weight": Param(self.features, 1.0)}

    @staticmethod
    def forward(p: View, x: Tensor) -> Tensor:
        x32 = x.to(torch.float32)
        return p.weight * (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + p.eps)).to(x.dtype)


class _LlamaEmbeddings(StockNet, fields_in_view=False):
    """The embeddings of tokens."""

    vocab_size: int
    hidden_size: int
    padding_idx: int | None

    def parts(self) -> Mapping[str, Any]:
        return {"token": Embedding(self.vocab_size, self.hidden_size, self.padding_idx)}

    @staticmethod
    def forward(p: View, input_ids: Tensor) -> Tensor:
        return p.token(input_ids)


class _LlamaMLP(StockNet, fields_in_view=False):
    """An affine map whose inner features are multiplied by an activated gate."""

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
    def forward(p: View, x: Tensor) -> Tensor:
        return p.down(p.act(p.gate(x)) * p.up(x))


class _LlamaLayer(StockNet, fields_in_view=False):
    """Attention and an MLP, each after a norm; each is added to its input."""

    attention: SelfAttention
    perceptron: _LlamaMLP
    eps: float

    def parts(self) -> Mapping[str, Any]:
        size = self.attention.hidden_size
        return {
            "norm1": LlamaRMSNorm(size, self.eps),
            "attn": self.attention,
            "norm2": LlamaRMSNorm(size, self.eps),
            "mlp": self.perceptron,
        }

    @staticmethod
    def forward(p: View, x: Tensor, mask: Tensor | None, cos: Tensor, sin: Tensor, past: Past | None = None) -> Any:
        attended = p.attn(p.norm1(x), mask, True, partial(apply_rotary, cos=cos, sin=sin), past)
        attended, entry = (attended, None) if past is None else attended
        x = x + attended
        x = x + p.mlp(p.norm2(x))
        return x if past is None else (x, entry)
