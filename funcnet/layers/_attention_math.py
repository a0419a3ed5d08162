"""The steps of MultiheadAttention, in the order of torch.nn.functional.multi_head_attention_forward, for equal bits.

Axes: L queries, S keys and values, N batch, H heads, D features of a head, E = H * D. In this file sequences come
first, (L, N, E), and unbatched inputs have N = 1. As in torch, it matters whether query, key and value are the same
tensor: one product over the complete in_proj_weight rounds differently from three products.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from funcnet import random
from funcnet.core import View
from funcnet.kernels import scaled_dot_product_attention
from funcnet.random import Rng, dropout


def sequence_first(query: Tensor, key: Tensor, value: Tensor, batched: bool, batch_first: bool) -> tuple[Tensor, ...]:
    """Query (L, N, E), key (S, N, K) and value (S, N, V). Batched inputs that are the same tensor stay the same."""
    if not batched:
        return query.unsqueeze(1), key.unsqueeze(1), value.unsqueeze(1)
    if not batch_first:
        return query, key, value
    q = query.transpose(1, 0)
    if key is not value:
        return q, key.transpose(1, 0), value.transpose(1, 0)
    k = q if key is query else key.transpose(1, 0)
    return q, k, k


def check_attention_sizes(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, padding: Tensor | None, p: View
) -> None:
    """Refuse sizes that do not fit together, except those that the operations below refuse themselves."""
    (length, batch, features), source = query.shape, key.shape[0]
    if features != p.embed_dim:
        raise ValueError(f"the last axis of query is embed_dim={p.embed_dim}, got {features}")
    if p.in_proj_weight is not None and key.shape != value.shape:
        raise ValueError(f"key and value have equal shapes, got {tuple(key.shape)} and {tuple(value.shape)}")
    if key.shape[:2] != value.shape[:2]:
        raise ValueError(
            f"key and value have equal lengths and batches, got {tuple(key.shape)} and {tuple(value.shape)}"
        )
    if mask is not None:
        expected = (length, source) if mask.dim() == 2 else (batch * p.num_heads, length, source)
        if mask.shape != expected:
            raise ValueError(f"attn_mask of {mask.dim()} axes has shape {expected} here, got {tuple(mask.shape)}")
    if padding is not None and padding.shape != (batch, source):
        raise ValueError(f"key_padding_mask has shape {(batch, source)} here, got {tuple(padding.shape)}")


def project_inputs(query: Tensor, key: Tensor, value: Tensor, p: View) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value, projected to E features each."""
    weight, bias = p.in_proj_weight, p.in_proj_bias
    if weight is None:
        return _project_separately(query, key, value, (p.q_proj_weight, p.k_proj_weight, p.v_proj_weight), bias)
    if key is not value:
        return _project_separately(query, key, value, weight.chunk(3), bias)
    size = query.shape[-1]
    if query is key:
        q, k, v = _unpack_products(F.linear(query, weight, bias), 3, size)
        return q, k, v
    w_q, w_kv = weight.split([size, 2 * size])
    b_q, b_kv = (None, None) if bias is None else bias.split([size, 2 * size])
    q = F.linear(query, w_q, b_q)
    k, v = _unpack_products(F.linear(key, w_kv, b_kv), 2, size)
    return q, k, v


def _project_separately(
    query: Tensor, key: Tensor, value: Tensor, weights: Sequence[Tensor], bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    biases = (None, None, None) if bias is None else bias.chunk(3)
    q, k, v = map(F.linear, (query, key, value), weights, biases)
    return q, k, v


def _unpack_products(packed: Tensor, count: int, size: int) -> tuple[Tensor, ...]:
    """The products that lie side by side on the last axis, as separate tensors."""
    return packed.reshape(*packed.shape[:-1], count, size).permute(2, 0, 1, 3).contiguous().unbind()


def split_heads(x: Tensor, count: int, batch: int) -> Tensor:
    """The tensor (L, N, H * D) as (N * H, L, D)."""
    return x.reshape(x.shape[0], batch * count, x.shape[-1] // count).transpose(0, 1)


def append_learned_key(
    k: Tensor, v: Tensor, masks: tuple[Tensor | None, Tensor | None], bias_k: Tensor, bias_v: Tensor
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Keys, values and masks with the learned biases as one more key and value, which no mask hides."""
    batch = k.shape[1]
    k, v = (torch.cat([x, bias.repeat(1, batch, 1)]) for x, bias in ((k, bias_k), (v, bias_v)))
    return k, v, *_extend_masks(masks)


def append_zero_key(
    k: Tensor, v: Tensor, masks: tuple[Tensor | None, Tensor | None]
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Keys and values by heads, and masks, with zeros as one more key and value, which no mask hides."""
    zeros = k.new_zeros((k.shape[0], 1, k.shape[2]))
    return torch.cat([k, zeros], dim=1), torch.cat([v, zeros], dim=1), *_extend_masks(masks)


def _extend_masks(masks: tuple[Tensor | None, Tensor | None]) -> tuple[Tensor | None, Tensor | None]:
    """The masks with one more key that they do not hide."""
    mask, padding = (None if mask is None else F.pad(mask, (0, 1)) for mask in masks)
    return mask, padding


def merge_masks(mask: Tensor | None, padding: Tensor | None, count: int) -> Tensor | None:
    """Both masks combined into one, (1 or N * H, L or 1, S)."""
    if mask is not None and mask.dim() == 2:
        mask = mask.unsqueeze(0)
    if padding is None:
        return mask
    batch, source = padding.shape
    padding = padding.view(batch, 1, 1, source).expand(-1, count, -1, -1).reshape(batch * count, 1, source)
    return padding if mask is None else mask + padding


def attention_with_weights(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout_p: float, rng: Rng | None
) -> tuple[Tensor, Tensor]:
    """Outputs (N * H, L, D) and weights (N * H, L, S) after dropout."""
    q = q * math.sqrt(1.0 / q.shape[-1])
    k = k.transpose(-2, -1)
    weights = torch.bmm(q, k) if mask is None else torch.baddbmm(mask, q, k)
    weights = F.softmax(weights, dim=-1)
    if rng is not None:
        weights = dropout(weights, dropout_p, rng=rng)
    return torch.bmm(weights, v), weights


def attention_output(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    causal: bool,
    dropout_p: float,
    rng: Rng | None,
    fused: bool,
) -> Tensor:
    """Outputs (N, H, L, D) for q, k and v by heads, (N, H, *, D)."""
    if rng is not None:  # torch does not use its fused kernel with dropout either
        return random.scaled_dot_product_attention(q, k, v, mask, dropout_p, causal, rng=rng)
    if not fused:
        return random.scaled_dot_product_attention(q, k, v, mask, 0.0, causal, rng=None)
    return scaled_dot_product_attention(q, k, v, mask, 0.0, causal)
