"""Rows of the convolutions."""

from __future__ import annotations

from tests.cases.case import channels_last, layer, normal

CONVOLUTION = [
    layer("Conv2d", 3, 6, 3, given=(3, 8, 8)),
    layer("Conv2d", 4, 4, 3, groups=4, given=channels_last(normal(2, 4, 6, 6)), note="channels_last"),
    layer("Conv3d", 2, 4, 2, stride=(1, 2, 1), dilation=2, groups=2, bias=False, given=(2, 4, 5, 4)),
    layer("Conv3d", 2, 4, 3, padding="same", given=channels_last(normal(2, 2, 3, 3, 3)), note="channels_last"),
    layer("ConvTranspose1d", 4, 6, 3, given=(2, 4, 5)),
    layer("ConvTranspose1d", 4, 6, 3, 2, 1, 1, groups=2, dilation=2, given=(4, 5)),
    layer("ConvTranspose1d", 4, 6, 3, stride=3, bias=False, given=(2, 4, 5), call={"output_size": [17]}),
    layer("ConvTranspose2d", 3, 6, 3, given=(2, 3, 4, 4)),
    layer("ConvTranspose2d", 3, 6, 3, 2, given=channels_last(normal(2, 3, 4, 4)), note="channels_last"),
    layer("ConvTranspose2d", 4, 6, (3, 2), (2, 3), (1, 0), groups=2, bias=False, given=(4, 4, 5)),
    layer("ConvTranspose2d", 3, 4, 3, stride=2, given=(2, 3, 4, 4), call={"output_size": (2, 4, 9, 10)}),
    layer("ConvTranspose3d", 2, 4, 2, given=(2, 2, 3, 3, 3)),
    layer("ConvTranspose3d", 2, 4, 2, stride=2, padding=1, output_padding=(1, 0, 1), given=(2, 3, 3, 3)),
]
