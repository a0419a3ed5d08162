"""Sizes of windows: checked when a layer is made, and described in words where an input does not fit."""

from __future__ import annotations

import operator
from typing import TypeAlias

from funcnet.layers._layer import Layer

Size: TypeAlias = "int | tuple[int, ...]"
"""One size for all axes of space, or a tuple of one for each. A record that has been made holds tuples."""

SPATIAL_AXES = {1: "L", 2: "H, W", 3: "D, H, W"}
"""The names of one, two and three axes of space."""


def describe_spatial_input(channels: int | str, axes: int) -> str:
    """Words for an input with this number of axes of space, with or without a batch axis."""
    return f"input (N, {channels}, {SPATIAL_AXES[axes]}) or ({channels}, {SPATIAL_AXES[axes]})"


def size_per_axis(size: object) -> tuple[int, ...]:
    """A size in the record of a layer, where the twin has turned a single int into a tuple with one for each axis."""
    assert isinstance(size, tuple)
    return size


def check_sizes(layer: Layer, axes: int, *names: str, least: int = 1, exactly: bool = False) -> None:
    """Refuse sizes below ``least`` and tuples of a wrong length, which the twin accepts and only a call would refuse.

    With ``exactly`` a tuple has one size for each axis; without, a tuple of one size stands for all axes.
    """
    for name in names:
        value = getattr(layer, name)
        if value is None or isinstance(value, str) or (value == () and name == "stride"):
            continue  # an empty stride means the kernel size
        sizes = value if isinstance(value, tuple) else (value,)
        has_wrong_length = isinstance(value, tuple) and len(sizes) != axes and (exactly or len(sizes) != 1)
        if has_wrong_length or any(size is not None and operator.index(size) < least for size in sizes):
            raise ValueError(
                f"{type(layer).__name__}: {name} is an int or a tuple of {axes}, each at least {least}, got {value!r}."
            )
