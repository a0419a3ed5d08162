"""``"input_ids=int64[2,12]<100"``: inputs in words, made from a seed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor

from funcnet._typing import Shape
from funcnet.compare._errors import CompareError, summarize_error

SYNTAX = (
    'An input is "float32[2,3,64,64]", or "input_ids=int64[2,12]<100" for one given by name, with numbers below 100'
)

_NAMES = """float64 float32 float16 bfloat16 complex64 complex128 int64 int32 int16 int8 uint8 bool"""
_SHORT = {
    "f64": "float64", "double": "float64", "f32": "float32", "float": "float32", "f16": "float16", "half": "float16",
    "bf16": "bfloat16", "c64": "complex64", "c128": "complex128", "i64": "int64", "long": "int64", "i32": "int32",
    "int": "int32", "i16": "int16", "short": "int16", "i8": "int8", "u8": "uint8",
}  # fmt: skip
DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in _NAMES.split()}
DTYPES.update({short: DTYPES[name] for short, name in _SHORT.items()})

_PATTERN = re.compile(r"(?:([^\W\d]\w*)\s*=)?\s*(\w+)\s*(?:\[([^\]]*)\])?\s*(?:<\s*(\S+))?")


@dataclass(frozen=True)
class InputSpec:
    """One input: its name if it is given by name, dtype, shape, and the bound its integers stay below."""

    name: str | None
    dtype: torch.dtype
    shape: Shape
    below: int | None = None

    def __str__(self) -> str:
        name = f"{self.name}=" if self.name else ""
        below = f"<{self.below}" if self.below is not None else ""
        return f"{name}{str(self.dtype).removeprefix('torch.')}[{','.join(map(str, self.shape))}]{below}"

    def make(self, generator: torch.Generator) -> Tensor:
        """A tensor: normal numbers, fair coins for bool, and integers from 0 up to ``below`` (2 unless told)."""
        if self.dtype.is_floating_point or self.dtype.is_complex:
            wide = self.dtype if self.dtype.itemsize >= 4 else torch.float32
            return torch.randn(self.shape, dtype=wide, generator=generator).to(self.dtype)
        below = 2 if self.below is None else self.below
        return torch.randint(below, self.shape, generator=generator).to(self.dtype)


def parse_input_spec(text: str) -> InputSpec:
    """Read an input.

    Raises:
        CompareError: says which part is not understood.

    >>> parse_input_spec("input_ids=long[2, 12]<100")
    InputSpec(name='input_ids', dtype=torch.int64, shape=(2, 12), below=100)
    >>> str(parse_input_spec("f32[8,3]"))
    'float32[8,3]'
    """
    match = _PATTERN.fullmatch(text.strip())
    if match is None:
        raise CompareError(f"the input {text!r} is not understood. {SYNTAX}.")
    name, dtype, sizes, below = match.groups()
    if dtype not in DTYPES:
        near = get_close_matches(dtype, DTYPES, 1)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        raise CompareError(
            f"{dtype!r} in the input {text!r} is not a dtype.{meant} The dtypes are {', '.join(_NAMES.split())}."
        )
    shape = tuple(_number(size, "size", text) for size in sizes.split(",")) if sizes and sizes.strip() else ()
    spec = InputSpec(name, DTYPES[dtype], shape, None if below is None else _number(below, "bound", text))
    if below is not None:
        _check_bound(spec.dtype, int(below), text)
    return spec


def _number(text: str, what: str, whole: str) -> int:
    if not text.strip().isascii() or not text.strip().isdigit():
        raise CompareError(f"the {what} {text.strip()!r} in the input {whole!r} is not a whole number. {SYNTAX}.")
    return int(text)


def _check_bound(dtype: torch.dtype, below: int, text: str) -> None:
    name = str(dtype).removeprefix("torch.")
    if dtype.is_floating_point or dtype.is_complex or dtype is torch.bool:
        raise CompareError(f"< in the input {text!r} bounds integers, and the dtype is {name}. Leave it out.")
    most = torch.iinfo(dtype).max
    if not 1 <= below <= most:
        raise CompareError(f"the bound {below} in the input {text!r} is not in 1 to {most}, which {name} holds.")


def make_inputs(specs: Sequence[InputSpec], seed: int) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    """The positional and the named inputs, drawn from a generator of their own in the order given.

    Raises:
        CompareError: if a name comes twice, or a tensor does not fit into memory.

    >>> args, kwargs = make_inputs([parse_input_spec("f32[2]"), parse_input_spec("mask=bool[2]")], seed=0)
    >>> len(args), list(kwargs)
    (1, ['mask'])
    """
    generator = torch.Generator().manual_seed(seed)
    args: list[Tensor] = []
    kwargs: dict[str, Any] = {}
    for spec in specs:
        if spec.name in kwargs:
            raise CompareError(f"two inputs are named {spec.name!r}. Give each name once.")
        try:
            tensor = spec.make(generator)
        except (RuntimeError, TypeError) as error:
            raise CompareError(f"the input {str(spec)!r} cannot be made: {summarize_error(error)}.") from error
        if spec.name is None:
            args.append(tensor)
        else:
            kwargs[spec.name] = tensor
    return tuple(args), kwargs
