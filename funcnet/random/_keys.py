"""Keys: what jax.random calls them, as int64 tensors."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor

from funcnet._errors import RandomnessError
from funcnet.random._mix import mix_int, mix_tensor

# Different constants, so that split(k, n)[i] and fold_in(k, i) never coincide.
_SPLIT, _FOLD = 0x5EED5EED5EED5EED, 0x0F01D0F01D0F01D0


def key(seed: int, *, device: torch.device | str | None = None) -> Tensor:
    """A Key made from an int: shape (), dtype int64.

    >>> key(0).shape, torch.equal(key(0), key(0)), torch.equal(key(0), key(1))
    (torch.Size([]), True, False)
    """
    return torch.tensor(mix_int(operator.index(seed) + 0x9E3779B97F4A7C15), dtype=torch.int64, device=device)


def split(key: Tensor, n: int = 2) -> Tensor:
    """``n`` Keys that are independent of each other and of ``key``, shape (n,): iterate, unpack or vmap over it.

    Raises:
        RandomnessError: if ``key`` is not a Key.

    >>> left, right = split(key(0))
    >>> split(key(0), 5).shape
    torch.Size([5])
    """
    check_key(key)
    # mix(key) + arange, in this order: arange * constant alone corrupts memory when Inductor compiles it.
    return mix_tensor(mix_tensor(key ^ _SPLIT) + torch.arange(n, device=key.device))


def fold_in(key: Tensor, data: int | Tensor) -> Tensor:
    """The Key for ``data`` (a step, a path's hash, an example's index) under ``key``; shape ().

    Args:
        key: a Key.
        data: an int, or an int64 tensor of shape ().

    Raises:
        RandomnessError: if ``key`` is not a Key.

    >>> torch.equal(fold_in(key(0), 3), fold_in(key(0), torch.tensor(3)))
    True
    """
    check_key(key)
    return mix_tensor(mix_tensor(key ^ _FOLD) + data)


def check_key(key: Any) -> None:
    """Refuse what is not one Key."""
    if not isinstance(key, Tensor):
        raise RandomnessError(f"expected a Key, got {key!r}. Make one with funcnet.random.key(seed).")
    if key.dtype != torch.int64 or key.dim():
        hint = (
            "Take one of them, or vmap over them."
            if key.dtype == torch.int64
            else "Make one with funcnet.random.key(seed)."
        )
        raise RandomnessError(
            f"expected one Key, a tensor of shape () and dtype torch.int64, "
            f"got shape {tuple(key.shape)} and dtype {key.dtype}. {hint}"
        )
