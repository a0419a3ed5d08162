"""Rows of losses and distances."""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import funcnet as fn
from tests.cases.case import Case, Input, given, ints, layer, normal, signs, uniform

PAIR = (normal(4, 3), normal(4, 3))
SCORES = (normal(4, 3), ints(3, 4))
IMAGE = (normal(2, 3, 2, 2), ints(3, 2, 2, 2))


def weighted(name: str, inputs: tuple[Input, ...], /, **kwargs: Any) -> Case:
    """A loss with lists of numbers among its arguments, which the module takes as tensors of the default dtype."""

    def module() -> nn.Module:
        tensors = {key: torch.tensor(value) if isinstance(value, list) else value for key, value in kwargs.items()}
        return getattr(nn, name)(**tensors)

    row = layer(name, given=inputs, **kwargs)
    return Case(row.name, module, row.net, row.given, row.call)


def distributions(*shape: int) -> Input:
    """Probabilities over axis 1, or over the only one."""
    made = normal(*shape)
    axis = 0 if len(shape) == 1 else 1
    return Input(lambda g, dtype, front: made.make(g, dtype, front).softmax(len(front) + axis))


def log_distributions(*shape: int) -> Input:
    """Log probabilities over the last axis."""
    made = normal(*shape)
    return Input(lambda g, dtype, front: made.make(g, dtype, front).log_softmax(-1))


def int_signs(*shape: int) -> Input:
    """1 or -1 as ints, of which no test asks for a gradient."""
    return Input(lambda g, dtype, front: torch.randint(2, (*front, *shape), generator=g) * 2 - 1)


def ending(high: int, *shape: int) -> Input:
    """Classes, and -1 somewhere after them."""
    return ints(high, *shape, low=-1)


