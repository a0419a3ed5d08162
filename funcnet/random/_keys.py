"""Keys: jax.random's idea as int64 tensors, and their 64-bit mixing function.

The mixing function exists twice, on Python ints and on int64 tensors, with the same result: numbers that are known are
mixed as ints, because that is cheaper, and Keys within a transform or compiled code are mixed as tensors.

Source: the finaliser of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
"""

from __future__ import annotations

import operator
import threading
from hashlib import blake2b
from typing import NamedTuple

import torch
from torch import Tensor

from funcnet._errors import RandomnessError
from funcnet._torch import assume_constant_result

# Different constants, so that split(k, n)[i] and fold_in(k, i) never coincide.
_SPLIT, _FOLD = 0x5EED5EED5EED5EED, 0x0F01D0F01D0F01D0


def key(seed: int, *, device: torch.device | str | None = None) -> Tensor:
    """A Key made from an int: shape (), dtype int64.

    Raises:
        RandomnessError: if the seed is less than -2**63 or more than 2**64 - 1.

    >>> key(0).shape, torch.equal(key(0), key(0)), torch.equal(key(0), key(1))
    (torch.Size([]), True, False)
    """
    seed = operator.index(seed)
    check_seed(seed)
    return torch.tensor(mix_int(seed + 0x9E3779B97F4A7C15), dtype=torch.int64, device=device)


def split(key: Tensor, n: int = 2) -> Tensor:
    """``n`` Keys that are independent of each other and of ``key``, shape (n,): iterate, unpack or vmap over it.

    Raises:
        RandomnessError: if ``key`` is not a Key.

    >>> left, right = split(key(0))
    >>> split(key(0), 5).shape
    torch.Size([5])
    """
    check_key(key)
    # The order is mix(key) + arange: arange * constant alone corrupts memory when Inductor compiles it.
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


def check_seed(seed: int) -> None:
    """Refuse a number that ``torch.manual_seed`` refuses.

    Raises:
        RandomnessError: if the seed is less than -2**63 or more than 2**64 - 1.
    """
    if not -0x8000_0000_0000_0000 <= seed <= 0xFFFF_FFFF_FFFF_FFFF:
        raise RandomnessError(f"a seed is from -2**63 to 2**64 - 1, as for torch.manual_seed, not {seed}.")


def check_key(key: object) -> None:
    """Refuse a value that is not exactly one Key.

    Raises:
        RandomnessError: if ``key`` is not a tensor of shape () and dtype int64.
    """
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


# --- a Key at a path ---


class KeyAtPath(NamedTuple):
    """A Key and the salt of one path in a net; the operator folds the two together, which a tensor fold does slower."""

    key: Tensor
    salt: int


@assume_constant_result
def path_salt(path: str) -> int:
    """A number below 2**62 that stands for a path, the same on every machine and in every process."""
    salt = _SALTS.get(path)
    if salt is None:
        salt = _SALTS[path] = int.from_bytes(blake2b(path.encode(), digest_size=8).digest(), "little") >> 2
    return salt


_SALTS: dict[str, int] = {}


# --- the generator that a Key seeds ---

_local = threading.local()


def seeded_generator(key: Tensor, salt: int, device: torch.device) -> torch.Generator:
    """The generator of a Key at a salt. A thread has only one per device, so it is good until the next draw."""
    generator = _thread_generator(device)
    # The CPU generator looks at 32 bits of its seed only: two draws in four billion share their numbers.
    return generator.manual_seed(mix_int(int(key.item()) ^ salt) & 0x7FFF_FFFF_FFFF_FFFF)


def _thread_generator(device: torch.device) -> torch.Generator:
    # There is one per thread and device, reseeded for each draw: making a generator costs more than a small mask.
    generators: dict[torch.device, torch.Generator] = _local.__dict__.setdefault("generators", {})
    if device not in generators:
        generators[device] = torch.Generator(device)
    return generators[device]


# --- mixing ---

_MASK = (1 << 64) - 1
_C1, _C2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def to_signed(value: int) -> int:
    """The int64 with the low 64 bits of ``value``.

    >>> to_signed((1 << 64) - 1), to_signed(5)
    (-1, 5)
    """
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


def mix_int(value: int) -> int:
    """Mix one Python int; the result is an int64.

    >>> mix_int(1) == int(mix_tensor(Tensor([1]).long()))
    True
    """
    value &= _MASK
    value = ((value ^ (value >> 30)) * _C1) & _MASK
    value = ((value ^ (value >> 27)) * _C2) & _MASK
    return to_signed(value ^ (value >> 31))


def mix_tensor(value: Tensor) -> Tensor:
    """Mix every element of an int64 tensor."""
    value = (value ^ _shift_right_unsigned(value, 30)) * to_signed(_C1)
    value = (value ^ _shift_right_unsigned(value, 27)) * to_signed(_C2)
    return value ^ _shift_right_unsigned(value, 31)


def _shift_right_unsigned(value: Tensor, bits: int) -> Tensor:
    # >> on int64 copies the sign bit; the mask removes those copies. uint64 has no shift on the CPU.
    return (value >> bits) & ((1 << (64 - bits)) - 1)
