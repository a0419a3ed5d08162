"""Self-attention of the models, and the affine map that it needs for GPT-2.

Axes: N batch, L sequence, D hidden, H heads of queries, K heads of keys and values, E features of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from funcnet import random
from funcnet.core import Net, Param, View
from funcnet.core.internals import StockNet
from funcnet.kernels import scaled_dot_product_attention
from funcnet.layers import Linear

Past: TypeAlias = "tuple[Tensor, Tensor, Tensor | None]"
"""Keys and values of earlier tokens, (N, K, S, E), and the slots (L,) that new ones go to; None to append them."""


class Conv1D(StockNet):
    """Affine map with the bits of GPT-2's, whose weight lies in memory as (in, out).

    The weight here is (out, in), as everywhere in torch. BLAS rounds the two ways to multiply differently, so the
    weight is transposed in each call. That costs one copy of it, and none if it lies in memory as (in, out).

    Params: weight (O, I), bias (O,).  Shape: x (*, I) -> y (*, O).
    Source: torch.addmm, as transformers.pytorch_utils.Conv1D.
    """

    in_features: int
    out_features: int

    def parts(self) -> Mapping[str, Any]:
        return {"weight": Param((self.out_features, self.in_features)), "bias": Param(self.out_features)}

    @staticmethod
    def forward(p: View, x: Tensor) -> Tensor:
        return _apply_conv1d(x, (p.weight,), (p.bias,))


def _apply_conv1d(x: Tensor, weights: tuple[Tensor, ...], biases: tuple[Tensor, ...]) -> Tensor:
    """One product of ``x`` with all weights side by side."""
    weight = torch.cat([weight.t() for weight in weights], 1) if len(weights) > 1 else weights[0].t().contiguous()
    bias = torch.cat(biases) if len(biases) > 1 else biases[0]
    return torch.addmm(bias, x.reshape(-1, x.shape[-1]), weight).view(*x.shape[:-1], weight.shape[1])


class SelfAttention(StockNet):
    """Self-attention with separate or fused projections, and as many or fewer heads for keys and values.

    Projections that transformers multiplies separately (Llama, BERT) are multiplied separately even if they are fused
    here, and those that it multiplies at once (GPT-2) at once even if they are split here, because the bits would
    differ otherwise.

    Args:
        hidden_size: D.
        num_heads, num_kv_heads, head_dim: H, K and E.
        bias: whether the projections have one.
        fused_qkv: whether ``qkv`` holds the rows of ``q``, ``k`` and ``v``, in this order.
        dropout: probability that a weight of the attention is zeroed in training.
        scale: factor of the scores.
        conv1d: multiply as GPT-2 does.

    Params: qkv or q, k, v, and out.
    Returns hidden states; with a ``past``, the pair of these and of all keys and values, old and new.
    """

    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    bias: bool
    fused_qkv: bool
    dropout: float
    scale: float
    conv1d: bool = False

    @property
    def qkv_sizes(self) -> tuple[int, int, int]:
        """Rows of q, k and v."""
        return (self.num_heads * self.head_dim, *(self.num_kv_heads * self.head_dim,) * 2)

    def parts(self) -> Mapping[str, Any]:
        def make_projection(rows: int) -> Net:
            return Conv1D(self.hidden_size, rows) if self.conv1d else Linear(self.hidden_size, rows, self.bias)

        rows = {"qkv": sum(self.qkv_sizes)} if self.fused_qkv else dict(zip("qkv", self.qkv_sizes, strict=True))
        width = self.qkv_sizes[0]
        out = Conv1D(width, self.hidden_size) if self.conv1d else Linear(width, self.hidden_size, self.bias)
        return {**{name: make_projection(count) for name, count in rows.items()}, "out": out}

    def uncalled_parts(self) -> Iterable[str]:
        return tuple(name for name in self._children if name != "out") if self.conv1d or self.fused_qkv else ()

    def constants(self) -> Mapping[str, Any]:
        return {**super().constants(), "qkv_sizes": self.qkv_sizes}

    def draws(self, training: bool) -> bool:
        return training and self.dropout > 0

    @staticmethod
    def forward(
        p: View,
        x: Tensor,
        mask: Tensor | None,
        causal: bool,
        rotate: Callable[[Tensor], Tensor] | None = None,
        past: Past | None = None,
    ) -> Any:
        q, k, v = (part.view(*x.shape[:-1], -1, p.head_dim).transpose(1, 2) for part in _project_qkv(p, x))
        if rotate is not None:
            q, k = rotate(q), rotate(k)
        if past is not None:
            k, v = _extend_past(past, k, v)
        y = p.out(_apply_attention(p, q, k, v, mask, causal).transpose(1, 2).reshape(*x.shape[:-1], -1))
        return y if past is None else (y, (k, v))


def _project_qkv(p: View, x: Tensor) -> tuple[Tensor, ...]:
    """Queries, keys and values, (N, L, H * E) and twice (N, L, K * E)."""
    if p.conv1d:
        parts = (p.qkv,) if p.fused_qkv else (p.q, p.k, p.v)
        return _apply_conv1d(x, tuple(q.weight for q in parts), tuple(q.bias for q in parts)).split(p.qkv_sizes, -1)
    if not p.fused_qkv:
        return p.q(x), p.k(x), p.v(x)
    biases = p.qkv.bias.split(p.qkv_sizes) if p.bias else (None, None, None)
    return tuple(
        F.linear(x, weight, bias) for weight, bias in zip(p.qkv.weight.split(p.qkv_sizes), biases, strict=True)
    )


def _extend_past(past: Past, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The keys and values of a cache with the new ones, (N, K, S, E)."""
    old_keys, old_values, slots = past
    if old_keys.dtype != keys.dtype:
        raise ValueError(
            f"the cache holds {old_keys.dtype} and the call computes {keys.dtype}: make the cache with "
            f"dtype={keys.dtype}"
        )
    if slots is None:
        return torch.cat([old_keys, keys], 2), torch.cat([old_values, values], 2)
    return old_keys.index_copy(2, slots, keys), old_values.index_copy(2, slots, values)


