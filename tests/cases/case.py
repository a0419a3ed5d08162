"""What a row of the table is: a module, the net that must be its equal, and what both are called with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import funcnet as fn

Make = Callable[[torch.Generator, torch.dtype, tuple[int, ...]], Any]


@dataclass(frozen=True)
class Input:
    """One input, made from a private generator.

    ``make(generator, dtype, front)`` returns it, with the sizes ``front`` put before its own shape; an input that is
    ``fixed`` is the same for every example.
    """

    make: Make
    fixed: bool = False


def normal(*shape: int) -> Input:
    """Floats around zero."""
    return Input(lambda g, dtype, front: torch.randn((*front, *shape), generator=g, dtype=torch.float64).to(dtype))


def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> Input:
    """Floats between two numbers."""
    return Input(
        lambda g, dtype, front: (
            torch.rand((*front, *shape), generator=g, dtype=torch.float64) * (high - low) + low
        ).to(dtype)
    )


def ints(high: int, *shape: int, low: int = 0) -> Input:
    """Ints in [low, high)."""
    return Input(lambda g, dtype, front: torch.randint(low, high, (*front, *shape), generator=g))


def signs(*shape: int) -> Input:
    """Floats that are 1 or -1."""
    return Input(lambda g, dtype, front: (torch.randint(2, (*front, *shape), generator=g) * 2 - 1).to(dtype))


def given(value: Any) -> Input:
    """Something that is no batch of examples: a mask, lengths, a size; the same in every call."""
    return Input(lambda g, dtype, front: value, fixed=True)


def channels_last(input: Input) -> Input:
    """The same input with its channels innermost in memory, where it has no further axis in front."""

    def make(g: torch.Generator, dtype: torch.dtype, front: tuple[int, ...]) -> Any:
        x = input.make(g, dtype, front)
        return x if front else x.to(memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d)

    return Input(make)


@dataclass(frozen=True)
class Case:
    """A module and the net that must be its equal."""

    name: str
    module: Callable[[], nn.Module]
    net: Callable[[], fn.Net]
    given: tuple[Input, ...]
    call: Mapping[str, Any] = field(default_factory=dict)  # keyword arguments of the call, the same in every call
    dropout: bool = False  # draws at apply in training

    def inputs(self, dtype: torch.dtype = torch.float32, seed: int = 0, examples: int | None = None) -> list[Any]:
        """Inputs made from a private generator; with ``examples``, that many stacked in front."""
        generator = torch.Generator().manual_seed(seed)
        front = () if examples is None else (examples,)
        return [one.make(generator, dtype, () if one.fixed else front) for one in self.given]

    @property
    def in_dims(self) -> tuple[int | None, ...]:
        """Which inputs ``inputs(examples=...)`` stacks: 0, or None for one that is the same for every example."""
        return tuple(None if one.fixed else 0 for one in self.given)


def layer(name: str, /, *args: Any, given: Any, call: Any = None, note: str = "", **kwargs: Any) -> Case:
    """A stock layer: the same call on torch.nn and on funcnet.

    Args:
        name: of the class.
        args, kwargs: what it is made with.
        given: its input or a tuple of inputs; a tuple of ints is the shape of a normal one.
        call: keyword arguments of the call.
        note: tells rows apart that differ in their inputs only.
    """
    options = {key: kwargs.pop(key) for key in ("dropout",) if key in kwargs}
    rows = (given,) if isinstance(given, Input) else given
    rows = (normal(*rows),) if all(isinstance(size, int) for size in rows) else rows
    words = [*(_short(arg) for arg in args), *(f"{key}={_short(value)}" for key, value in kwargs.items())]
    words += [f"{key}={_short(value)}" for key, value in (call or {}).items()]
    label = f"{name}({','.join(words)}){note or _sizes(rows)}".replace(" ", "")
    return Case(
        label,
        lambda: getattr(nn, name)(*args, **kwargs),
        lambda: getattr(fn, name)(*args, **kwargs),
        tuple(rows),
        call or {},
        **options,
    )


def _short(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"tensor{list(value.shape)}"
    return getattr(value, "__name__", str(value))


def _sizes(rows: tuple[Input, ...]) -> str:
    made = (row.make(torch.Generator().manual_seed(0), torch.float32, ()) for row in rows)
    return ",".join("x".join(map(str, x.shape)) for x in made if isinstance(x, Tensor))
