"""The 64-bit mixing function behind keys, on Python ints and on int64 tensors, with the same result.

Source: the finaliser of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
"""

from __future__ import annotations

from hashlib import blake2b

from torch import Tensor

from funcnet._torch import constant_result

_MASK = (1 << 64) - 1
_C1, _C2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def signed(value: int) -> int:
    """The int64 with the low 64 bits of ``value``.

    >>> signed((1 << 64) - 1), signed(5)
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
    return signed(value ^ (value >> 31))


def mix_tensor(value: Tensor) -> Tensor:
    """Mix every element of an int64 tensor."""
    value = (value ^ _logical_shift(value, 30)) * signed(_C1)
    value = (value ^ _logical_shift(value, 27)) * signed(_C2)
    return value ^ _logical_shift(value, 31)


def _logical_shift(value: Tensor, bits: int) -> Tensor:
    # >> on int64 copies the sign; the mask takes those copies out. CPU uint64 has no shift.
    return (value >> bits) & ((1 << (64 - bits)) - 1)


@constant_result
def path_salt(path: str) -> int:
    """A number below 2**62 that stands for a path, the same on every machine and in every process."""
    salt = _SALTS.get(path)
    if salt is None:
        salt = _SALTS[path] = int.from_bytes(blake2b(path.encode(), digest_size=8).digest(), "little") >> 2
    return salt


_SALTS: dict[str, int] = {}
