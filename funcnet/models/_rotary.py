"""Rotary position embeddings (Su et al., 2021), in halves as in Llama. Axes: L positions, E features of a head."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

ROPE_TYPES: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
"""Ways to stretch the wavelengths: name in configs -> names of the numbers it takes."""


def rotary_frequencies(size: int, theta: float, scaling: Mapping[str, Any], device: torch.device) -> Tensor:
    """Radians by which each pair of features turns from one position to the next, (E / 2,).

    Args:
        size: E.
        theta: wavelength of the slowest pair, in positions, over 2 pi.
        scaling: "rope_type", one of ``ROPE_TYPES``, and its numbers.
        device: the device of the result.

    Source: transformers.modeling_rope_utils.

    >>> rotary_frequencies(4, 100.0, {"rope_type": "default"}, torch.device("cpu"))
    tensor([1.0000, 0.1000])
    """
    frequencies = 1.0 / (theta ** (torch.arange(0, size, 2, dtype=torch.float32, device=device) / size))
    if scaling["rope_type"] == "linear":
        return frequencies / scaling["factor"]
    if scaling["rope_type"] == "llama3":
        return _stretch_long_waves(frequencies, **{name: scaling[name] for name in ROPE_TYPES["llama3"]})
    return frequencies


def _stretch_long_waves(
    frequencies: Tensor,
    factor: float,
    low_freq_factor: float,
    high_freq_factor: float,
    original_max_position_embeddings: int,
) -> Tensor:
    """Llama 3 stretches long waves by ``factor``, short waves not at all, and waves between them in proportion."""
    length = original_max_position_embeddings
    waves = 2 * math.pi / frequencies
    share = (length / waves - low_freq_factor) / (high_freq_factor - low_freq_factor)
    stretched = torch.where(waves > length / low_freq_factor, frequencies / factor, frequencies)
    interpolated = (1 - share) * stretched / factor + share * stretched
    is_medium = ~(waves < length / high_freq_factor) * ~(waves > length / low_freq_factor)
    return torch.where(is_medium, interpolated, stretched)


def rotary_angles(positions: Tensor, frequencies: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the angle of every position and feature, each (N, L, E); positions are (N, L)."""
    angles = torch.cat([positions[:, :, None].float() * frequencies] * 2, -1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Each pair (feature e, feature e + E / 2) turned by its angle; x is (N, H, L, E)."""
    first, second = x.chunk(2, -1)
    return x * cos.unsqueeze(1) + torch.cat((-second, first), -1) * sin.unsqueeze(1)
