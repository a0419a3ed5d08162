"""Bits compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor


def differences(left: Any, right: Any, path: str = "") -> Iterator[str]:
    """Where two outputs differ in structure, dtype, shape or bits; any NaN is any NaN."""
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        if left.dtype != right.dtype or left.shape != right.shape:
            yield f"{path or 'the output'}: {tuple(left.shape)} {left.dtype} against {tuple(right.shape)} {right.dtype}"
        elif not bool(((left == right) | ((left != left) & (right != right))).all()):
            yield f"{path or 'the output'}: {int((left != right).sum())} of {left.numel()} elements"
    elif type(left) is not type(right):
        yield f"{path or 'the output'}: {type(left).__name__} against {type(right).__name__}"
    elif isinstance(left, Mapping):
        if list(left) != list(right):
            yield f"{path or 'the output'}: keys {list(left)} against {list(right)}"
        else:
            for key in left:
                yield from differences(left[key], right[key], f"{path}[{key!r}]")
    elif isinstance(left, (list, tuple)):
        if len(left) != len(right):
            yield f"{path or 'the output'}: {len(left)} items against {len(right)}"
        else:
            for index, (one, other) in enumerate(zip(left, right, strict=True)):
                yield from differences(one, other, f"{path}[{index}]")
    elif dataclasses.is_dataclass(left):
        for field in dataclasses.fields(left):
            yield from differences(getattr(left, field.name), getattr(right, field.name), f"{path}.{field.name}")
    elif left != right and not (left != left and right != right):
        yield f"{path or 'the output'}: {left!r:.40} against {right!r:.40}"
