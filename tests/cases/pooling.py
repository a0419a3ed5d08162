"""Rows of the pooling layers."""

from __future__ import annotations

import math

import torch

from tests.cases.case import Input, channels_last, ints, layer, normal


def places(*shape: int) -> Input:
    """Indices as pooling over windows of two returns them: other ones for each value of a channel."""

    def make(g, dtype, front):
        first = 2 * torch.arange(math.prod(shape[2:])).view(shape[2:])
        return first + ints(2, *shape).make(g, dtype, front)

    return Input(make)


POOLING = [
    layer("MaxPool1d", 2, given=(3, 8)),
    layer("MaxPool1d", 3, 1, 1, 2, ceil_mode=True, given=(2, 3, 8)),
    layer("MaxPool2d", (2, 3), return_indices=True, given=(3, 6, 6)),
    layer("MaxPool3d", 2, 1, 1, return_indices=True, ceil_mode=True, given=(2, 3, 4, 3, 4)),
    layer("MaxPool3d", 2, given=channels_last(normal(2, 3, 4, 4, 4)), note="channels_last"),
    layer("AvgPool1d", 3, 2, 1, ceil_mode=True, count_include_pad=False, given=(3, 8)),
    layer("AvgPool2d", (2, 3), (1, 2), given=channels_last(normal(2, 3, 6, 6)), note="channels_last"),
    layer("AvgPool3d", 3, 2, 1, True, False, given=(3, 5, 4, 4)),
    layer("AvgPool3d", 2, divisor_override=3, given=channels_last(normal(2, 3, 4, 4, 4)), note="channels_last"),
    layer("LPPool1d", 2, 3, given=(2, 3, 8)),
    layer("LPPool1d", 4.0, 2, stride=1, ceil_mode=True, given=(3, 7)),
    layer("LPPool2d", 2, 3, given=(2, 3, 7, 7)),
    layer("LPPool2d", 2, (3, 2), (1, 2), True, given=channels_last(normal(2, 3, 6, 7)), note="channels_last"),
    layer("LPPool2d", float("inf"), 2, given=(3, 6, 6)),
    layer("LPPool3d", 2, 2, given=(2, 3, 4, 4, 4)),
    layer("LPPool3d", 2, (1, 2, 3), stride=(2, 1, 1), given=(3, 4, 4, 4)),
    layer("AdaptiveAvgPool1d", 5, given=(3, 8)),
    layer("AdaptiveAvgPool2d", 3, given=channels_last(normal(2, 3, 7, 5)), note="channels_last"),
    layer("AdaptiveAvgPool3d", (None, 3, None), given=(3, 4, 5, 3)),
    layer("AdaptiveMaxPool1d", 3, given=(2, 3, 8)),
    layer("AdaptiveMaxPool1d", 3, return_indices=True, given=(3, 8)),
    layer("AdaptiveMaxPool2d", 2, given=(2, 3, 7, 5)),
    layer("AdaptiveMaxPool2d", (None, 3), True, given=channels_last(normal(2, 3, 4, 7)), note="channels_last"),
    layer("AdaptiveMaxPool3d", 2, given=(2, 3, 5, 4, 3)),
    layer("AdaptiveMaxPool3d", (1, None, 2), return_indices=True, given=(3, 4, 3, 5)),
    layer("MaxUnpool1d", 2, given=(normal(2, 3, 4), places(2, 3, 4))),
    layer("MaxUnpool1d", 2, given=(normal(2, 3, 4), places(2, 3, 4)), call={"output_size": [9]}),
    layer("MaxUnpool2d", 2, given=(normal(2, 3, 2, 3), places(2, 3, 2, 3))),
    layer(
        "MaxUnpool2d",
        (3, 2),
        stride=2,
        padding=(1, 0),
        given=(channels_last(normal(2, 3, 3, 3)), places(2, 3, 3, 3)),
        note="channels_last",
    ),
    layer("MaxUnpool3d", 2, given=(normal(2, 3, 2, 1, 2), places(2, 3, 2, 1, 2))),
    layer("MaxUnpool3d", 2, given=(normal(2, 3, 2, 1, 2), places(2, 3, 2, 1, 2)), call={"output_size": (5, 3, 4)}),
    layer("FractionalMaxPool2d", 2, output_ratio=0.6, given=(2, 3, 7, 6)),
    layer("FractionalMaxPool2d", (2, 3), output_size=(4, 3), return_indices=True, given=(3, 7, 6)),
    layer("FractionalMaxPool2d", 3, 4, given=channels_last(normal(2, 3, 8, 8)), note="channels_last"),
    layer("FractionalMaxPool3d", 2, output_ratio=(0.5, 0.7, 0.6), return_indices=True, given=(2, 3, 4, 5, 6)),
    layer("FractionalMaxPool3d", (2, 1, 2), output_size=(2, 1, 3), given=(3, 4, 4, 5)),
]
