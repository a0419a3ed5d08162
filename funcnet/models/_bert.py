"""BERT (Devlin et al., 2018), with the bits of transformers' BertModel and what is built on it.

Axes: N batch, L sequence, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from funcnet.core import Net, View
from funcnet.core.internals import StockNet
from funcnet.layers import Dropout, Embedding, LayerNorm, Linear
from funcnet.models._kv_cache import run_layers
from funcnet.models._self_attention import SelfAttention, hide_padding
from funcnet.models._transformer_model import ACTIVATIONS, TransformerModel, make_layers, set_ties


class Bert(TransformerModel):
    """An encoder of whole texts, with a head for masked words or for classes, or none.

    Its float32 bits are those of transformers with ``attn_implementation="sdpa"`` and ``use_cache=False``, in eval mode
    and, for an int seed, in training. This holds with an attention mask too if the mask hides something; transformers
    drops a mask that hides nothing, for a kernel that rounds differently.

    Args:
        vocab_size, max_position_embeddings, type_vocab_size, hidden_size, num_hidden_layers, num_attention_heads,
            intermediate_size: sizes; the defaults are those of BERT base.
        activation: one of "gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "tanh".
        layer_norm_eps: added to variances.
        hidden_dropout, attention_dropout: probabilities that an element is zeroed in training.
        padding_idx: the token whose row of the embedding gets no gradient.
        head: "masked_lm" gives logits of words (N, L, V), "classes" logits of classes (N, num_labels), and None
            the hidden states (N, L, D), or with a pooler the pair of these and (N, D).
        pooler: whether the first token goes through one more layer; "classes" needs it.
        num_labels: the number of classes.
        classifier_dropout: probability before the head for classes; default ``hidden_dropout``.
        tie_word_embeddings: whether ``head.decoder.weight`` is ``embed.token.weight``.
        fused_qkv: whether queries, keys and values have one tensor ``attn.qkv``, or ``attn.q``, ``attn.k``, ``attn.v``.
        stacked: whether the tensors of all layers are stacked along a new first axis, as ``layers.norm1.weight``
            (num_hidden_layers, D), or each layer has its own tensors, as ``layers.0.norm1.weight`` (D,).

    Inputs: input_ids (N, L) of ints; ``attention_mask`` (N, L), 0 where there is padding; ``token_type_ids`` (N, L).
    Params: embed (token, kind, position, norm), layers (attn, norm1, mlp, norm2), pooler, head; weights are (out, in).
    Draws: in training.
    Source: transformers/models/bert/modeling_bert.py.

    >>> net = Bert(50, 16, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12)
    >>> params, _ = net.init(0)
    >>> net(params, torch.tensor([[3, 1, 4]])).shape
    torch.Size([1, 3, 50])
    """

    vocab_size: int = 30522
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    activation: str = "gelu"
    layer_norm_eps: float = 1e-12
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    padding_idx: int | None = 0
    head: str | None = "masked_lm"
    pooler: bool = False
    num_labels: int = 2
    classifier_dropout: float | None = None
    tie_word_embeddings: bool = True
    fused_qkv: bool = True
    stacked: bool = False

    def __post_init__(self) -> None:
        if self.head not in ("masked_lm", "classes", None) or (self.head == "classes") > self.pooler:
            raise ValueError(f"Bert: head is 'masked_lm', 'classes' (with pooler=True) or None, got {self.head!r}.")
        if self.head == "masked_lm" and self.tie_word_embeddings:
            set_ties(self, {"head.decoder.weight": "embed.token.weight"})

    def parts(self) -> Mapping[str, Any]:
        size, heads, eps = self.hidden_size, self.num_attention_heads, self.layer_norm_eps
        width = size // heads
        attention = SelfAttention(
            *(size, heads, heads, width, True, self.fused_qkv, self.attention_dropout, width**-0.5)
        )
        perceptron = _BertMLP(size, self.intermediate_size, self.activation)
        layer = _BertLayer(attention, perceptron, eps, self.hidden_dropout)
        classifier_dropout = self.hidden_dropout if self.classifier_dropout is None else self.classifier_dropout
        head_makers: dict[str | None, Callable[[], Net | None]] = {
            "masked_lm": lambda: _MaskedWordHead(size, self.vocab_size, self.activation, eps),
            "classes": lambda: Linear(size, self.num_labels),
            None: lambda: None,
        }
        return {
            "embed": _BertEmbeddings(
                *(self.vocab_size, self.max_position_embeddings, self.type_vocab_size, size),
                *(self.padding_idx, eps, self.hidden_dropout),
            ),
            "layers": make_layers(lambda _: layer, self.num_hidden_layers, self.stacked),
            "pooler": Linear(size, size) if self.pooler else None,
            "drop": Dropout(classifier_dropout) if self.head == "classes" else None,
            "head": head_makers[self.head](),
            "kind": self.head,
        }

    @staticmethod
    def forward(
        p: View, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Any:
        length = input_ids.shape[-1]
        everywhere = torch.ones(length, length, dtype=torch.bool, device=input_ids.device)
        mask = None if attention_mask is None else hide_padding(everywhere, attention_mask)
        x = p.embed(input_ids, token_type_ids)
        x, _ = run_layers(p.layers, x, None, mask)
        pooled = None if p.pooler is None else torch.tanh(p.pooler(x[:, 0]))
        if p.kind == "classes":
            return p.head(p.drop(pooled))
        if p.kind == "masked_lm":
            return p.head(x)
        return x if pooled is None else (x, pooled)


class _BertEmbeddings(StockNet, fields_in_view=False):
    """The sum of three embeddings, of tokens, kinds and positions, then a norm and dropout."""

    vocab_size: int
    positions: int
    kinds: int
    hidden_size: int
    padding_idx: int | None
    eps: float
    dropout: float

    def parts(self) -> Mapping[str, Any]:
        return {
            "token": Embedding(self.vocab_size, self.hidden_size, self.padding_idx),
            "kind": Embedding(self.kinds, self.hidden_size),
            "position": Embedding(self.positions, self.hidden_size),
            "norm": LayerNorm(self.hidden_size, self.eps),
            "drop": Dropout(self.dropout),
        }

    @staticmethod
    def forward(p: View, input_ids: Tensor, token_type_ids: Tensor | None) -> Tensor:
        kinds = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        positions = torch.arange(input_ids.shape[-1], device=input_ids.device).unsqueeze(0)
        return p.drop(p.norm(p.token(input_ids) + p.kind(kinds) + p.position(positions)))


class _BertMLP(StockNet, fields_in_view=False):
    """Two affine maps with an activation between them."""

    hidden_size: int
    intermediate_size: int
    activation: str

    def parts(self) -> Mapping[str, Any]:
        return {
            "up": Linear(self.hidden_size, self.intermediate_size),
            "act": ACTIVATIONS[self.activation],
            "down": Linear(self.intermediate_size, self.hidden_size),
        }

    @staticmethod
    def forward(p: View, x: Tensor) -> Tensor:
        return p.down(p.act(p.up(x)))


class _BertLayer(StockNet, fields_in_view=False):
    """Attention and an MLP; each is added to its input, and a norm follows the sum."""

    attention: SelfAttention
    perceptron: _BertMLP
    eps: float
    dropout: float

    def parts(self) -> Mapping[str, Any]:
        size = self.attention.hidden_size
        return {
            "attn": self.attention,
            "norm1": LayerNorm(size, self.eps),
            "mlp": self.perceptron,
            "norm2": LayerNorm(size, self.eps),
            "drop": Dropout(self.dropout),
        }

    @staticmethod
    def forward(p: View, x: Tensor, mask: Tensor | None) -> Tensor:
        x = p.norm1(p.drop(p.attn(x, mask, False)) + x)
        return p.norm2(p.drop(p.mlp(x)) + x)


class _MaskedWordHead(StockNet, fields_in_view=False):
    """Logits of words from hidden states."""

    hidden_size: int
    vocab_size: int
    activation: str
    eps: float

    def parts(self) -> Mapping[str, Any]:
        return {
            "transform": Linear(self.hidden_size, self.hidden_size),
            "act": ACTIVATIONS[self.activation],
            "norm": LayerNorm(self.hidden_size, self.eps),
            "decoder": Linear(self.hidden_size, self.vocab_size),
        }

    @staticmethod
    def forward(p: View, x: Tensor) -> Tensor:
        return p.decoder(p.norm(p.act(p.transform(x))))
