"""Names for the shapes of data that travel between the folders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from torch import Tensor

Tree: TypeAlias = dict[str, Any]
"""A nested dict whose leaves are tensors: params, buffers, gradients."""

Flat: TypeAlias = dict[str, Tensor]
"""The same leaves by joined path, as in a state_dict: ``{"conv1.weight": ...}``."""

Shape: TypeAlias = tuple[int, ...]

Selector: TypeAlias = "bool | str | Callable[[str], bool] | list[str] | tuple[str, ...]"
"""Which paths to take; see :func:`funcnet.tree.select`."""

TreeLike: TypeAlias = Mapping[str, Any]
