"""What a function that is differentiated returned: a scalar or an output, and aux beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from funcnet.transforms._variables import Variables


def scalar_of(
    function: Callable[..., Any], result: object, has_aux: bool, function_name: str = "value_and_grad"
) -> Tensor:
    """The value in what a function returned; refused if a gradient of it makes no sense."""
    if has_aux and not (isinstance(result, (tuple, list)) and len(result) == 2):
        raise ValueError(
            f"{function_name} with has_aux=True needs a pair (value, aux) from {function!r}, got "
            f"{type(result).__name__}."
        )
    value = result[0] if has_aux else result  # type: ignore[index]
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        hint = " Of (value, more) it takes has_aux=True." if isinstance(value, tuple) and not has_aux else ""
        raise ValueError(f"{function_name} needs a scalar tensor from {function!r}, got {got}.{hint}")
    if not value.is_floating_point():
        raise ValueError(f"{function_name} needs a value of real floats from {function!r}, got {value.dtype}.")
    return value


def split_output(function: Callable[..., Any], result: Any, has_aux: bool, function_name: str) -> tuple[Variables, Any]:
    """The tensors in the output of a function, and its aux.

    >>> import torch
    >>> output, aux = split_output(print, ({"y": torch.ones(2), "n": torch.tensor(3)}, "text"), True, "vjp")
    >>> output.tensors, aux
    ([tensor([1., 1.])], 'text')
    """
    if not has_aux:
        return Variables({"output": result}, function_name), None
    if not (isinstance(result, (tuple, list)) and len(result) == 2):
        raise ValueError(
            f"{function_name} with has_aux=True needs a pair (output, aux) from {function!r}, got "
            f"{type(result).__name__}."
        )
    return Variables({"output": result[0]}, function_name), result[1]


def independence_error(function: Callable[..., Any], function_name: str = "value_and_grad") -> ValueError:
    return ValueError(
        f"the value of {function!r} depends on none of the arguments that {function_name} differentiates by, so every "
        f"derivative would be zero. Compute it from the tensors that the function is called with, outside of "
        f"torch.no_grad and torch.inference_mode, and without detach, data, item or NumPy."
    )


_PLAIN_CLASSES = (int, float, complex, str, bytes, type(None), torch.dtype, torch.device)


def check_plain_values(leaves: list[Any]) -> None:
    """Refuse what may hide tensors of a transform, which mean nothing outside of it."""
    for leaf in leaves:
        if not isinstance(leaf, (Tensor, *_PLAIN_CLASSES)):
            raise TypeError(
                f"under a transform, aux of value_and_grad is nested dicts, lists and tuples of tensors and plain "
                f"values, got {type(leaf).__name__}, whose tensors cannot be taken out of the transform."
            )
