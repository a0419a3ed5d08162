"""What a function that is differentiated returned: the output, and aux beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from funcnet.transforms._variables import Variables


def split_output(function: Callable[..., Any], result: Any, has_aux: bool, function_name: str) -> tuple[Variables, Any]:
    """The tensors in the output of a function, and its aux.

    >>> import torch
    >>> output, aux = split_output(print, ({"y": torch.ones(2), "n": torch.tensor(3)}, "text"), True, "vjp")
    >>> output.names, aux
    (["output['y']"], 'text')
    """
    if not has_aux:
        return Variables({"output": result}, function_name), None
    if not (isinstance(result, (tuple, list)) and len(result) == 2):
        raise ValueError(
            f"{function_name} with has_aux=True needs a pair (output, aux) from {function!r}, got "
            f"{type(result).__name__}."
        )
    return Variables({"output": result[0]}, function_name), result[1]
