"""Input specs such as ``"input_ids=int64[2,12]<100"``, and the tensors that are drawn for them from a seed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import torch
from torch import Tensor

from funcnet._tensors import is_inexact
from funcnet._typing import Shape
from funcnet.compare._errors import CompareError, summarize_error

SYNTAX = (
    'An input is "float32[2,3,64,64]", or "input_ids=int64[2,12]<100" for one given by name, with numbers below 100'
)

_NAMES = """float64 float32 float16 bfloat16 complex64 complex128 int64 int32 int16 int8 uint8 bool"""
_ABBREVIATIONS = {
    "f64": "float64", "double": "float64", "f32": "float32", "float": "float32", "f16": "float16", "half": "float16",
    "bf16": "bfloat16", "c64": "complex64", "c128": "complex128", "i64": "int64", "long": "int64", "i32": "int32",
    "int": "int32", "i16": "int16", "short": "int16", "i8": "int8", "u8": "uint8",
}  # fmt: skip
DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in _NAMES.split()}
DTYPES.update({abbreviation: DTYPES[name] for abbreviation, name in _ABBREVIATIONS.items()})

_PATTERN = re.compile(r"(?:([^\W\d]\w*)\s*=)?\s*(\w+)\s*(?:\[([^\]]*)\])?\s*(?:<\s*(\S+))?")


@dataclass(frozen=True)
class InputSpec:
    """Describes one input tensor of a call.

    Args:
        name: the name of the argument, or None if the input is passed by position.
        upper_bound: integers are drawn below this number.
    """

    name: str | None
    dtype: torch.dtype
    shape: Shape
    upper_bound: int | None = None

    def __str__(self) -> str:
        name = f"{self.name}=" if self.name else ""
        bound = f"<{self.upper_bound}" if self.upper_bound is not None else ""
        return f"{name}{dtype_name(self.dtype)}[{','.join(map(str, self.shape))}]{bound}"

    def draw_tensor(self, generator: torch.Generator) -> Tensor:
        """Draw a tensor: normal numbers, fair coins for bool, or integers from 0 up to the bound (2 by default)."""
        if is_inexact(self.dtype):
            # Not every narrow dtype has a kernel that draws normal numbers.
            draw_dtype = self.dtype if self.dtype.itemsize >= 4 else torch.float32
            return torch.randn(self.shape, dtype=draw_dtype, generator=generator).to(self.dtype)
        upper_bound = 2 if self.upper_bound is None else self.upper_bound
        return torch.randint(upper_bound, self.shape, generator=generator).to(self.dtype)


def parse_input_spec(text: str) -> InputSpec:
    """Parse the description of one input.

    Raises:
        CompareError: if the text is not understood; the message says which part.

    >>> parse_input_spec("input_ids=long[2, 12]<100")
    InputSpec(name='input_ids', dtype=torch.int64, shape=(2, 12), upper_bound=100)
    >>> str(parse_input_spec("f32[8,3]"))
    'float32[8,3]'
    """
    match = _PATTERN.fullmatch(text.strip())
    if match is None:
        raise CompareError(f"the input {text!r} is not understood. {SYNTAX}.")
    name, dtype_name, sizes, bound = match.groups()
    if dtype_name not in DTYPES:
        matches = get_close_matches(dtype_name, DTYPES, 1)
        suggestion = f" Did you mean {matches[0]!r}?" if matches else ""
        raise CompareError(
            f"{dtype_name!r} in the input {text!r} is not a dtype.{suggestion} "
            f"The dtypes are {', '.join(_NAMES.split())}."
        )
    dtype = DTYPES[dtype_name]
    shape = tuple(_parse_integer(size, "size", text) for size in sizes.split(",")) if sizes and sizes.strip() else ()
    if bound is None:
        return InputSpec(name, dtype, shape)
    upper_bound = _parse_integer(bound, "bound", text)
    _check_bound(dtype, upper_bound, text)
    return InputSpec(name, dtype, shape, upper_bound)


def _parse_integer(digits: str, role: str, text: str) -> int:
    digits = digits.strip()
    if not digits.isascii() or not digits.isdigit():
        raise CompareError(f"the {role} {digits!r} in the input {text!r} is not a whole number. {SYNTAX}.")
    return int(digits)


def _check_bound(dtype: torch.dtype, upper_bound: int, text: str) -> None:
    name = dtype_name(dtype)
    if is_inexact(dtype) or dtype is torch.bool:
        raise CompareError(f"< in the input {text!r} bounds integers, and the dtype is {name}. Leave it out.")
    largest = torch.iinfo(dtype).max
    if not 1 <= upper_bound <= largest:
        raise CompareError(
            f"the bound {upper_bound} in the input {text!r} is not in 1 to {largest}, which {name} holds."
        )


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a dtype without ``torch.``, as in ``float32``."""
    return str(dtype).removeprefix("torch.")


def make_inputs(specs: Sequence[InputSpec], seed: int) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Draw the positional and the named inputs, in the order of ``specs``; the global generator is not used.

    Raises:
        CompareError: if two inputs have the same name, or if a tensor does not fit into memory.

    >>> args, kwargs = make_inputs([parse_input_spec("f32[2]"), parse_input_spec("mask=bool[2]")], seed=0)
    >>> len(args), list(kwargs)
    (1, ['mask'])
    """
    generator = torch.Generator().manual_seed(seed)
    args: list[Tensor] = []
    kwargs: dict[str, Tensor] = {}
    for spec in specs:
        if spec.name in kwargs:
            raise CompareError(f"two inputs are named {spec.name!r}. Give each name once.")
        try:
            tensor = spec.draw_tensor(generator)
        except (RuntimeError, TypeError) as error:
            raise CompareError(f"the input {str(spec)!r} cannot be made: {summarize_error(error)}.") from error
        if spec.name is None:
            args.append(tensor)
        else:
            kwargs[spec.name] = tensor
    return tuple(args), kwargs
