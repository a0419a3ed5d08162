"""What may be a part of a net: anything but an object that holds tensors."""

from __future__ import annotations

from torch import Tensor, nn


def check_part(name: str, part: object) -> None:
    """Refuse a part that holds tensors, or that would make the net unhashable."""
    if isinstance(part, nn.Module):
        raise TypeError(
            f"part {name!r} is an nn.Module, which holds its own tensors. Use funcnet.{type(part).__name__}, or "
            f"funcnet.from_module(module) for a net and its params."
        )
    if isinstance(part, Tensor):
        raise TypeError(
            f"part {name!r} is a tensor; a net holds none. Declare Param(shape, init) or Buffer(shape, init)."
        )
    if isinstance(part, (list, dict)):
        kind = "ModuleList" if isinstance(part, list) else "ModuleDict"
        raise TypeError(f"part {name!r} is a {type(part).__name__}: wrap nets in funcnet.{kind}, or pass a tuple.")
    try:
        hash(part)
    except TypeError as error:
        raise TypeError(f"part {name!r} is not hashable: {part!r}. Parts are nets, functions or constants.") from error
