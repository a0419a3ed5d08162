"""Attention with several heads, the counterpart of torch.nn.MultiheadAttention.

Axes: L queries, S keys and values, N batch, E embedding, K and V features of key and value, H heads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.types import Device

from funcnet import init
from funcnet._torch import canonical_mask, check_attention_shapes, none_or_dtype
from funcnet.core import InitContext, Param, View, draw_source
from funcnet.layers import _attention_math as steps
from funcnet.layers._layer import Layer
from funcnet.layers._linear import Linear
from funcnet.tree import join


class NonDynamicallyQuantizableLinear(Linear):
    """A :class:`Linear` under another name. As in torch, it is the ``out_proj`` of MultiheadAttention.

    >>> NonDynamicallyQuantizableLinear(2, 3)
    NonDynamicallyQuantizableLinear(in_features=2, out_features=3, bias=True)
    """

    twin = nn.modules.linear.NonDynamicallyQuantizableLinear


class MultiheadAttention(Layer):
    """A mean of the values for each query, weighted by how well their keys match the query, in H heads side by side.

    The module has a fused kernel for inference (in eval mode, without gradients, with ``batch_first``, an even number
    of heads, and query, key and value the same tensor), which rounds differently. A net never uses that kernel: it has
    the bits of the module wherever the module does not use it either.

    Args:
        embed_dim: size E of a query and of an output; H divides it.
        num_heads: H.
        dropout: probability that a weight is zeroed in training, in [0, 1].
        bias: when false, neither projection has a bias.
        add_bias_kv: learn one more key and value, which every query sees.
        add_zero_attn: add one more key and value of zeros.
        kdim, vdim: sizes K and V of a key and a value; default E. With other sizes there are three weights instead of
            ``in_proj_weight``.
        batch_first: whether the batch is the first axis of inputs and outputs, not the second.
        device, dtype: the defaults of :meth:`init`.
        impl: "fused" calls torch's kernel where the module does. The kernel does not support vmap, jvp and second
            derivatives by torch.func, so under these "fused" computes as "composed" does. "composed" always uses plain
            matrix products, with close values. It is needed for a second derivative by ``create_graph=True``, which
            cannot be detected in the forward pass.

    Inputs: query (L, N, E), key (S, N, K), value (S, N, V); or each without N. ``key_padding_mask`` (N, S) and
    ``attn_mask`` (L, S) or (N * H, L, S) hide keys: bools that are true where a key is hidden, or floats to add to the
    scores. ``need_weights`` asks for the weights, ``average_attn_weights`` for their mean over the heads.
    ``is_causal`` says that ``attn_mask`` hides exactly the later keys; this is not checked.

    Params: in_proj_weight (3E, E), or q_proj_weight (E, E), k_proj_weight (E, K), v_proj_weight (E, V); in_proj_bias
    (3E,), bias_k and bias_v (1, 1, E), out_proj.weight (E, E), out_proj.bias (E,).  Draws: in training.
    Shape:  (output (L, N, E), weights (N, L, S) or (N, H, L, S), or None if not asked for).
    Raises: ShapeError for inputs and masks whose shapes do not fit together.
    Source: torch.nn.functional.multi_head_attention_forward.

    >>> net = MultiheadAttention(8, 2)
    >>> params, _ = net.init(0)
    >>> x = torch.ones(5, 1, 8)
    >>> y, weights = net(params, x, x, x)
    >>> y.shape, weights.shape
    (torch.Size([5, 1, 8]), torch.Size([1, 5, 5]))
    """

    embed_dim: int
    num_heads: int
    dropout: float = 0.0
    bias: bool = True
    add_bias_kv: bool = False
    add_zero_attn: bool = False
    kdim: int | None = None
    vdim: int | None = None
    batch_first: bool = False
    device: Device = None
    dtype: torch.dtype | None = None
    impl: str = field(default="fused", kw_only=True)

    def __post_init__(self) -> None:
        if not 0 <= self.dropout <= 1:
            raise ValueError(f"MultiheadAttention: dropout is a probability in [0, 1], got {self.dropout}.")
        super().__post_init__()

    @classmethod
    def fields_from_module(cls, module: nn.Module) -> dict[str, Any]:
        return {
            **{name: getattr(module, name) for name in ("embed_dim", "num_heads", "dropout", "kdim", "vdim")},
            "bias": module.in_proj_bias is not None,
            "add_bias_kv": module.bias_k is not None,
            "add_zero_attn": module.add_zero_attn,
            "batch_first": module.batch_first,
            "impl": getattr(module, "_funcnet_impl", "fused"),
        }

    def list_unread_attributes(self) -> frozenset[str]:
        return frozenset({"head_dim"})

    def parts(self) -> dict[str, Any]:
        size = self.embed_dim
        is_packed = self.kdim == self.vdim == size

        def build_weight(rows: int, columns: int | None, is_used: bool) -> Param | None:
            return Param((rows, columns or size), init.xavier_uniform()) if is_used else None

        learned_key = Param((1, 1, size), init.xavier_normal()) if self.add_bias_kv else None
        return {
            "in_proj_weight": build_weight(3 * size, size, is_packed),
            "q_proj_weight": build_weight(size, size, not is_packed),
            "k_proj_weight": build_weight(size, self.kdim, not is_packed),
            "v_proj_weight": build_weight(size, self.vdim, not is_packed),
            "in_proj_bias": Param(3 * size, 0.0) if self.bias else None,
            "bias_k": learned_key,
            "bias_v": learned_key,
            "out_proj": NonDynamicallyQuantizableLinear(size, size, self.bias, self.device, self.dtype),
        }

    def first_values(self, context: InitContext, path: str) -> Iterator[tuple[str, Tensor]]:
        for entry_path, value in super().first_values(context, path):
            yield entry_path, torch.zeros_like(value) if entry_path == join(path, "out_proj.bias") else value

    def drawing_order(self) -> list[str]:
        return ["out_proj", *(name for name in self._parts if name != "out_proj")]

    def draws(self, training: bool) -> bool:
        return training and self.dropout > 0

    def expects(self) -> str:
        size, k, v = self.embed_dim, self.kdim, self.vdim
        order = "(N, L, {}), (N, S, {}) and (N, S, {})" if self.batch_first else "(L, N, {}), (S, N, {}) and (S, N, {})"
        return f"query, key and value {order.format(size, k, v)}, or each without N"

    @staticmethod
    def forward(
        p: View,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        batched = check_attention_shapes(query, key, value, key_padding_mask, attn_mask, p.num_heads)
        mask, padding = _masks_as_floats(attn_mask, key_padding_mask, query.dtype)
        q, k, v = steps.sequence_first(query, key, value, batched, p.batch_first)
        if padding is not None and not batched:
            padding = padding.unsqueeze(0)
        if is_causal and mask is None:
            raise ValueError("is_causal is a hint about attn_mask, which is missing")
        if is_causal and padding is None and not need_weights:
            mask = None  # the kernel builds the causal mask itself
        else:
            is_causal = False
        steps.check_attention_sizes(q, k, v, mask, padding, p)
        length, batch, size = q.shape
        q, k, v = steps.project_inputs(q, k, v, p)
        if p.bias_k is not None:
            k, v, mask, padding = steps.append_learned_key(k, v, (mask, padding), p.bias_k, p.bias_v)
        q, k, v = (steps.split_heads(x, p.num_heads, batch) for x in (q, k, v))
        if p.add_zero_attn:
            k, v, mask, padding = steps.append_zero_key(k, v, (mask, padding))
        mask = steps.merge_masks(mask, padding, p.num_heads)
        rng = draw_source(p) if p.training and p.dropout > 0 else None
        if need_weights:
            y, weights = steps.attention_with_weights(q, k, v, mask, p.dropout, rng)
            y = y.transpose(0, 1)
        else:
            if mask is not None:
                is_shared = mask.dim() == 3 and mask.shape[0] == 1
                mask = mask.unsqueeze(0) if is_shared else mask.reshape(batch, p.num_heads, -1, k.shape[1])
            q, k, v = (x.reshape(batch, p.num_heads, *x.shape[1:]) for x in (q, k, v))
            y = steps.attention_output(q, k, v, mask, is_causal, p.dropout, rng, p.impl == "fused").permute(2, 0, 1, 3)
        y = F.linear(y.reshape(length * batch, size), p.out_proj.weight, p.out_proj.bias).view(length, batch, size)
        y = y if batched and not p.batch_first else y.transpose(1, 0) if batched else y.squeeze(1)
        if not need_weights:
            return y, None
        weights = weights.reshape(batch, p.num_heads, *weights.shape[1:])
        weights = weights.mean(dim=1) if average_attn_weights else weights
        return y, weights if batched else weights.squeeze(0)


def _masks_as_floats(
    mask: Tensor | None, padding: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor | None, Tensor | None]:
    """Both masks as floats to add to the scores. Like torch, it warns if exactly one of them is bool."""
    if padding is not None:
        mask_dtype = None if torch.compiler.is_compiling() else none_or_dtype(mask)  # compiled code cannot warn
        padding = canonical_mask(padding, "key_padding_mask", mask_dtype, "attn_mask", dtype)
    if mask is not None:
        mask = canonical_mask(mask, "attn_mask", None, "", dtype, False)
    return mask, padding
