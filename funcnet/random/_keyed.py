"""torch's random functions drawn from a Key: each made of uniform or normal numbers by one formula.

A formula, and not a seeded generator: the same draws in eager calls, under vmap and in compiled code. With an int seed
torch's own kernels draw, in torch's own order.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from funcnet.random._draws import At, contiguous_stride, filled

_LAYOUT = ("dtype", "device", "layout", "pin_memory", "memory_format", "names")


def _uniform(rng: Tensor | At, like: Tensor, size: Sequence[int] | None = None, dtype: Any = None) -> Tensor:
    """Numbers in [0, 1) for a tensor of this shape, or of ``size``."""
    shape = tuple(like.shape if size is None else size)
    dtype = dtype or (like.dtype if like.is_floating_point() else torch.get_default_dtype())
    return filled(rng, shape, contiguous_stride(shape), "uniform", (0.0, 1.0), dtype, like.device)


def _exponential(rng: Tensor | At, like: Tensor, size: Sequence[int] | None = None) -> Tensor:
    return -torch.log1p(-_uniform(rng, like, size))


# --- new tensors ---


def _fresh(kind: str, numbers: tuple[float, ...], make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def draw(rng: Tensor | At, *args: Any, requires_grad: bool = False, **kwargs: Any) -> Tensor:
        empty = make(*args, **kwargs)  # torch itself works out size, layout, dtype and device; it costs next to nothing
        made = filled(rng, empty.shape, empty.stride(), kind, numbers, empty.dtype, empty.device)
        return made.requires_grad_() if requires_grad else made

    return draw


def _randint(rng: Tensor | At, *args: Any, **kwargs: Any) -> Tensor:
    named = [kwargs.pop(name) for name in ("low", "high", "size") if name in kwargs]
    *bounds, size = [*args, *named]
    low, high = (0, *bounds)[-2:]
    kwargs.pop("requires_grad", None)
    empty = torch.empty(size, **{"dtype": torch.int64, **kwargs})
    numbers = _uniform(rng, empty, dtype=torch.float64)
    return ((numbers * (high - low)).floor() + low).to(empty.dtype)


def _randperm(rng: Tensor | At, n: int, **kwargs: Any) -> Tensor:
    kwargs.pop("requires_grad", None)
    empty = torch.empty(n, **{"dtype": torch.int64, **kwargs})
    return _uniform(rng, empty, dtype=torch.float64).argsort().to(empty.dtype)


def _normal(rng: Tensor | At, mean: Any, std: Any = 1.0, size: Any = None, **kwargs: Any) -> Tensor:
    kwargs.pop("requires_grad", None)
    tensors = [one for one in (mean, std) if isinstance(one, Tensor)]
    empty = torch.empty(size, **kwargs) if size is not None else torch.broadcast_tensors(*tensors)[0]
    dtype = empty.dtype if empty.is_floating_point() else torch.get_default_dtype()
    made = filled(rng, empty.shape, contiguous_stride(empty.shape), "normal", (0.0, 1.0), dtype, empty.device)
    return made * std + mean


def _bernoulli(rng: Tensor | At, input: Tensor, p: float | None = None) -> Tensor:
    return (_uniform(rng, input) < (input if p is None else p)).to(input.dtype)


def _multinomial(rng: Tensor | At, input: Tensor, num_samples: int, replacement: bool = False) -> Tensor:
    # The first to ring among exponential clocks of these rates; the next ones are draws without replacement.
    if not replacement:
        return (input / _exponential(rng, input)).topk(num_samples, -1).indices
    size = (*input.shape[:-1], num_samples, input.shape[-1])
    return (input.unsqueeze(-2) / _exponential(rng, input, size)).argmax(-1)


# --- in place ---


def _filling(rule: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def draw(rng: Tensor | At, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return input.copy_(rule(rng, input, *args, **kwargs))

    return draw


def _uniform_(rng: Tensor | At, input: Tensor, low: float = 0.0, high: float = 1.0, **kwargs: Any) -> Tensor:
    low, high = kwargs.get("from", low), kwargs.get("to", high)
    return filled(rng, input.shape, input.stride(), "uniform", (low, high), input.dtype, input.device)


def _normal_(rng: Tensor | At, input: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    return filled(rng, input.shape, input.stride(), "normal", (mean, std), input.dtype, input.device)


def _bernoulli_(rng: Tensor | At, input: Tensor, p: Any = 0.5) -> Tensor:
    return (_uniform(rng, input) < p).to(input.dtype)


def _exponential_(rng: Tensor | At, input: Tensor, lambd: float = 1.0) -> Tensor:
    return _exponential(rng, input) / lambd


def _log_normal_(rng: Tensor | At, input: Tensor, mean: float = 1.0, std: float = 2.0) -> Tensor:
    return _normal_(rng, input, mean, std).exp()


def _cauchy_(rng: Tensor | At, input: Tensor, median: float = 0.0, sigma: float = 1.0) -> Tensor:
    return median + sigma * torch.tan(math.pi * (_uniform(rng, input) - 0.5))


def _geometric_(rng: Tensor | At, input: Tensor, p: float) -> Tensor:
    return (torch.log1p(-_uniform(rng, input, dtype=torch.float64)) / math.log1p(-p)).ceil().clamp(min=1)


def _random_(rng: Tensor | At, input: Tensor, *bounds: int, **named: Any) -> Tensor:
    bounds = (*bounds, *(named[name] for name in ("from", "to") if named.get(name) is not None))
    low, high = (0, *bounds)[-2:] if bounds else (0, 1 << 24 if input.is_floating_point() else _largest(input.dtype))
    numbers = _uniform(rng, input, dtype=torch.float64) * (operator.index(high) - low)
    return numbers.floor() + low


def _largest(dtype: torch.dtype) -> int:
    return 2 if dtype is torch.bool else min(torch.iinfo(dtype).max, 1 << 52)


BY_KEY: dict[Any, Callable[..., Tensor]] = {
    torch.rand: _fresh("uniform", (0.0, 1.0), torch.empty),
    torch.randn: _fresh("normal", (0.0, 1.0), torch.empty),
    torch.rand_like: _fresh("uniform", (0.0, 1.0), torch.empty_like),
    torch.randn_like: _fresh("normal", (0.0, 1.0), torch.empty_like),
    torch.randint: _randint,
    torch.randperm: _randperm,
    torch.normal: _normal,
    torch.bernoulli: _bernoulli,
    Tensor.bernoulli: _bernoulli,
    torch.multinomial: _multinomial,
    Tensor.multinomial: _multinomial,
    Tensor.uniform_: _filling(_uniform_),
    Tensor.normal_: _filling(_normal_),
    Tensor.bernoulli_: _filling(_bernoulli_),
    Tensor.exponential_: _filling(_exponential_),
    Tensor.log_normal_: _filling(_log_normal_),
    Tensor.cauchy_: _filling(_cauchy_),
    Tensor.geometric_: _filling(_geometric_),
    Tensor.random_: _filling(_random_),
}
"""torch's function -> ``draw(rng, *args, **kwargs)``."""
