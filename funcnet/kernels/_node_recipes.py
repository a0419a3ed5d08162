"""What the nodes of kernels without a second derivative computed, from what they have saved."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from funcnet import random
from funcnet.kernels._ctc_by_steps import compose_ctc_loss
from funcnet.kernels._distances import compose_cdist, compose_pdist
from funcnet.kernels._losses import compose_multi_margin_loss, compose_multilabel_margin_loss
from funcnet.kernels._second_derivatives import RECIPES, Recipe
from funcnet.kernels._weight_norm import compose_weight_norm

_REDUCTIONS = ("none", "mean", "sum")


def _recompose_attention(node: Any) -> Recipe:
    mask, is_causal, scale = node._saved_attn_mask, node._saved_is_causal, node._saved_scale

    def compose(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return random.scaled_dot_product_attention(query, key, value, mask, 0.0, is_causal, scale=scale, rng=None)

    return (node._saved_query, node._saved_key, node._saved_value), compose


def _recompose_weight_norm(node: Any) -> Recipe:
    return (node._saved_v, node._saved_g), lambda v, g: compose_weight_norm(v, g, node._saved_dim)


def _recompose_hardsigmoid(node: Any) -> Recipe:
    return (node._saved_self,), lambda x: torch.nn.functional.relu6(x + 3) / 6


def _recompose_multi_margin(node: Any) -> Recipe:
    options = (node._saved_target, int(node._saved_p), node._saved_margin, node._saved_weight)
    reduction = _REDUCTIONS[node._saved_reduction]
    return (node._saved_self,), lambda x: compose_multi_margin_loss(x, *options, reduction)


def _recompose_multilabel_margin(node: Any) -> Recipe:
    target, reduction = node._saved_target, _REDUCTIONS[node._saved_reduction]
    return (node._saved_self,), lambda x: compose_multilabel_margin_loss(x, target, reduction)


def _recompose_ctc(node: Any) -> Recipe:
    lengths = (node._saved_input_lengths, node._saved_target_lengths)
    options = (node._saved_targets, *lengths, node._saved_blank, "none", node._saved_zero_infinity)
    return (node._saved_log_probs,), lambda x: compose_ctc_loss(x, *options)


def _recompose_cdist(node: Any) -> Recipe:
    return (node._saved_x1, node._saved_x2), lambda x1, x2: compose_cdist(x1, x2, node._saved_p)


def _recompose_pdist(node: Any) -> Recipe:
    return (node._saved_self,), lambda x: compose_pdist(x, node._saved_p)


RECIPES |= {
    "ScaledDotProductFlashAttentionForCpuBackward0": _recompose_attention,
    "WeightNormInterfaceBackward0": _recompose_weight_norm,
    "HardsigmoidBackward0": _recompose_hardsigmoid,
    "MultiMarginLossBackward0": _recompose_multi_margin,
    "MultilabelMarginLossBackward0": _recompose_multilabel_margin,
    "CtcLossBackward0": _recompose_ctc,
    "CtcLossBackward1": _recompose_ctc,
    "CdistBackward0": _recompose_cdist,
    "PdistBackward0": _recompose_pdist,
}
