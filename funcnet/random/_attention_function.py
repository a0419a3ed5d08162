"""Attention whose dropout has its randomness passed in, written out in matrix products.

Axes: * leading (batch, heads), L queries, S keys and values, E features of queries and keys, V features of values.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from funcnet._torch import safe_softmax
from funcnet.random._dropout_functions import dropout
from funcnet.random._generators import Rng

_HALF = (torch.float16, torch.bfloat16)


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
    rng: Rng | None,
) -> Tensor:
    """``dropout(softmax(scale * query @ key.T + mask)) @ value``, of plain operations that every transform knows.

    With dropout it gives, for an int seed, the bits of torch.nn.functional.scaled_dot_product_attention on the CPU,
    which takes these steps too. Without dropout torch has faster kernels, whose results are close.

    Args:
        query, key, value: shapes (*, L, E), (*, S, E) and (*, S, V).
        attn_mask: broadcast to (*, L, S): floats added to the scores, or bools that are true where attention may go.
        dropout_p: probability that a weight is zeroed, in [0, 1].
        is_causal: mask the keys that come after each query; then ``attn_mask`` is None.
        scale: factor of the scores; default ``1 / sqrt(E)``.
        enable_gqa: repeat the heads (third axis from the end) of key and value to as many as query has.
        rng: a Key, or ``p.rng``; not looked at if ``dropout_p`` is 0.

    Returns:
        Shape (*, L, V). A query whose keys are all masked gets zeros.

    Raises:
        ValueError: if there is a mask, and ``is_causal`` too.

    Source: at::native::_scaled_dot_product_attention_math.

    >>> from funcnet.random import key
    >>> x = torch.ones(2, 3, 4)
    >>> scaled_dot_product_attention(x, x, x, dropout_p=0.5, rng=key(0)).shape
    torch.Size([2, 3, 4])
    """
    if is_causal and attn_mask is not None:
        raise ValueError("is_causal makes a mask of its own: leave attn_mask out, or is_causal.")
    dtype = query.dtype
    if dtype in _HALF:
        query, key, value = query.float(), key.float(), value.float()
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], -3) for x in (key, value))
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    root = math.sqrt(abs(scale))  # half of the scale on each side, for range
    scores = (query * math.copysign(root, scale)) @ (key.transpose(-2, -1) * root)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        scores = scores + _as_added_mask(attn_mask, dtype)
    weights = safe_softmax(scores, -1)
    if dropout_p > 0:
        weights = dropout(weights, dropout_p, rng=rng)
    return (weights @ value).to(dtype)


def _as_added_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, -math.inf)
