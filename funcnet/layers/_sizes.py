"""Sizes of windows and of what comes in, checked when a layer is made and said when an input does not fit."""

from __future__ import annotations

import operator
from typing import Any

from funcnet.layers._layer import Layer

Size = Any  # an int, a tuple of ints, or (adaptive pooling) None for "as the input"

SPATIAL_AXES = {1: "L", 2: "H, W", 3: "D, H, W"}
"""The names of one, two and three axes of space."""


def describe_spatial_input(channels: Any, axes: int) -> str:
    """In words: an input with or without a batch axis."""
    return f"input (N, {channels}, {SPATIAL_AXES[axes]}) or ({channels}, {SPATIAL_AXES[axes]})"


def check_sizes(layer: Layer, axes: int, *names: str, least: int = 1, exactly: bool = False) -> None:
    """Refuse what the twin takes and only fails with when it is called: sizes below ``least``, or too many of them.

    Where not ``exactly`` one size for each axis is wanted, a tuple of one stands for all.
    """
    for name in names:
        value = getattr(layer, name)
        if value is None or isinstance(value, str) or (value == () and name == "stride"):
            continue  # an empty stride is the kernel size
        sizes = value if isinstance(value, tuple) else (value,)
        wrong = isinstance(value, tuple) and len(sizes) != axes and (exactly or len(sizes) != 1)
        if wrong or any(size is not None and operator.index(size) < least for size in sizes):
            raise ValueError(
                f"{type(layer).__name__}: {name} is an int or a tuple of {axes}, each at least {least}, got {value!r}."
            )
