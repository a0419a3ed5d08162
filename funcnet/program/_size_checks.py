"""What tensor inputs must be for a capture to hold: their dtypes, their sizes, and the conditions on free sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sympy  # type: ignore[import-untyped]

from funcnet._errors import ConversionError
from funcnet._tensors import is_inexact
from funcnet._torch_tracer import (
    print_condition,
)
from funcnet._typing import Tree
from funcnet.program._capture import Captured
from funcnet.program._code_lines import FROM_MODULE
from funcnet.program._inputs import Inputs, TensorInput
from funcnet.program._traced import Check
from funcnet.tree import flatten

FreeAxes = Sequence[Sequence[int]]
"""For each tensor input, the axes whose sizes stay free."""
SizeExpressions = Mapping[Any, str]
"""Symbol of a free size -> the first expression that reads it from the inputs."""


def size_checks(captured: Captured, inputs: Inputs, free: FreeAxes, relaxed: bool = False) -> list[Check]:
    """Dtype and sizes of every tensor input, and the conditions on free sizes that the capture relied on.

    ``relaxed`` drops conditions that exclude size 1 and that only torch's tracer asked for.

    Raises:
        ConversionError: if the capture relied on a number in a tensor.
    """
    sizes = [
        _sizes_of(captured, number, tensor, axes)
        for number, (tensor, axes) in enumerate(zip(inputs.tensors, free, strict=True))
    ]
    names: dict[Any, str] = {}
    for tensor, tensor_sizes in zip(inputs.tensors, sizes, strict=True):
        for axis, size in enumerate(tensor_sizes):
            if isinstance(size, sympy.Symbol):
                names.setdefault(size, f"{tensor.text}.shape[{axis}]")
    checks = [_tensor_check(tensor, sizes, names) for tensor, sizes in zip(inputs.tensors, sizes, strict=True)]
    for guard in captured.guards:
        symbols = guard.condition.free_symbols
        holds_at_size_one = guard.condition.subs(dict.fromkeys(symbols, 1)) != False  # noqa: E712 - a sympy expression
        if relaxed and not guard.asked_by_module and not holds_at_size_one:
            continue
        if not symbols <= names.keys():
            raise ConversionError(
                f"what the forward does at {guard.where or 'an unknown line'} depends on numbers in a tensor. "
                f"{FROM_MODULE}"
            )
        text = _print_condition(guard.condition, names)
        where = f", as at {guard.where}" if guard.asked_by_module and guard.where else ""
        checks.append(
            Check(", ".join(sorted(names[symbol] for symbol in symbols)), f"{text}{where}", text, holds_at_size_one)
        )
    return checks


def dtype_checks(params: Tree) -> list[Check]:
    """A check that params have the dtype of the capture, which may be written in the code."""
    for path, tensor in flatten(params).items():
        if is_inexact(tensor):
            reader = "params" + "".join(f'["{key}"]' for key in path.split("."))
            dtype = str(tensor.dtype)
            return [Check(reader, dtype.removeprefix("torch."), f"_p._{reader}.dtype is {dtype}")]
    return []


def _sizes_of(captured: Captured, index: int, tensor: TensorInput, axes: Sequence[int]) -> list[Any]:
    """Ints, expressions of free sizes, and None for a size without any condition."""
    known = captured.input_sizes[index] if index < len(captured.input_sizes) else ()
    sizes: list[Any] = []
    for axis, example in enumerate(tensor.value.shape):
        size = known[axis] if known else None
        sizes.append(example if isinstance(size, int) or axis not in axes else size)
    return sizes


def _tensor_check(tensor: TensorInput, sizes: Sequence[Any], names: SizeExpressions) -> Check:
    conditions: list[tuple[int, str]] = []
    words: list[str] = []
    for axis, size in enumerate(sizes):
        if size is None or names.get(size) == f"{tensor.text}.shape[{axis}]":
            words.append("any" if size is None else _describe_size(size, names))
        else:
            conditions.append((axis, str(size) if isinstance(size, int) else _print_condition(size, names)))
            words.append(str(size) if isinstance(size, int) else _describe_size(size, names))
    reader, dtype = tensor.text, str(tensor.value.dtype)
    condition = f"_isinstance({reader}, _Tensor) and {reader}.dtype is {dtype}"
    shape = f"({', '.join(words)}{',' if len(words) == 1 else ''})"
    condition += f" and {_shape_condition(reader, len(sizes), conditions)}"
    return Check(reader, f"{dtype.removeprefix('torch.')} {shape}", condition)


def _shape_condition(reader: str, rank: int, sizes: Sequence[tuple[int, str]]) -> str:
    """The expression for a rank and the sizes of some axes: one comparison where all but the first are known."""
    axes = [axis for axis, _ in sizes]
    if axes and axes in (list(range(rank)), list(range(1, rank))):
        cut = "" if len(axes) == rank else "[1:]"
        shape = ", ".join(size for _, size in sizes)
        return f"{reader}.shape{cut} == ({shape}{',' if len(axes) == 1 else ''})"
    return " and ".join([f"{reader}.dim() == {rank}", *(f"{reader}.shape[{axis}] == {size}" for axis, size in sizes)])


def _print_condition(expression: Any, names: SizeExpressions) -> str:
    symbols = {symbol: sympy.Symbol(reader) for symbol, reader in names.items()}
    return print_condition(expression.xreplace(symbols))


def _describe_size(size: Any, names: SizeExpressions) -> str:
    """A free size in words: the first axis 0 is the batch."""
    batch = next((symbol for symbol, reader in names.items() if reader.endswith("[0]")), None)
    return _print_condition(size, {**names, batch: "batch"})
