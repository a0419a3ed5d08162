"""Shapes out of files, checked before anything is made of them."""

from __future__ import annotations

import math

from funcnet._typing import Shape


def check_shape(shape: object, itemsize: int = 1) -> Shape:
    """A shape from a file, as a tuple.

    Raises:
        ValueError: if it is not a list of sizes, or no memory could hold such a tensor.
    """
    if not isinstance(shape, (list, tuple)) or any(type(size) is not int or size < 0 for size in shape):
        raise ValueError(f"the shape {str(shape)[:80]} is not a list of sizes")
    if len(shape) > 64:
        raise ValueError(f"the shape has {len(shape)} axes")
    if math.prod(size or 1 for size in shape) * itemsize >= 1 << 63:
        raise ValueError(f"the shape {str(list(shape))[:80]} is larger than any memory")
    return tuple(shape)
