"""Rows of the normalisations."""

from __future__ import annotations

from tests.cases.case import channels_last, layer, normal

NORMS = [
    layer("BatchNorm1d", 3, momentum=None, track_running_stats=True, given=(4, 3, 5)),
    layer("BatchNorm3d", 3, momentum=0.0, given=channels_last(normal(2, 3, 3, 3, 3)), note="channels_last"),
    layer("SyncBatchNorm", 3, given=(4, 3)),
    layer("SyncBatchNorm", 3, momentum=None, bias=False, given=(2, 3, 4, 4)),
    layer("SyncBatchNorm", 3, 1e-3, 0.3, False, False, given=(2, 3, 2, 2, 2)),
    layer("InstanceNorm1d", 3, given=(2, 3, 5)),
    layer("InstanceNorm1d", 3, affine=True, track_running_stats=True, given=(3, 5)),
    layer("InstanceNorm2d", 3, track_running_stats=True, momentum=0.3, given=(4, 3, 5, 4)),
    layer("InstanceNorm2d", 3, affine=True, given=channels_last(normal(2, 3, 4, 4)), note="channels_last"),
    layer("InstanceNorm2d", 3, affine=True, bias=False, eps=1e-3, given=(3, 4, 4)),
    layer("InstanceNorm3d", 3, affine=True, track_running_stats=True, momentum=None, given=(2, 3, 2, 3, 2)),
    layer("InstanceNorm3d", 3, given=(3, 2, 3, 2)),
    layer("GroupNorm", 3, 6, bias=False, given=(2, 6)),
    layer("RMSNorm", 5, given=(4, 5)),
    layer("RMSNorm", [3, 5], eps=1e-3, given=(2, 3, 5)),
    layer("RMSNorm", 5, elementwise_affine=False, given=(5,)),
    layer("LocalResponseNorm", 3, given=(2, 5, 4)),
    layer("LocalResponseNorm", 2, 0.5, 0.5, 2.0, given=(2, 5, 3, 3)),
    layer("LocalResponseNorm", 3, 0.5, given=channels_last(normal(2, 5, 3, 3)), note="channels_last"),
    layer("LocalResponseNorm", 5, 0.5, given=(2, 3, 2, 2, 2)),
    layer("CrossMapLRN2d", 3, given=(2, 5, 3, 3)),
    layer("CrossMapLRN2d", 4, 0.5, 0.6, 2.0, given=(2, 7, 3, 2)),
    layer("CrossMapLRN2d", 5, 0.5, given=channels_last(normal(2, 3, 4, 4)), note="channels_last"),
]
