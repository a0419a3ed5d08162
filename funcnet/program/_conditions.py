"""What tensor inputs must be for a capture to hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sympy  # type: ignore[import-untyped]
from torch.utils._sympy.printers import PythonPrinter

from funcnet._errors import ConversionError
from funcnet.program._capture import FROM_MODULE, Captured
from funcnet.program._code import Check
from funcnet.program._trace_inputs import Inputs, TensorInput
from funcnet.tree import flatten

Free = Sequence[Sequence[int]]
"""For each tensor input, the axes whose sizes stay free."""


def shape_checks(captured: Captured, inputs: Inputs, free: Free, relaxed: bool) -> list[Check]:
    """Dtype and sizes of every tensor input, and the conditions on free sizes that the capture relied on.

    Args:
        captured, inputs: the capture and what it was made with.
        free: the axes that were to stay free.
        relaxed: leave out what only torch's tracer asked for and excludes size 1.

    Raises:
        ConversionError: if it relied on a number that is in a tensor.
    """
    pairs = zip(inputs.tensors, free, strict=True)
    sizes = [_sizes(captured, number, tensor, axes) for number, (tensor, axes) in enumerate(pairs)]
    names: dict[Any, str] = {}  # of each free size, the first place where it is
    for tensor, each in zip(inputs.tensors, sizes, strict=True):
        for axis, size in enumerate(each):
            if isinstance(size, sympy.Symbol):
                names.setdefault(size, f"{tensor.place}.shape[{axis}]")
    checks = [_of_tensor(tensor, each, names) for tensor, each in zip(inputs.tensors, sizes, strict=True)]
    for guard in captured.guards:
        symbols = guard.condition.free_symbols
        for_ones = guard.condition.subs(dict.fromkeys(symbols, 1)) != False  # noqa: E712 - a sympy expression
        if relaxed and not guard.asked and not for_ones:
            continue
        if not symbols <= names.keys():
            raise ConversionError(
                f"what the forward does at {guard.where or 'an unknown line'} depends on numbers in a tensor. "
                f"{FROM_MODULE}"
            )
        text = _printed(guard.condition, names)
        where = f", as at {guard.where}" if guard.asked and guard.where else ""
        place = ", ".join(sorted(names[symbol] for symbol in symbols))
        checks.append(Check(place, f"{text}{where}", text, for_ones))
    return checks


def dtype_check(params: Any) -> list[Check]:
    """A check that params have the dtype they had: which one a forward computes in may be written in its code."""
    for path, tensor in flatten(params).items():
        if tensor.is_floating_point() or tensor.is_complex():
            place = "params" + "".join(f'["{key}"]' for key in path.split("."))
            dtype = str(tensor.dtype)
            return [Check(place, dtype.removeprefix("torch."), f"_p._{place}.dtype is {dtype}")]
    return []


def _sizes(captured: Captured, index: int, tensor: TensorInput, axes: Sequence[int]) -> list[Any]:
    """Ints, expressions of free sizes, and None for a size that nothing was asked of."""
    known = captured.sizes[index] if index < len(captured.sizes) else ()
    found: list[Any] = []
    for axis, example in enumerate(tensor.value.shape):
        size = known[axis] if known else None
        found.append(example if isinstance(size, int) or axis not in axes else size)
    return found


def _of_tensor(tensor: TensorInput, sizes: Sequence[Any], names: Mapping[Any, str]) -> Check:
    conditions, words = [], []
    for axis, size in enumerate(sizes):
        if size is None or names.get(size) == f"{tensor.place}.shape[{axis}]":
            words.append("any" if size is None else _word(size, names))
        else:
            conditions.append((axis, str(size) if isinstance(size, int) else _printed(size, names)))
            words.append(str(size) if isinstance(size, int) else _word(size, names))
    dtype = str(tensor.value.dtype)
    condition = _of_shape(tensor.place, len(sizes), conditions)
    text = f"_isinstance({tensor.place}, _Tensor) and {tensor.place}.dtype is {dtype} and {condition}"
    shape = f"({', '.join(words)}{',' if len(words) == 1 else ''})"
    return Check(tensor.place, f"{dtype.removeprefix('torch.')} {shape}", text)


def _of_shape(place: str, rank: int, conditions: Sequence[tuple[int, str]]) -> str:
    """An expression for a rank and the sizes of some axes; one comparison where all but the first are known."""
    axes = [axis for axis, _ in conditions]
    if rank and axes in (list(range(rank)), list(range(1, rank))):
        sizes = ", ".join(size for _, size in conditions)
        cut = "" if len(axes) == rank else "[1:]"
        if axes:
            return f"{place}.shape{cut} == ({sizes}{',' if len(axes) == 1 else ''})"
    return " and ".join(
        [f"{place}.dim() == {rank}", *(f"{place}.shape[{axis}] == {size}" for axis, size in conditions)]
    )


def _printed(expression: Any, names: Mapping[Any, str]) -> str:
    return PythonPrinter().doprint(expression.xreplace({key: sympy.Symbol(place) for key, place in names.items()}))


def _word(size: Any, names: Mapping[Any, str]) -> str:
    """A free size in words: the first axis 0 is the batch."""
    batch = next((key for key, place in names.items() if place.endswith("[0]")), None)
    return _printed(size, {**names, batch: "batch"})
