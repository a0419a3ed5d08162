"""Rows of the look-up tables."""

from __future__ import annotations

import torch

from tests.cases.case import given, ints, layer, normal

OFFSETS = given(torch.tensor([0, 3, 3, 5]))
ENDS = given(torch.tensor([0, 3, 3, 8]))

EMBEDDING = [
    layer("Embedding", 7, 3, padding_idx=2, max_norm=1.0, norm_type=1.0, given=ints(7, 4)),
    layer("EmbeddingBag", 7, 3, given=ints(7, 4, 5)),
    layer("EmbeddingBag", 7, 3, given=(ints(7, 8), OFFSETS)),
    layer("EmbeddingBag", 7, 3, mode="sum", padding_idx=-2, given=(ints(7, 4, 5), given(None), normal(4, 5))),
    layer("EmbeddingBag", 7, 3, mode="sum", include_last_offset=True, given=(ints(7, 8), ENDS, normal(8))),
    layer("EmbeddingBag", 7, 3, mode="max", padding_idx=1, given=(ints(7, 8), OFFSETS)),
    layer("EmbeddingBag", 7, 3, mode="mean", padding_idx=1, max_norm=1.0, given=(ints(7, 8), OFFSETS)),
    layer("EmbeddingBag", 7, 3, scale_grad_by_freq=True, mode="sum", given=ints(7, 4, 5)),
]
