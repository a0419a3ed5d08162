"""Rotary position embeddings (Su et al., 2021), in halves as in Llama. Axes: L positions, E features of a head."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

KINDS: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
"""Ways to stretch the wavelengths by their names in configs, with the numbers each takes."""


def frequencies(size: int, theta: float, scaling: Mapping[str, Any], device: torch.device) -> Tensor:
    """Radians by which each pair of features turns from one position to the next, (E / 2,).

    Args:
        size: E.
        theta: wavelength of the slowest pair, in positions, over 2 pi.
        scaling: "rope_type", one of ``KINDS``, and its numbers.
        device: where to put them.

    Source: transformers.modeling_rope_utils.

    >>> frequencies(4, 100.0, {"rope_type": "default"}, torch.device("cpu"))
    tensor([1.0000, 0.1000])
    """
    turns = 1.0 / (theta ** (torch.arange(0, size, 2, dtype=torch.float32, device=device) / size))
    if scaling["rope_type"] == "linear":
        return turns / scaling["factor"]
    if scaling["rope_type"] == "llama3":
        return _llama3(turns, **{name: scaling[name] for name in KINDS["llama3"]})
    return turns


def _llama3(
    turns: Tensor,
    factor: float,
    low_freq_factor: float,
    high_freq_factor: float,
    original_max_position_embeddings: int,
) -> Tensor:
    """Long waves are stretched by ``factor``, short ones not at all, and those between by something between."""
    length = original_max_position_embeddings
    waves = 2 * math.pi / turns
    share = (length / waves - low_freq_factor) / (high_freq_factor - low_freq_factor)
    stretched = torch.where(waves > length / low_freq_factor, turns / factor, turns)
    between = (1 - share) * stretched / factor + share * stretched
    middle = ~(waves < length / high_freq_factor) * ~(waves > length / low_freq_factor)
    return torch.where(middle, between, stretched)


def angles(length: int, turns: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine for every position and feature, each (1, L, E)."""
    positions = torch.arange(length, device=turns.device)[None, :, None].float()
    both = torch.cat([positions * turns] * 2, -1)
    return both.cos().to(dtype), both.sin().to(dtype)


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Each pair (feature e, feature e + E / 2) turned by its angle; x is (N, H, L, E)."""
    first, second = x.chunk(2, -1)
    return x * cos.unsqueeze(1) + torch.cat((-second, first), -1) * sin.unsqueeze(1)
