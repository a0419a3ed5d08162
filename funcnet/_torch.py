"""Every private name of torch that funcnet relies on, in one place, so that a new torch is checked here first."""

from __future__ import annotations

import torch
from torch._C._functorch import TransformType  # type: ignore[attr-defined]
from torch._functorch.pyfunctorch import retrieve_all_functorch_interpreters

parse_to = torch._C._nn._parse_to  # type: ignore[attr-defined]
"""``nn.Module.to``'s reading of its arguments: (device, dtype, non_blocking, memory_format)."""


def under_vmap() -> bool:
    """Whether the caller runs inside ``torch.vmap``, at any depth."""
    return any(level.key() == TransformType.Vmap for level in retrieve_all_functorch_interpreters())


def under_transform() -> bool:
    """Whether the caller runs inside any torch.func transform."""
    return bool(retrieve_all_functorch_interpreters())
