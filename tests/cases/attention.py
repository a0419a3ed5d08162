"""Rows of attention and of what is built on it."""

from __future__ import annotations

import torch
from torch import nn

import funcnet as fn
from tests.cases.case import Case, given, layer, normal

HIDDEN = torch.tensor([[False, False, True, False], [True, False, False, False]])
LATER = torch.ones(3, 4).triu(2).bool()

# torch multiplies an input that is not contiguous, as several examples with batch_first are, by another kernel where
# its weight requires grad; so such rows have one example, and tests/layers compares the rest in equal states.


def qkv(*front: int, k: int = 8, v: int = 8) -> tuple:
    """Query, key and value: ``front`` is the batch, before or after lengths 3 and 4."""
    return normal(3, *front, 8), normal(4, *front, k), normal(4, *front, v)


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
]
