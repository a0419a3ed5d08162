"""Torch's kernels that compute wrong numbers without an error, and the calls in which they can.

The table for readers is ``funcnet/layers/WRONG_KERNELS.md``; ``tests/kernels/test_wrong_kernels.py`` says when torch
has mended one of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from funcnet._torch import weight_norm


@dataclass(frozen=True)
class WrongKernel:
    """One fault of a kernel of torch.

    Attributes:
        number: its row in the table.
        fault: what is wrong, and when: a clause.
        remedy: what to write instead: a clause.
        can_bite: whether it may show in a call with these arguments, by name.
    """

    number: str
    fault: str
    remedy: str
    can_bite: Callable[[Mapping[str, Any]], bool]


def _is_recorded(arguments: Mapping[str, Any]) -> bool:
    return torch.is_grad_enabled() and any(
        isinstance(value, Tensor) and value.requires_grad for value in arguments.values()
    )


def _has_space_on_cpu(arguments: Mapping[str, Any]) -> bool:
    input = arguments.get("input")
    return isinstance(input, Tensor) and input.is_cpu and input.dim() > 3 and _is_recorded(arguments)


def _reads_odd_strides(arguments: Mapping[str, Any]) -> bool:
    return _has_space_on_cpu(arguments) and 1 in arguments["input"].shape


def _sees_one_example(arguments: Mapping[str, Any]) -> bool:
    return _has_space_on_cpu(arguments) and 1 in arguments["input"].shape[:2]


def _antialiases_one_column(arguments: Mapping[str, Any]) -> bool:
    input = arguments.get("input")
    if not arguments.get("antialias") or not isinstance(input, Tensor) or not input.is_cpu or input.dim() != 4:
        return False
    size, factor = arguments.get("size"), arguments.get("scale_factor")
    if size is None:
        factors = factor if isinstance(factor, (tuple, list)) else (factor or 1,) * 2
        size = [int(length * scale) for length, scale in zip(input.shape[2:], factors, strict=True)]
    height, width = (size, size) if isinstance(size, int) else size
    is_misread = width == 1 < height != input.shape[2]
    return is_misread and input.is_contiguous(memory_format=torch.channels_last)


INSTANCE_NORM = WrongKernel(
    "W2",
    "its gradients are wrong if the gradient of the output is channels-last and the batch is of one",
    "F.instance_norm(x.contiguous().flatten(2), ...).view(x.shape), or the layer of funcnet",
    _sees_one_example,
)
BATCH_NORM = WrongKernel(
    "W3",
    "its gradients are wrong if an axis of size 1 has a stride that hides the layout, as flatten(2).transpose(1, 2) of "
    "one image gives to the gradient",
    "F.batch_norm(x.flatten(2), ...).view(x.shape) for contiguous x, or the layer of funcnet",
    _reads_odd_strides,
)
WEIGHT_NORM = WrongKernel(
    "W4",
    "its second derivatives by v are wrong",
    "funcnet.from_module, in which they are right, or g * (v / torch.norm_except_dim(v, 2, dim))",
    _is_recorded,
)
INTERPOLATE = WrongKernel(
    "W5",
    "with antialias=True its values are wrong for a channels-last input and an output one column wide",
    "x.contiguous() before it",
    _antialiases_one_column,
)

WRONG_KERNELS: dict[Any, WrongKernel] = {
    F.instance_norm: INSTANCE_NORM,
    F.batch_norm: BATCH_NORM,
    weight_norm: WEIGHT_NORM,
    F.interpolate: INTERPOLATE,
}
"""Function of torch -> its fault. Those of directional derivatives (W1, W8) show in no call alone, and are not here."""

_PARAMETERS = {
    function: tuple(inspect.signature(function).parameters)
    for function in WRONG_KERNELS
    if inspect.isfunction(function)
} | {weight_norm: ("v", "g", "dim")}


def find_wrong_kernel(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> WrongKernel | None:
    """The fault of torch that may show in a call of one of its functions, if there is one.

    >>> x = torch.ones(1, 2, 4, 4, requires_grad=True)
    >>> find_wrong_kernel(F.instance_norm, (x,), {}).number
    'W2'
    >>> find_wrong_kernel(F.instance_norm, (x.expand(3, -1, -1, -1),), {}) is None
    True
    """
    kernel = WRONG_KERNELS.get(function)
    if kernel is None:
        return None
    arguments = {**dict(zip(_PARAMETERS[function], args, strict=False)), **kwargs}
    return kernel if kernel.can_bite(arguments) else None


class WrongKernelWatch(TorchFunctionMode):
    """A context that notes which calls of torch's functions may compute wrong numbers.

    Attributes:
        faults: the function's name and its fault, in the order of the calls.
    """

    def __init__(self) -> None:
        super().__init__()
        self.faults: dict[str, WrongKernel] = {}

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kernel = find_wrong_kernel(func, args, kwargs or {})
        if kernel is not None:
            self.faults[func.__name__.strip("_")] = kernel
        return func(*args, **(kwargs or {}))
