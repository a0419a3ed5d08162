"""Rows of layers that pad, resize and move elements."""

from __future__ import annotations

from tests.cases.case import channels_last, layer, normal

IMAGES = channels_last(normal(2, 3, 4, 5))
VOLUMES = channels_last(normal(1, 2, 3, 3, 4))

PADDING = [
    row
    for name, extra in (
        ("ConstantPad", {"value": 1.5}),
        ("ZeroPad", {}),
        ("ReflectionPad", {}),
        ("ReplicationPad", {}),
        ("CircularPad", {}),
    )
    for row in (
        layer(f"{name}1d", (1, 2), **extra, given=(2, 3, 4)),
        layer(f"{name}1d", 1, **extra, given=(3, 4)),
        layer(f"{name}2d", (1, 2, 0, 1), **extra, given=IMAGES, note="channels_last"),
        layer(f"{name}2d", 2, **extra, given=(2, 3, 4)),
        layer(f"{name}3d", 1, **extra, given=VOLUMES, note="channels_last"),
        layer(f"{name}3d", (1, 0, 2, 1, 0, 1), **extra, given=(2, 3, 3, 4)),
    )
]

SHAPES = [
    *PADDING,
    layer("ConstantPad1d", (-1, 2), -3, given=(2, 3, 4)),
    layer("ZeroPad2d", (1, -1, -2, 0), given=(2, 3, 4, 5)),
    layer("CircularPad2d", (-1, 2, 0, 1), given=(2, 3, 4, 5)),
    layer("ReflectionPad1d", (-1, 2), given=(2, 3, 4)),
    layer("PixelShuffle", 2, given=(2, 8, 3, 2)),
    layer("PixelShuffle", upscale_factor=2, given=channels_last(normal(2, 4, 3, 2)), note="channels_last"),
    layer("PixelShuffle", 3, given=(9, 2, 2)),
    layer("PixelUnshuffle", 2, given=channels_last(normal(2, 3, 4, 6)), note="channels_last"),
    layer("PixelUnshuffle", downscale_factor=3, given=(2, 3, 6)),
    layer("ChannelShuffle", 2, given=(2, 4, 3)),
    layer("ChannelShuffle", groups=3, given=channels_last(normal(2, 6, 3, 2)), note="channels_last"),
    layer("Unfold", 2, given=(2, 3, 4, 5)),
    layer("Unfold", (2, 3), dilation=(2, 1), padding=1, stride=(1, 2), given=IMAGES, note="channels_last"),
    layer("Unfold", 3, given=(2, 4, 5)),
    layer("Fold", (4, 5), 2, given=(2, 12, 12)),
    layer("Fold", (4, 5), (2, 3), dilation=(2, 1), padding=1, stride=(1, 2), given=(2, 12, 12)),
    layer("Fold", 4, 2, stride=2, given=(8, 4)),
    layer("Upsample", 7, given=(2, 3, 4)),
    layer("Upsample", None, 2, given=IMAGES, note="channels_last"),
    layer("Upsample", scale_factor=(1.5, 2, 1), given=(1, 2, 3, 3, 4)),
    layer("Upsample", scale_factor=1.7, mode="linear", given=(2, 3, 4)),
    layer("Upsample", scale_factor=1.7, mode="linear", recompute_scale_factor=True, given=(2, 3, 4)),
    layer("Upsample", (3, 7), mode="bilinear", given=IMAGES, note="channels_last"),
    layer("Upsample", (3, 7), mode="bilinear", align_corners=True, given=(2, 3, 4, 5)),
    layer("Upsample", scale_factor=0.6, mode="bicubic", given=(2, 3, 4, 5)),
    layer("Upsample", (5, 2, 6), mode="trilinear", align_corners=False, given=(1, 2, 3, 3, 4)),
    layer("Upsample", (3, 7), mode="area", given=(2, 3, 4, 5)),
    layer("Upsample", scale_factor=1.7, mode="nearest-exact", given=(2, 3, 4)),
    layer("Upsample", (3, 7), mode="nearest-exact", given=IMAGES, note="channels_last"),
    layer("Upsample", scale_factor=(0.6, 2.3, 1.5), mode="nearest-exact", given=(1, 2, 3, 3, 4)),
    layer("UpsamplingNearest2d", (3, 7), given=(2, 3, 4, 5)),
    layer("UpsamplingNearest2d", scale_factor=2, given=IMAGES, note="channels_last"),
    layer("UpsamplingBilinear2d", 6, given=IMAGES, note="channels_last"),
    layer("UpsamplingBilinear2d", scale_factor=(1.5, 2), given=(2, 3, 4, 5)),
]
