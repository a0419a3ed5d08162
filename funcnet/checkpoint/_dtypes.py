"""Names of dtypes: torch's own, and those of the formats."""

from __future__ import annotations

import torch

SAFETENSORS = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "I64": torch.int64,
    "U64": torch.uint64,
    "F64": torch.float64,
    "C64": torch.complex64,
}
"""The dtypes of a safetensors header. complex128 has no name there; see ``_safetensors``."""

NUMPY = {
    "b1": torch.bool,
    "u1": torch.uint8,
    "i1": torch.int8,
    "u2": torch.uint16,
    "i2": torch.int16,
    "f2": torch.float16,
    "u4": torch.uint32,
    "i4": torch.int32,
    "f4": torch.float32,
    "u8": torch.uint64,
    "i8": torch.int64,
    "f8": torch.float64,
    "c8": torch.complex64,
    "c16": torch.complex128,
}
"""The dtypes of a numpy header, without the sign of the byte order."""

DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (*SAFETENSORS.values(), torch.complex128)}
"""Every dtype a checkpoint may hold, by torch's name."""


def dtype_name(dtype: torch.dtype) -> str:
    """Torch's name of a dtype.

    >>> dtype_name(torch.bfloat16)
    'bfloat16'
    """
    return str(dtype).removeprefix("torch.")


def dtype_from_name(name: str) -> torch.dtype:
    """The dtype of that name.

    Raises:
        ValueError: if no checkpoint holds such a dtype; lists those there are.

    >>> dtype_from_name("float8_e5m2")
    torch.float8_e5m2
    """
    if name not in DTYPES:
        raise ValueError(f"{name!r} is not a dtype of checkpoints. There are: {', '.join(DTYPES)}.")
    return DTYPES[name]