def _apply_attention(p: View, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """Attention as transformers' sdpa calls it: the kernel repeats the heads of keys only where there is no mask.

    With a mask, one token's queries that share keys are the rows of one head, and otherwise the keys are repeated.
    """
    groups, length = p.num_heads // p.num_kv_heads, q.shape[2]
    queries = q
    if groups > 1 and (mask is not None or p.head_dim > 256):
        if length == 1 and mask is not None:
            queries = q.reshape(q.shape[0], p.num_kv_heads, groups, p.head_dim)
        else:
            k, v = (x.repeat_interleave(groups, 1) for x in (k, v))  # (N, K, S, E) -> (N, H, S, E)
        groups = 1
    causal = causal and mask is None and length > 1
    options: Any = {"scale": p.scale, "enable_gqa": groups > 1}
    if p.training and p.dropout > 0:
        y = random.scaled_dot_product_attention(queries, k, v, mask, p.dropout, causal, **options, rng=p.rng)
    else:
        y = scaled_dot_product_attention(queries, k, v, mask, 0.0, causal, **options)
    return y if queries is q else y.reshape(q.shape)


def hide_padding(visible: Tensor, attention_mask: Tensor) -> Tensor:
    """Where attention may go, (N, 1, L, S), from where it may go without padding, (L, S), and what is none, (N, S).

    A mask that hides nothing counts as a mask too, because a pure function cannot look at its values.
    """
    if attention_mask.dim() != 2:
        raise ValueError(f"attention_mask has shape (N, L), got {tuple(attention_mask.shape)}")
    return visible & attention_mask.to(torch.bool)[:, None, None, :]
