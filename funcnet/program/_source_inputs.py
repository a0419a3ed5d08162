"""What a program takes: the arguments of a forward that hold tensors, by name."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn

from funcnet.core import Net
from funcnet.program._trace_inputs import Inputs


def arguments(module: nn.Module, net: Net | None, inputs: Inputs) -> dict[str, tuple[str, Any]]:
    """Name of an argument -> where it is among those of the forward, and what it is.

    Tensors taken as ``*inputs`` are an argument each, with the names that the body of a net has for them.
    """
    kinds = {name: one.kind for name, one in inspect.signature(module.forward).parameters.items()}
    body = [] if net is None else list(inspect.signature(net.forward).parameters)
    found: dict[str, tuple[str, Any]] = {}
    for name in inputs.used:
        value, place = inputs.arguments[name], inputs.inside(name)
        several = kinds.get(name) is inspect.Parameter.VAR_POSITIONAL
        if not several or not all(isinstance(one, Tensor) for one in value):
            found[place] = (place, value)
            continue
        names = _names(body, len(value), name)
        for at, one in enumerate(value):
            found[inputs.inside(names[at])] = (f"{place}[{at}]", one)
    return found


def _names(body: list[str], count: int, name: str) -> list[str]:
    """Names for so many inputs: those behind ``self`` or ``p`` in a body."""
    own = [one for one in body if one not in ("self", "p", name)]
    if len(own) >= count and len(own) in (len(body), len(body) - 1):
        return own[:count]
    return ["x"] if count == 1 else [f"x{at}" for at in range(count)]
