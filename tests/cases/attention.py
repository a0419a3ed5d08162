"""Rows of attention and of what is built on it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import funcnet as fn
from tests.cases.case import Case, given, layer, normal

HIDDEN = torch.tensor([[False, False, True, False], [True, False, False, False]])
LATER = torch.ones(3, 4).triu(2).bool()

# Where its weight requires grad, torch multiplies an input with swapped axes by another kernel. So rows with
# batch_first have one example and a bias; tests/layers compares the rest, with module and net in the same state.


def qkv(*front: int, k: int = 8, v: int = 8) -> tuple:
    """Query, key and value: ``front`` is the batch, before or after lengths 3 and 4."""
    return normal(3, *front, 8), normal(4, *front, k), normal(4, *front, v)


def built(name: str, make: Any, *inputs: Any, **call: Any) -> Case:
    """The same function called on torch.nn and on funcnet; each has dropout."""
    return Case(name, lambda: make(nn), lambda: make(fn), inputs, call, dropout=True)


def encoder(make: Any) -> Any:
    return make.TransformerEncoder(make.TransformerEncoderLayer(8, 2, 6, 0.4), 2, make.LayerNorm(8), False)


def decoder(make: Any) -> Any:
    return make.TransformerDecoder(make.TransformerDecoderLayer(8, 2, 6, 0.4, bias=False), 2)


def custom(make: Any) -> Any:
    return make.Transformer(8, 2, num_decoder_layers=1, dim_feedforward=6, dropout=0.4, custom_encoder=encoder(make))


SRC, TGT = normal(4, 2, 8), normal(3, 2, 8)
CAUSAL = nn.Transformer.generate_square_subsequent_mask(3)

ATTENTION = [
    Case(
        "NonDynamicallyQuantizableLinear(3,2)",
        lambda: nn.modules.linear.NonDynamicallyQuantizableLinear(3, 2),
        lambda: fn.layers.NonDynamicallyQuantizableLinear(3, 2),
        (normal(4, 3),),
    ),
    layer("MultiheadAttention", 8, 2, given=qkv(2)),
    layer("MultiheadAttention", 8, 2, bias=False, given=qkv(), call={"average_attn_weights": False}),
    layer("MultiheadAttention", 8, 2, given=qkv(2), call={"attn_mask": LATER}),
    layer("MultiheadAttention", 8, 2, kdim=3, vdim=5, given=(*qkv(2, k=3, v=5), given(HIDDEN))),
    layer(
        "MultiheadAttention",
        8,
        4,
        0.3,
        add_bias_kv=True,
        add_zero_attn=True,
        batch_first=True,
        given=(normal(1, 3, 8), normal(1, 4, 8), normal(1, 4, 8), given(HIDDEN[:1])),
        call={"attn_mask": LATER},
        dropout=True,
    ),
    layer("TransformerEncoderLayer", 8, 2, 6, 0.4, bias=False, given=SRC, dropout=True),
    layer(
        "TransformerEncoderLayer",
        8,
        4,
        6,
        0.4,
        "gelu",
        1e-3,
        batch_first=True,
        norm_first=True,
        given=(normal(1, 4, 8), given(None), given(HIDDEN[:1])),
        dropout=True,
    ),
    layer("TransformerDecoderLayer", 8, 2, 6, 0.4, given=(normal(3, 8), normal(4, 8)), dropout=True),
    layer(
        "TransformerDecoderLayer",
        8,
        2,
        6,
        0.4,
        norm_first=True,
        given=(TGT, SRC),
        call={"tgt_mask": CAUSAL, "tgt_is_causal": True, "memory_key_padding_mask": HIDDEN},
        dropout=True,
    ),
    built("TransformerEncoder(padded)", encoder, SRC, src_key_padding_mask=HIDDEN),
    built("TransformerEncoder(causal)", encoder, TGT, mask=CAUSAL),
    built("TransformerDecoder", decoder, TGT, SRC, tgt_mask=CAUSAL),
    built(
        "Transformer",
        lambda make: make.Transformer(8, 2, 1, 1, 6, 0.4, F.gelu, batch_first=True),
        *(normal(1, 4, 8), normal(1, 3, 8)),
        tgt_mask=CAUSAL < 0,
    ),
    built("Transformer(custom_encoder)", custom, SRC, TGT, memory_key_padding_mask=HIDDEN),
]

COMPOSED_ATTENTION = [
    Case(
        "TransformerEncoderLayer(8,2,6,0.4,impl=composed)",
        lambda: nn.TransformerEncoderLayer(8, 2, 6, 0.4),
        lambda: fn.TransformerEncoderLayer(8, 2, 6, 0.4, impl="composed"),
        (SRC,),
        dropout=True,
    ),
]
