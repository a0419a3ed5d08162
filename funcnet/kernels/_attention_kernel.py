"""Attention without dropout: torch's fused kernel, or the composed form for what it has no rule for."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from funcnet import random
from funcnet._context import beyond_one_gradient
from funcnet.kernels._second_derivatives import allow_second_derivative


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **options: Any,
) -> Tensor:
    """Torch.nn.functional.scaled_dot_product_attention; composed for vmap, forward mode and more than one gradient.

    >>> import torch
    >>> x = torch.ones(2, 3, 4)
    >>> scaled_dot_product_attention(x, x, x).shape
    torch.Size([2, 3, 4])
    """
    tensors = (query, key, value) if attn_mask is None else (query, key, value, attn_mask)
    if dropout_p == 0 and beyond_one_gradient(*tensors):
        return random.scaled_dot_product_attention(query, key, value, attn_mask, 0.0, is_causal, **options, rng=None)
    y = F.scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, **options)
    return allow_second_derivative(y)
