"""What a net declares about its tensors: their shapes and first values, never the tensors themselves."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from funcnet._tensors import is_inexact
from funcnet._typing import Shape
from funcnet.init import as_scheme

if TYPE_CHECKING:
    from funcnet.core._net import Net


@dataclass(frozen=True)
class _Spec:
    """The declaration of one tensor."""

    shape: int | Sequence[int]
    init: Any = 0.0
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", _normalize_shape(self.shape))
        object.__setattr__(self, "init", as_scheme(self.init))

    @property
    def sizes(self) -> Shape:
        """The shape, which is a tuple from the moment that the record is made."""
        return self.shape  # type: ignore[return-value]


@dataclass(frozen=True)
class Param(_Spec):
    """A trainable tensor of a net, found at the same name in ``params``.

    Args:
        shape: its sizes; an int for one axis, ``()`` for a scalar.
        init: first values: a scheme of :mod:`funcnet.init`, a number, or a function of ``torch.nn.init``.
        dtype: default the dtype ``net.init`` is called with.

    >>> Param((3, 4), torch.nn.init.xavier_uniform_)
    Param(shape=(3, 4), init=xavier_uniform(gain=1.0), dtype=None)
    """


@dataclass(frozen=True)
class Buffer(_Spec):
    """A tensor that a call may replace but training does not touch, found at the same name in ``buffers``.

    Args:
        shape, init, dtype: as for :class:`Param`.
        persistent: when false, ``state_dict`` leaves it out, as ``register_buffer(persistent=False)`` does.

    >>> Buffer((), 0, dtype=torch.int64)
    Buffer(shape=(), init=constant(val=0), dtype=torch.int64, persistent=True)
    """

    persistent: bool = True


def _normalize_shape(shape: int | Sequence[int]) -> Shape:
    if isinstance(shape, Tensor):
        raise TypeError(
            "declare a shape, and the tensor as first values: Buffer(tuple(t.shape), t). Nets hold no tensor."
        )
    sizes = tuple(operator.index(size) for size in ((shape,) if isinstance(shape, int) else shape))
    if any(size < 0 for size in sizes):
        raise ValueError(f"a shape has no negative size, got {sizes}.")
    return sizes


def dtype_to_declare(tensor: Tensor) -> torch.dtype | None:
    """The dtype to declare for a tensor like this one; None for inexact ones, which may replace each other."""
    return None if is_inexact(tensor) else tensor.dtype


def make_empty_tensor(spec: Param | Buffer) -> Tensor:
    """A tensor of no content as a spec declares it, as a module holds it: a parameter for a param.

    >>> type(make_empty_tensor(Param(3, dtype=torch.int8))), make_empty_tensor(Buffer(3)).shape
    (<class 'torch.nn.parameter.Parameter'>, torch.Size([3]))
    """
    tensor = torch.empty(spec.shape, dtype=spec.dtype)
    return nn.Parameter(tensor, is_inexact(tensor)) if isinstance(spec, Param) else tensor


class Entry(NamedTuple):
    """One declared tensor and its path in a net.

    >>> import funcnet as fn
    >>> Entry("fc.bias", fn.Param(3, 0.0)).path
    'fc.bias'
    """

    path: str
    spec: Param | Buffer

    @property
    def kind(self) -> str:
        """The tree it lives in: ``"params"`` or ``"buffers"``."""
        return "params" if isinstance(self.spec, Param) else "buffers"


def has_entries(net: Net, kind: type[Param | Buffer]) -> bool:
    """Whether a net, or one inside of it, declares a tensor of this kind."""
    return any(isinstance(spec, kind) for _, child in net.named_nets() for spec in child._own_entries.values())
