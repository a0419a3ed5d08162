"""Draws from whatever ``rng`` a call was given."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from funcnet._context import plainly_eager, under_vmap
from funcnet._errors import RandomnessError
from funcnet._torch import global_state, set_global_state
from funcnet._typing import Shape
from funcnet.random._keys import check_key
from funcnet.random._mix import path_salt
from funcnet.random._op import FILL, draw, seeded


class At(NamedTuple):
    """A Key and the salt of one place in a net; folded inside the operator, which is cheaper than a tensor fold."""

    key: Tensor
    salt: int


class Stream:
    """The sequential draws of ``torch.manual_seed(seed)``, from private generators; one per device, as torch has.

    Args:
        seed: the seed, or ``None`` for torch's global generators: what a module draws from.
    """

    def __init__(self, seed: int | None) -> None:
        self.seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}
        self.lent = False

    def __repr__(self) -> str:
        return f"Stream({self.seed})"

    def generator(self, device: torch.device) -> torch.Generator | None:
        """The generator for a device; ``None`` stands for torch's global one."""
        if self.seed is None:
            return None
        self._refuse_transforms()
        if self.lent:
            return None
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self.seed)
        return self._generators[device]

    @contextmanager
    def as_global(self) -> Iterator[None]:
        """Have torch's global generator make these draws from the first on; for when nobody else can draw from it."""
        assert self.seed is not None, "it is the global generator that makes these draws already"
        before = global_state()
        torch.default_generator.manual_seed(self.seed)
        self.lent = True
        try:
            yield
        finally:
            self.lent = False
            set_global_state(before)

    def _refuse_transforms(self) -> None:
        if torch.compiler.is_compiling():
            where = "torch.compile or torch.export"
        elif under_vmap():
            where = "vmap"
        else:
            return
        raise RandomnessError(
            f"rng={self.seed} cannot draw under {where}: an int seed replays torch's sequential generator, which is "
            f"eager only. Pass a Key: rng=funcnet.random.key({self.seed})."
        )


Rng: TypeAlias = Tensor | At | Stream
"""What the functions of this package draw from: a Key, a Key at a place, or a sequence."""


def as_rng(rng: Any) -> Tensor | Stream | None:
    """The ``rng=`` argument of a call, checked: a Key as it is, an int as the sequence it seeds, ``None`` as ``None``.

    Raises:
        RandomnessError: if it is anything else.

    >>> as_rng(7)
    Stream(7)
    """
    if rng is None or isinstance(rng, Stream):
        return rng
    if isinstance(rng, Tensor):
        check_key(rng)
        return rng
    if not isinstance(rng, bool):
        try:
            return Stream(operator.index(rng))
        except TypeError:
            pass
    raise RandomnessError(f"rng is a Key (funcnet.random.key(0)) or an int seed, not {rng!r}.")


def at_path(rng: Tensor | Stream, path: str, count: int = 0) -> At | Stream:
    """What the ``count``-th draw at ``path`` draws from."""
    return rng if isinstance(rng, Stream) else At(rng, path_salt(path) + count)


def uniform(
    rng: Rng,
    size: Sequence[int],
    low: float = 0.0,
    high: float = 1.0,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Numbers drawn uniformly from [low, high).

    Args:
        rng: a Key, or ``p.rng``.
        size: shape of the result.
        dtype: default ``torch.get_default_dtype()``.
        device: default the device of the Key, else torch's default device.

    >>> from funcnet.random import key
    >>> torch.equal(uniform(key(0), (3,)), uniform(key(0), (3,)))
    True
    """
    return _fresh(rng, size, "uniform", (low, high), dtype, device)


def normal(
    rng: Rng,
    size: Sequence[int],
    mean: float = 0.0,
    std: float = 1.0,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Numbers drawn from the normal distribution; ``std`` is the standard deviation. Arguments as in :func:`uniform`.

    >>> from funcnet.random import key
    >>> normal(key(0), (2, 3)).shape
    torch.Size([2, 3])
    """
    return _fresh(rng, size, "normal", (mean, std), dtype, device)


def bernoulli(
    rng: Rng,
    size: Sequence[int],
    p: float = 0.5,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Ones with probability ``p``, zeros otherwise. Arguments as in :func:`uniform`.

    >>> from funcnet.random import key
    >>> bernoulli(key(0), (4,), 1.0)
    tensor([1., 1., 1., 1.])
    """
    return _fresh(rng, size, "bernoulli", (p,), dtype, device)


def _fresh(
    rng: Rng, size: Sequence[int], kind: str, numbers: Sequence[float], dtype: torch.dtype | None, device: Any
) -> Tensor:
    size = tuple(size)
    if device is None:
        key = rng.key if isinstance(rng, At) else rng
        device = key.device if isinstance(key, Tensor) else torch.get_default_device()
    return filled(
        rng, size, contiguous_stride(size), kind, numbers, dtype or torch.get_default_dtype(), torch.device(device)
    )


def contiguous_stride(size: Sequence[int]) -> Shape:
    """Strides, in elements, of a contiguous tensor.

    >>> contiguous_stride((2, 3, 4))
    (12, 4, 1)
    """
    stride, step = [], 1
    for length in reversed(size):
        stride.append(step)
        step *= max(length, 1)
    return tuple(reversed(stride))


def at_hand(rng: Rng, like: Tensor) -> bool:
    """Whether a draw for this tensor may be made by filling one in place: in plain eager code, not in a trace."""
    key = rng.key if isinstance(rng, At) else rng
    return plainly_eager() and (type(key) is Stream or type(key) is Tensor) and not like.is_meta


def generator_of(rng: Rng, device: torch.device) -> torch.Generator | None:
    """The generator for one draw in plain eager code."""
    if isinstance(rng, Stream):
        return rng.generator(device)
    key, salt = rng if isinstance(rng, At) else (rng, 0)
    return seeded(key, salt, device)


def filled(
    rng: Rng,
    size: Sequence[int],
    stride: Sequence[int],
    kind: str,
    numbers: Sequence[float],
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """A new tensor of this layout, filled by the rule named ``kind`` from ``rng``."""
    if device.type == "meta":
        return torch.empty_strided(size, stride, dtype=dtype, device=device)
    if isinstance(rng, Stream):
        out = torch.empty_strided(size, stride, dtype=dtype, device=device)
        return FILL[kind](out, *numbers, generator=rng.generator(out.device))
    if not isinstance(rng, At):
        check_key(rng)
        rng = At(rng, 0)
    if plainly_eager() and type(rng.key) is Tensor:  # the operator below costs more than a small draw itself
        out = torch.empty_strided(size, stride, dtype=dtype, device=device)
        return FILL[kind](out, *numbers, generator=generator_of(rng, device))
    return draw(rng.key, rng.salt, size, stride, kind, [float(number) for number in numbers], dtype, device)
