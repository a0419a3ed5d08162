"""The names that torch and the file formats give to dtypes."""

from __future__ import annotations

import torch

SAFETENSORS_DTYPES = {
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
"""The names of dtypes in a safetensors header. complex128 has none; ``_safetensors`` says how it is stored."""

NUMPY_DTYPES = {
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
"""The names of dtypes in a numpy header, without the sign of the byte order."""

DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (*SAFETENSORS_DTYPES.values(), torch.complex128)}
"""Every dtype a checkpoint may hold, by torch's name."""


def dtype_name(dtype: torch.dtype) -> str:
    """Torch's name of a dtype, without ``torch.``.

    >>> dtype_name(torch.bfloat16)
    'bfloat16'
    """
    return str(dtype).removeprefix("torch.")


_SHORT_NAMES = {
    "bf16": "bfloat16",
    "f16": "float16",
    "fp16": "float16",
    "half": "float16",
    "f32": "float32",
    "fp32": "float32",
    "float": "float32",
    "f64": "float64",
    "fp64": "float64",
    "double": "float64",
    "fp8": "float8_e4m3fn",
    "long": "int64",
    "int": "int32",
    "short": "int16",
}


def dtype_from_name(name: str) -> torch.dtype:
    """The dtype that torch calls by a name, or that people call so for short.

    Raises:
        ValueError: if checkpoints do not hold such a dtype; lists those that they hold.

    >>> dtype_from_name("float8_e5m2")
    torch.float8_e5m2
    >>> dtype_from_name("bf16")
    torch.bfloat16
    """
    name = name.removeprefix("torch.")
    name = _SHORT_NAMES.get(name, name)
    if name not in DTYPES:
        raise ValueError(f"{name!r} is not a dtype of checkpoints. There are: {', '.join(DTYPES)}.")
    return DTYPES[name]
