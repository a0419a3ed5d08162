"""Arrays and numbers of numpy in a pickle, read without numpy."""

from __future__ import annotations

import math
from typing import Any

import torch

from funcnet.checkpoint._dtypes import DTYPES, NUMPY_DTYPES
from funcnet.checkpoint._files import view_as_bytes
from funcnet.checkpoint._pickles._opaque import SCALAR_CALLS, Opaque
from funcnet.checkpoint._pickles._pickled_tensors import PickledStorage, PickledTensor
from funcnet.checkpoint._stored_shapes import check_shape

_CORES = ("numpy.core", "numpy._core")  # of numpy before 2, and since
_RECONSTRUCT = {f"{core}.multiarray._reconstruct" for core in _CORES}
_FROM_BUFFER = {f"{core}.numeric._frombuffer" for core in _CORES}


def read_array(obj: Opaque) -> PickledTensor | None:
    """The array that an object of a pickle is, as a tensor; None if it is none, or one that torch has no dtype for."""
    name = obj.function.function if obj.how == "call" and isinstance(obj.function, Opaque) else None
    try:
        if name in _RECONSTRUCT and obj.args[0].function == "numpy.ndarray":
            (state,) = [change.value for change in obj.changes]
            _, shape, dtype, is_column_major, data = state
        elif name in _FROM_BUFFER and not obj.changes:
            data, dtype, shape, order = obj.args
            is_column_major = order == "F"
        else:
            return None
        return _make_array(data, dtype, shape, is_column_major)
    except (AttributeError, IndexError, TypeError, ValueError):
        return None


def _make_array(data: Any, dtype: Any, shape: Any, is_column_major: Any) -> PickledTensor | None:
    kind = _read_dtype(dtype)
    if kind is None:
        return None
    torch_dtype, is_big_endian = kind
    sizes = check_shape(shape, torch_dtype.itemsize)
    raw = data.encode("utf-8") if isinstance(data, str) else bytes(data)
    count = math.prod(sizes)
    if len(raw) != count * torch_dtype.itemsize:
        return None
    raw = swap_bytes(raw, torch_dtype) if is_big_endian else raw
    steps = [math.prod(sizes[:axis] if is_column_major else sizes[axis + 1 :]) for axis in range(len(sizes))]
    storage = PickledStorage("UntypedStorage", "", len(raw), raw)
    return PickledTensor(storage, 0, sizes, tuple(steps), torch_dtype)


def swap_bytes(raw: bytes, dtype: torch.dtype) -> bytes:
    """The bytes of numbers of the other byte order."""
    itemsize = dtype.itemsize // (2 if dtype.is_complex else 1)  # of complex numbers each part is turned
    if not raw:
        return raw
    return bytes(view_as_bytes(torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(-1, itemsize).flip(1)))


def _read_dtype(dtype: Any) -> tuple[torch.dtype, bool] | None:
    """The dtype that an object of a pickle is, and whether its numbers are big-endian; None if torch has none."""
    if not isinstance(dtype, Opaque) or dtype.type_name != "numpy.dtype" or not dtype.args:
        return None
    code = dtype.args[0]
    if isinstance(code, Opaque):  # a class, as those of ml_dtypes
        return (found, False) if (found := DTYPES.get(code.type_name.rpartition(".")[2])) else None
    code = code.decode("latin-1") if isinstance(code, bytes) else str(code)
    order = code[0] if code[:1] in ("<", ">", "|", "=") else "="
    for change in dtype.changes:
        order = change.value[1].decode() if isinstance(change.value[1], bytes) else change.value[1]
    torch_dtype = NUMPY_DTYPES.get(code.lstrip("<>|="))
    return None if torch_dtype is None else (torch_dtype, order == ">")


def plain_value(obj: Opaque) -> bool | int | float | complex | str:
    """The number or text of Python that equals a number or text of numpy.

    Raises:
        TypeError: if an object is neither.
    """
    name = obj.function.function if obj.how == "call" and isinstance(obj.function, Opaque) else None
    if name in SCALAR_CALLS and len(obj.args) == 2:
        dtype, data = obj.args
        raw = data.encode("utf-8") if isinstance(data, str) else data
        if isinstance(raw, bytes):
            kind = _read_dtype(dtype)
            if kind is not None and len(raw) == kind[0].itemsize:
                raw = swap_bytes(raw, kind[0]) if kind[1] else raw
                value: bool | int | float | complex = torch.frombuffer(bytearray(raw), dtype=kind[0]).item()
                return value
            if isinstance(dtype, Opaque) and dtype.args and str(dtype.args[0]).lstrip("<=").startswith("U"):
                return raw.decode("utf-32-le").rstrip("\0")
    raise TypeError(f"a {obj.type_name}")
