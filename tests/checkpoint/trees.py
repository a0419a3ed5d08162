"""Trees of every dtype, and exact comparison of bytes."""

from __future__ import annotations

import torch
from torch import Tensor

from funcnet.checkpoint._dtypes import DTYPES
from funcnet.checkpoint._files import view_as_bytes

ALL_DTYPES = list(DTYPES.values())


def random_tensor(shape, dtype, seed=0):
    """A tensor of random bytes: every bit pattern, NaNs and signed zeros among them; bools are bools."""
    generator = torch.Generator().manual_seed(seed)
    tensor = torch.empty(shape, dtype=dtype)
    count = tensor.numel() * tensor.itemsize
    tensor_bits = torch.randint(0, 2 if dtype is torch.bool else 256, (count,), dtype=torch.uint8, generator=generator)
    view_as_bytes(tensor)[:] = bytes(tensor_bits.tolist())
    return tensor


def tensor_bits(tensor):
    """Shape, dtype and bytes."""
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    return tuple(tensor.shape), tensor.dtype, bytes(view_as_bytes(plain))


def as_comparable(value):
    """A value as nested tuples of types, keys in order, and bits."""
    if isinstance(value, Tensor):
        return tensor_bits(value)
    if isinstance(value, dict):
        return dict, [(type(key), key, as_comparable(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [as_comparable(item) for item in value]
    return type(value), value


def bits_by_name(tensors):
    """The same for every tensor of a mapping, in its order."""
    return {name: tensor_bits(tensor) for name, tensor in tensors.items()}


def tensors_of_all_dtypes():
    """One tensor of each dtype, scalars and empty ones among them."""
    flat = {f"t.{name}": random_tensor((3, 2), dtype, 1) for name, dtype in DTYPES.items()}
    flat |= {f"scalar.{name}": random_tensor((), dtype, 2) for name, dtype in DTYPES.items()}
    return flat | {f"empty.{name}": random_tensor((2, 0), dtype) for name, dtype in DTYPES.items()}
