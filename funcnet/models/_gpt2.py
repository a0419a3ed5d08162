"""GPT-2 (Radford et al., 2019), with the bits of transformers' GPT2Model and GPT2LMHeadModel.

Axes: N batch, L sequence, D hidden, V vocabulary.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from funcnet._typing import Tree, TreeLike
from funcnet.core import Net, View
from funcnet.core.internals import StockNet
from funcnet.layers import Dropout, Embedding, LayerNorm, Linear
from funcnet.models._decoder_model import CacheShape, DecoderModel
from funcnet.models._kv_cache import place_tokens, run_layers
from funcnet.models._self_attention import Conv1D, Past, SelfAttention
from funcnet.models._transformer_model import ACTIVATIONS, make_layers, set_ties
from funcnet.tree import map_with_path

_CONV1D_WEIGHTS = re.compile(r"layers\.(\d+\.)?(attn\.(qkv|q|k|v|out)|mlp\.(up|down))\.weight")


class GPT2(DecoderModel):
    """Logits of the next token from the tokens so far; without a head, the hidden states.

    Its float32 bits are those of transformers with ``attn_implementation="sdpa"`` and ``use_cache=False``, in eval mode
    and, for an int seed, in training. This holds with an attention mask too if the mask hides something; transformers
    drops a mask that hides nothing, for a kernel that rounds differently.

    Args:
        vocab_size, max_position_embeddings, hidden_size, num_hidden_layers, num_attention_heads: sizes; the
            defaults are those of GPT-2 small.
        intermediate_size: size of the middle of the MLP; default four times ``hidden_size``.
        activation: one of "gelu_new", "gelu", "gelu_pytorch_tanh", "relu", "silu", "tanh".
        layer_norm_eps: added to variances.
        embedding_dropout, attention_dropout, residual_dropout: probabilities that an element is zeroed in training.
        scale_attention: divide scores by the square root of the size of a head.
        scale_by_layer: divide them by the number of the layer too, counted from 1; only with separate layers.
        head: whether there is a linear head.
        tie_word_embeddings: whether ``head.weight`` is ``embed.token.weight``.
        fused_qkv: whether queries, keys and values have one tensor ``attn.qkv``, or ``attn.q``, ``attn.k``, ``attn.v``.
        stacked: whether the tensors of all layers are stacked along a new first axis, as ``layers.norm1.weight``
            (num_hidden_layers, D), or each layer has its own tensors, as ``layers.0.norm1.weight`` (D,).

    Inputs: input_ids (N, L) of ints; ``attention_mask`` (N, L), 0 where there is padding; ``position_ids`` (N, L),
        default 0 to L - 1, and with a cache how many tokens of the text came before, padding not counted; ``cache``,
        what came before, first from :func:`static_cache` or :func:`growing_cache`; ``logits_to_keep``, how many of the
        last tokens get logits, default all.
    Params: embed.token, embed.position, layers (norm1, attn, norm2, mlp), norm, head; weights are (out, in).
    Shape:  logits (N, L, V), or hidden states (N, L, D); with a cache, the pair of these and of the next cache.
    Draws: in training.
    Source: transformers/models/gpt2/modeling_gpt2.py.

    >>> import torch
    >>> net = GPT2(50, 16, hidden_size=8, num_hidden_layers=2, num_attention_heads=2)
    >>> params, _ = net.init(0)
    >>> net(params, torch.tensor([[3, 1, 4]])).shape
    torch.Size([1, 3, 50])
    """

    vocab_size: int = 50257
    max_position_embeddings: int = 1024
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int | None = None
    activation: str = "gelu_new"
    layer_norm_eps: float = 1e-5
    embedding_dropout: float = 0.1
    attention_dropout: float = 0.1
    residual_dropout: float = 0.1
    scale_attention: bool = True
    scale_by_layer: bool = False
    head: bool = True
    tie_word_embeddings: bool = True
    fused_qkv: bool = True
    stacked: bool = False

    def __post_init__(self) -> None:
        if self.scale_by_layer and self.stacked:
            raise ValueError("GPT2: layers that are stacked are alike, and scale_by_layer makes them differ.")
        if self.head and self.tie_word_embeddings:
            set_ties(self, {"head.weight": "embed.token.weight"})

    @property
    def cache_shape(self) -> CacheShape:
        return CacheShape(
            self.num_hidden_layers, self.num_attention_heads, self.hidden_size // self.num_attention_heads
        )

    @property
    def max_length(self) -> int:
        return self.max_position_embeddings

    def lay_out(self, params: TreeLike) -> Tree:
        def lay_out_weight(path: str, weight: Tensor) -> Tensor:
            return weight.mT.contiguous().mT if _CONV1D_WEIGHTS.fullmatch(path) else weight

        return map_with_path(lay_out_weight, params)

    def standard_deviation(self, path: str) -> float:
        adds_to_residual = path.endswith(("attn.out.weight", "mlp.down.weight"))
        return 0.02 / math.sqrt(2 * self.num_hidden_layers) if adds_to_residual else 0.02

    def parts(self) -> Mapping[str, Any]:
        size = self.hidden_size
        return {
            "embed": _GPT2Embeddings(self.vocab_size, self.max_position_embeddings, size, self.embedding_dropout),
            "layers": make_layers(self._make_layer, self.num_hidden_layers, self.stacked),
            "norm": LayerNorm(size, self.layer_norm_eps),
            "head": Linear(size, self.vocab_size, bias=False) if self.head else None,
        }

    def _make_layer(self, number: int) -> Net:
        size, heads = self.hidden_size, self.num_attention_heads
        scale = (size // heads) ** -0.5 if self.scale_attention else 1.0
        if self.scale_by_layer:
            scale /= float(number + 1)
        return _GPT2Layer(
            SelfAttention(
                *(size, heads, heads, size // heads, True, self.fused_qkv, self.attention_dropout, scale), conv1d=True
            ),
            _GPT2MLP(size, self.intermediate_size or 4 * size, self.activation),
            self.layer_norm_eps,
            self.residual_dropout,
        )

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
        x, entries = run_layers(p.layers, p.embed(input_ids, places.positions), places.pasts, places.mask)
        x = p.norm(x)
        x = x if logits_to_keep is None else x[:, -logits_to_keep:]
        y = x if p.head is None else p.head(x)
        return y if cache is None else (y, places.next_cache(entries))


class _GPT2Embeddings(StockNet, fields_in_view=False):
    """The sum of the embeddings of tokens and positions, then dropout."""

    vocab_size: int
    positions: int
    hidden_size: int
    dropout: float

    def parts(self) -> Mapping[str, Any]:
        return {
            "token": Embedding(self.vocab_size, self.hidden_size),
            "position": Embedding(self.positions, self.hidden_size),
            "drop": Dropout(self.dropout),
        }

    @staticmethod
    def forward(p: View, input_ids: Tensor, positions: Tensor) -> Tensor:
        return p.drop(p.token(input_ids) + p.position(positions))


class _GPT2MLP(StockNet, fields_in_view=False):
    """Two affine maps with an activation between them."""

    hidden_size: int
    intermediate_size: int
    activation: str

    def parts(self) -> Mapping[str, Any]:
        return {
            "up": Conv1D(self.hidden_size, self.intermediate_size),
            "act": ACTIVATIONS[self.activation],
            "down": Conv1D(self.intermediate_size, self.hidden_size),
        }

    @staticmethod
    def forward(p: View, x: Tensor) -> Tensor:
        return p.down(p.act(p.up(x)))


class _GPT2Layer(StockNet, fields_in_view=False):
    """Attention and an MLP, each after a norm; each is added to its input."""

    attention: SelfAttention
    perceptron: _GPT2MLP
    eps: float
    dropout: float

    def parts(self) -> Mapping[str, Any]:
        size = self.attention.hidden_size
        return {
            "norm1": LayerNorm(size, self.eps),
            "attn": self.attention,
            "norm2": LayerNorm(size, self.eps),
            "mlp": self.perceptron,
            "drop": Dropout(self.dropout),
        }

    @staticmethod
    def forward(p: View, x: Tensor, mask: Tensor | None, past: Past | None = None) -> Any:
        attended = p.attn(p.norm1(x), mask, True, None, past)
        attended, entry = (attended, None) if past is None else attended
        x = p.drop(attended) + x
        x = x + p.drop(p.mlp(p.norm2(x)))
        return x if past is None else (x, entry)
