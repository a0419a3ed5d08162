"""Losses without weights that run on the whole batch at once, because torch batches them by code in Python.

Axes: B examples, N batch within an example, C classes, * any.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from funcnet.transforms._per_sample._recorder import UseRecorder


def cross_entropy(
    recorder: UseRecorder,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Any:
    """Rule of F.cross_entropy for targets that are numbers of classes, without class weights."""
    is_plain = weight is None and size_average is None and reduce is None and reduction in ("mean", "sum")
    has_examples = recorder.is_batched(input) and recorder.is_batched(target)
    if not (is_plain and has_examples) or target.is_floating_point() or input.dim() != target.dim() + 1:
        return NotImplemented
    logits, classes = recorder.unwrap(input), recorder.unwrap(target)
    if target.dim() > 0:
        logits, classes = logits.flatten(0, 1), classes.flatten(0, 1)
    each = F.cross_entropy(
        logits, classes, ignore_index=ignore_index, reduction="none", label_smoothing=label_smoothing
    ).view(recorder.batch_size, -1)
    losses = each.sum(1)
    if reduction == "mean":
        losses = losses / (classes.view(recorder.batch_size, -1) != ignore_index).sum(1)
    return recorder.wrap(losses)
