"""New tensors of random numbers: uniform, normal and 0 or 1."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import overload

import torch
from torch import Tensor

from funcnet._context import is_plainly_eager
from funcnet._tensors import is_inexact
from funcnet._typing import Shape, Tree, TreeLike
from funcnet.random._draw_operator import FILL_METHODS, draw_operator
from funcnet.random._generators import Rng, Stream, private_generator
from funcnet.random._keys import KeyAtPath, check_key, path_salt
from funcnet.random._rows_of_draws import draw_own_rows, splitting_run
from funcnet.tree import map_with_path


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
    return _draw_contiguous(rng, size, "uniform", (low, high), dtype, device)


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
    return _draw_contiguous(rng, size, "normal", (mean, std), dtype, device)


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
    return _draw_contiguous(rng, size, "bernoulli", (p,), dtype, device)


@overload
def normal_like(rng: Rng, tree: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor: ...
@overload
def normal_like(rng: Rng, tree: TreeLike, mean: float = 0.0, std: float = 1.0) -> Tree: ...
def normal_like(rng: Rng, tree: Tensor | TreeLike, mean: float = 0.0, std: float = 1.0) -> Tensor | Tree:
    """Numbers drawn from the normal distribution for every leaf of a tree: noise, a direction, a tangent.

    A leaf's numbers depend on the Key and on its path, so other leaves do not matter. Shapes, dtypes,
    devices and strides are those of the leaves. Integer leaves get zeros, because they have no direction; ``None`` and
    ``ABSENT`` stay as they are.

    Args:
        rng: a Key, or ``p.rng``.
        tree: nested dicts of tensors, or one tensor.
        mean: of the numbers.
        std: their standard deviation; of a complex number, that of its absolute value.

    >>> from funcnet.random import key
    >>> noise = normal_like(key(0), {"weight": torch.ones(2, 3), "steps": torch.tensor(7)})
    >>> noise["weight"].shape, noise["steps"]
    (torch.Size([2, 3]), tensor(0))
    """

    def draw_leaf(path: str, leaf: Tensor) -> Tensor:
        if not is_inexact(leaf):
            return torch.zeros_like(leaf)
        layout = torch.empty_like(leaf, device="meta")
        draws = _rng_of_leaf(rng, path)
        return draw_tensor(draws, layout.shape, layout.stride(), "normal", (mean, std), leaf.dtype, leaf.device)

    return draw_leaf("", tree) if isinstance(tree, Tensor) else map_with_path(draw_leaf, tree)


def _rng_of_leaf(rng: Rng, path: str) -> Rng:
    if isinstance(rng, Stream):
        return rng
    key, salt = rng if isinstance(rng, KeyAtPath) else (rng, 0)
    check_key(key)
    return KeyAtPath(key, salt ^ path_salt(path))


def _draw_contiguous(
    rng: Rng,
    size: Sequence[int],
    kind: str,
    numbers: Sequence[float],
    dtype: torch.dtype | None,
    device: torch.device | str | None,
) -> Tensor:
    size = tuple(size)
    if device is None:
        key = rng.key if isinstance(rng, KeyAtPath) else rng
        device = key.device if isinstance(key, Tensor) else torch.get_default_device()
    dtype = dtype or torch.get_default_dtype()
    return draw_tensor(rng, size, contiguous_stride(size), kind, numbers, dtype, torch.device(device))


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


def draw_tensor(
    rng: Rng,
    size: Sequence[int],
    stride: Sequence[int],
    kind: str,
    numbers: Sequence[float],
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """A new tensor of this layout, filled from ``rng`` by the method of ``FILL_METHODS`` that ``kind`` names."""
    if device.type == "meta":
        return torch.empty_strided(size, stride, dtype=dtype, device=device)
    if isinstance(rng, Stream):
        out = torch.empty_strided(size, stride, dtype=dtype, device=device)
        return FILL_METHODS[kind](out, *numbers, generator=rng.generator(out.device))
    if not isinstance(rng, KeyAtPath):
        check_key(rng)
        rng = KeyAtPath(rng, 0)
    run = splitting_run()
    if run is not None:
        return draw_own_rows(run, size, stride, partial(_draw_from_key, rng, kind, numbers, dtype, device))
    return _draw_from_key(rng, kind, numbers, dtype, device, size, stride)


def _draw_from_key(
    rng: KeyAtPath,
    kind: str,
    numbers: Sequence[float],
    dtype: torch.dtype,
    device: torch.device,
    size: Sequence[int],
    stride: Sequence[int],
) -> Tensor:
    if is_plainly_eager() and type(rng.key) is Tensor:  # the operator below costs more than a small draw itself
        out = torch.empty_strided(size, stride, dtype=dtype, device=device)
        return FILL_METHODS[kind](out, *numbers, generator=private_generator(rng, device))
    return draw_operator(rng.key, rng.salt, size, stride, kind, [float(number) for number in numbers], dtype, device)