def cosine_distance(x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
    return 1 - F.cosine_similarity(x1, x2)


def quiet(make: Any) -> Any:
    """What makes a thing, without the warning that it is deprecated."""

    def made() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return make()

    return made


LENGTHS = (torch.tensor([5, 4]), torch.tensor([2, 1]))

LOSSES = [
    layer("L1Loss", given=PAIR),
    layer("L1Loss", reduction="none", given=PAIR),
    layer("MSELoss", given=PAIR),
    layer("MSELoss", reduction="sum", given=PAIR),
    layer("SmoothL1Loss", given=PAIR),
    layer("SmoothL1Loss", reduction="none", beta=0.5, given=PAIR),
    layer("SmoothL1Loss", beta=0.0, given=PAIR),
    layer("HuberLoss", given=PAIR),
    layer("HuberLoss", "sum", 0.5, given=PAIR),
    layer("PoissonNLLLoss", given=(normal(4, 3), uniform(4, 3, high=4.0))),
    layer("PoissonNLLLoss", False, True, reduction="none", given=(uniform(4, 3, low=0.5), uniform(4, 3, high=4.0))),
    layer("GaussianNLLLoss", given=(*PAIR, uniform(4, 3, low=0.1))),
    layer("GaussianNLLLoss", full=True, eps=0.05, reduction="none", given=(*PAIR, uniform(4, 1, low=0.1))),
    layer("GaussianNLLLoss", reduction="sum", given=(*PAIR, uniform(4, low=0.1))),
    layer("GaussianNLLLoss", given=(*PAIR, given(0.5))),
    layer("NLLLoss", given=SCORES),
    layer("NLLLoss", given=(normal(3), ints(3))),
    layer("NLLLoss", ignore_index=1, reduction="none", given=IMAGE),
    weighted("NLLLoss", SCORES, weight=[0.5, 1.0, 2.0]),
    weighted("NLLLoss", IMAGE, weight=[0.5, 1.0, 2.0], reduction="sum"),
    Case("NLLLoss2d()", quiet(lambda: nn.NLLLoss2d()), quiet(lambda: fn.NLLLoss2d()), IMAGE),
    layer("CrossEntropyLoss", given=SCORES),
    layer("CrossEntropyLoss", given=(normal(3), ints(3))),
    layer("CrossEntropyLoss", ignore_index=1, label_smoothing=0.1, given=IMAGE),
    layer("CrossEntropyLoss", reduction="none", given=(normal(4, 3), distributions(4, 3))),
    weighted("CrossEntropyLoss", SCORES, weight=[0.5, 1.0, 2.0], label_smoothing=0.25),
    weighted("CrossEntropyLoss", (normal(2, 3, 2), distributions(2, 3, 2)), weight=[0.5, 1.0, 2.0]),
    layer("KLDivLoss", reduction="batchmean", given=(log_distributions(4, 3), distributions(4, 3))),
    layer("KLDivLoss", reduction="none", log_target=True, given=(log_distributions(4, 3), log_distributions(4, 3))),
    layer("BCELoss", given=(uniform(4, 3, low=0.1, high=0.9), uniform(4, 3))),
    weighted("BCELoss", (uniform(4, 3, low=0.1, high=0.9), uniform(4, 3)), weight=[0.5, 1.0, 2.0], reduction="none"),
    layer("BCEWithLogitsLoss", given=(normal(4, 3), uniform(4, 3))),
    weighted(
        "BCEWithLogitsLoss",
        (normal(4, 3), uniform(4, 3)),
        weight=[[0.5], [1.0], [2.0], [4.0]],
        pos_weight=[0.5, 1.0, 2.0],
        reduction="sum",
    ),
    layer("SoftMarginLoss", given=(normal(4, 3), int_signs(4, 3))),
    layer("SoftMarginLoss", reduction="none", given=(normal(4, 3), int_signs(4, 3))),
    layer("MultiLabelSoftMarginLoss", given=(normal(4, 3), ints(2, 4, 3))),
    weighted("MultiLabelSoftMarginLoss", (normal(3), ints(2, 3)), weight=[0.5, 1.0, 2.0], reduction="none"),
    layer("HingeEmbeddingLoss", given=(normal(4, 3), int_signs(4, 3))),
    layer("HingeEmbeddingLoss", 0.5, reduction="none", given=(normal(4, 3), int_signs(4, 3))),
    layer("CosineEmbeddingLoss", given=(normal(4, 3), normal(4, 3), int_signs(4))),
    layer("CosineEmbeddingLoss", 0.25, reduction="none", given=(normal(4, 3), normal(4, 3), int_signs(4))),
    layer("CosineEmbeddingLoss", given=(normal(3), normal(3), int_signs())),
    layer("MarginRankingLoss", given=(normal(4), normal(4), signs(4))),
    layer("MarginRankingLoss", 0.5, reduction="none", given=(normal(4), normal(4), signs(4))),
    layer("MultiMarginLoss", given=SCORES),
    layer("MultiMarginLoss", 2, 0.5, reduction="none", given=(normal(3), ints(3))),
    weighted("MultiMarginLoss", SCORES, p=2, weight=[0.5, 1.0, 2.0], reduction="sum"),
    layer("MultiLabelMarginLoss", given=(normal(4, 3), ending(3, 4, 3))),
    layer("MultiLabelMarginLoss", reduction="none", given=(normal(3), ending(3, 3))),
    layer("MultiLabelMarginLoss", reduction="none", given=(normal(4, 5), ending(5, 4, 5))),
    layer("TripletMarginLoss", given=(normal(4, 3), normal(4, 3), normal(4, 3))),
    layer(
        "TripletMarginLoss",
        0.5,
        p=3,
        swap=True,
        reduction="none",
        given=(normal(4, 3), normal(4, 3), normal(4, 3)),
    ),
    layer("TripletMarginLoss", given=(normal(3), normal(3), normal(3))),
    layer("TripletMarginWithDistanceLoss", given=(normal(4, 3), normal(4, 3), normal(4, 3))),
    layer(
        "TripletMarginWithDistanceLoss",
        distance_function=cosine_distance,
        margin=0.5,
        swap=True,
        reduction="none",
        given=(normal(4, 3), normal(4, 3), normal(4, 3)),
    ),
    Case(
        "TripletMarginWithDistanceLoss(CosineSimilarity)",
        lambda: nn.TripletMarginWithDistanceLoss(distance_function=nn.CosineSimilarity(), reduction="sum"),
        lambda: fn.TripletMarginWithDistanceLoss(distance_function=fn.CosineSimilarity(), reduction="sum"),
        (normal(4, 3), normal(4, 3), normal(4, 3)),
    ),
    layer("CTCLoss", given=(log_distributions(5, 2, 4), ints(4, 2, 2, low=1), given(LENGTHS[0]), given(LENGTHS[1]))),
    layer(
        "CTCLoss",
        1,
        "none",
        zero_infinity=True,
        given=(log_distributions(5, 2, 4), given(torch.tensor([0, 0, 3])), given((2, 4)), given((2, 1))),
    ),
    layer(
        "CTCLoss",
        reduction="sum",
        given=(log_distributions(5, 4), ints(4, 2, low=1), given(torch.tensor(5)), given(torch.tensor(2))),
    ),
    layer("PairwiseDistance", given=PAIR),
    layer("PairwiseDistance", 1.0, 1e-3, True, given=(normal(3), normal(3))),
    layer("CosineSimilarity", given=PAIR),
    layer("CosineSimilarity", dim=-2, eps=1e-3, given=(normal(4, 3, 2), normal(3, 1))),
    layer("AdaptiveLogSoftmaxWithLoss", 16, 12, [3, 6], given=(normal(6, 16), ints(12, 6))),
    layer("AdaptiveLogSoftmaxWithLoss", 8, 12, (3,), div_value=2.0, head_bias=True, given=(normal(8), ints(12))),
    layer("LinearCrossEntropyLoss", 5, 3, given=(normal(4, 5), ints(3, 4))),
    layer("LinearCrossEntropyLoss", 5, 3, bias=True, given=(normal(5), ints(3))),
    layer(
        "LinearCrossEntropyLoss",
        5,
        3,
        out_features=(2,),
        bias=True,
        label_smoothing=0.1,
        reduction="none",
        given=(normal(4, 5), ints(3, 4, 2)),
    ),
    weighted(
        "LinearCrossEntropyLoss",
        (normal(4, 5), ints(3, 4)),
        in_features=5,
        num_classes=3,
        weight=[0.5, 1.0, 2.0],
        ignore_index=1,
        label_smoothing=0.1,
    ),
    layer(
        "LinearCrossEntropyLoss",
        5,
        3,
        bias=True,
        options=nn.LinearCrossEntropyOptions(batch_chunk_size=2, chunking_method=None),
        given=(normal(4, 5), ints(3, 4)),
    ),
    layer("LinearCrossEntropyLoss", 5, 3, reduction="sum", given=(normal(4, 5), distributions(4, 3))),
]
