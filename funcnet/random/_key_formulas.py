"""torch's random functions drawn from a Key: each is made of uniform or normal numbers by one formula.

They are formulas and not seeded generators, because those give the same draws in eager calls, under vmap and in
compiled code. With an int seed torch's own kernels draw, in torch's own order.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from funcnet._errors import UnplacedDrawError
from funcnet.random._distributions import contiguous_stride, draw_tensor
from funcnet.random._keys import KeyAtPath


def _draw_uniform(
    rng: Tensor | KeyAtPath, like: Tensor, size: Sequence[int] | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """Numbers in [0, 1) for a tensor of this shape, or of ``size``."""
    shape = tuple(like.shape if size is None else size)
    dtype = dtype or (like.dtype if like.is_floating_point() else torch.get_default_dtype())
    return draw_tensor(rng, shape, contiguous_stride(shape), "uniform", (0.0, 1.0), dtype, like.device)


def _draw_exponential(rng: Tensor | KeyAtPath, like: Tensor, size: Sequence[int] | None = None) -> Tensor:
    return -torch.log1p(-_draw_uniform(rng, like, size))


# --- new tensors ---


def _new_tensor_formula(kind: str, numbers: tuple[float, ...], make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The formula of a function that returns a new tensor, as ``make`` does without filling it."""

    def draw(rng: Tensor | KeyAtPath, *args: Any, requires_grad: bool = False, **kwargs: Any) -> Tensor:
        empty = make(*args, **kwargs)  # torch itself works out size, layout, dtype and device; it costs next to nothing
        result = draw_tensor(rng, empty.shape, empty.stride(), kind, numbers, empty.dtype, empty.device)
        return result.requires_grad_() if requires_grad else result

    return draw


def _draw_randint(rng: Tensor | KeyAtPath, *args: Any, **kwargs: Any) -> Tensor:
    by_name = [kwargs.pop(name) for name in ("low", "high", "size") if name in kwargs]
    *bounds, size = [*args, *by_name]
    low, high = (0, *bounds)[-2:]
    kwargs.pop("requires_grad", None)
    empty = torch.empty(size, **{"dtype": torch.int64, **kwargs})
    numbers = _draw_uniform(rng, empty, dtype=torch.float64)
    return ((numbers * (high - low)).floor() + low).to(empty.dtype)


def _draw_randint_like(rng: Tensor | KeyAtPath, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    by_name = [kwargs.pop(name) for name in ("low", "high") if name in kwargs]
    low, high = (0, *args, *by_name)[-2:]
    kwargs.pop("requires_grad", None)
    numbers = _draw_uniform(rng, input, dtype=torch.float64)
    return ((numbers * (high - low)).floor() + low).to(torch.empty_like(input, **kwargs).dtype)


def _draw_randperm(rng: Tensor | KeyAtPath, n: int, **kwargs: Any) -> Tensor:
    kwargs.pop("requires_grad", None)
    empty = torch.empty(n, **{"dtype": torch.int64, **kwargs})
    return _draw_uniform(rng, empty, dtype=torch.float64).argsort().to(empty.dtype)


def _draw_normal(
    rng: Tensor | KeyAtPath,
    mean: Tensor | float,
    std: Tensor | float = 1.0,
    size: Sequence[int] | None = None,
    **kwargs: Any,
) -> Tensor:
    kwargs.pop("requires_grad", None)
    tensors = [value for value in (mean, std) if isinstance(value, Tensor)]
    empty = torch.empty(size, **kwargs) if size is not None else torch.broadcast_tensors(*tensors)[0]
    dtype = empty.dtype if empty.is_floating_point() else torch.get_default_dtype()
    standard = draw_tensor(rng, empty.shape, contiguous_stride(empty.shape), "normal", (0.0, 1.0), dtype, empty.device)
    return standard * std + mean


def _draw_bernoulli(rng: Tensor | KeyAtPath, input: Tensor, p: float | None = None) -> Tensor:
    return (_draw_uniform(rng, input) < (input if p is None else p)).to(input.dtype)


def _draw_multinomial(rng: Tensor | KeyAtPath, input: Tensor, num_samples: int, replacement: bool = False) -> Tensor:
    # The first to ring among exponential clocks of these rates is the draw; those that ring next are the further draws
    # without replacement.
    if not replacement:
        return (input / _draw_exponential(rng, input)).topk(num_samples, -1).indices
    size = (*input.shape[:-1], num_samples, input.shape[-1])
    return (input.unsqueeze(-2) / _draw_exponential(rng, input, size)).argmax(-1)


# --- in place ---


def fill_tensor(tensor: Tensor, drawn: Tensor) -> Tensor:
    """Write draws to a tensor.

    Raises:
        UnplacedDrawError: if the draws differ from one example of a vmap to the next, and the tensor is one for all.
    """
    try:
        return (tensor if tensor.shape == drawn.shape else tensor.resize_(drawn.shape)).copy_(drawn)
    except RuntimeError as error:
        if "vmap: inplace arithmetic" not in str(error):
            raise
        raise UnplacedDrawError(
            "the code",
            f"has draws that differ from one example to the next, which cannot be written to a tensor of shape "
            f"{tuple(tensor.shape)} that is one for all of them. Draw a new one, torch.rand(size) or "
            f"torch.randn(size), or fill torch.empty(size) or x.new_empty(size).",
        ) from None


def _in_place_formula(rule: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The formula of a method that overwrites its tensor, with what ``rule`` computes."""

    def draw(rng: Tensor | KeyAtPath, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return fill_tensor(input, rule(rng, input, *args, **kwargs))

    return draw


def _fill_uniform(rng: Tensor | KeyAtPath, input: Tensor, low: float = 0.0, high: float = 1.0, **kwargs: Any) -> Tensor:
    low, high = kwargs.get("from", low), kwargs.get("to", high)
    return draw_tensor(rng, input.shape, input.stride(), "uniform", (low, high), input.dtype, input.device)


def _fill_normal(rng: Tensor | KeyAtPath, input: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    return draw_tensor(rng, input.shape, input.stride(), "normal", (mean, std), input.dtype, input.device)


def _fill_bernoulli(rng: Tensor | KeyAtPath, input: Tensor, p: Tensor | float = 0.5) -> Tensor:
    return (_draw_uniform(rng, input) < p).to(input.dtype)


def _fill_exponential(rng: Tensor | KeyAtPath, input: Tensor, lambd: float = 1.0) -> Tensor:
    return _draw_exponential(rng, input) / lambd


def _fill_log_normal(rng: Tensor | KeyAtPath, input: Tensor, mean: float = 1.0, std: float = 2.0) -> Tensor:
    return _fill_normal(rng, input, mean, std).exp()


def _fill_cauchy(rng: Tensor | KeyAtPath, input: Tensor, median: float = 0.0, sigma: float = 1.0) -> Tensor:
    return median + sigma * torch.tan(math.pi * (_draw_uniform(rng, input) - 0.5))


def _fill_geometric(rng: Tensor | KeyAtPath, input: Tensor, p: float) -> Tensor:
    return (torch.log1p(-_draw_uniform(rng, input, dtype=torch.float64)) / math.log1p(-p)).ceil().clamp(min=1)


def _fill_random(rng: Tensor | KeyAtPath, input: Tensor, *bounds: int, **by_name: Any) -> Tensor:
    bounds = (*bounds, *(by_name[name] for name in ("from", "to") if by_name.get(name) is not None))
    limit = 1 << 24 if input.is_floating_point() else _integer_limit(input.dtype)
    low, high = (0, *bounds)[-2:] if bounds else (0, limit)
    numbers = _draw_uniform(rng, input, dtype=torch.float64) * (operator.index(high) - low)
    return numbers.floor() + low


def _integer_limit(dtype: torch.dtype) -> int:
    return 2 if dtype is torch.bool else min(torch.iinfo(dtype).max, 1 << 52)


KEY_FORMULAS: dict[Any, Callable[..., Tensor]] = {
    torch.rand: _new_tensor_formula("uniform", (0.0, 1.0), torch.empty),
    torch.randn: _new_tensor_formula("normal", (0.0, 1.0), torch.empty),
    torch.rand_like: _new_tensor_formula("uniform", (0.0, 1.0), torch.empty_like),
    torch.randn_like: _new_tensor_formula("normal", (0.0, 1.0), torch.empty_like),
    torch.randint: _draw_randint,
    torch.randint_like: _draw_randint_like,
    torch.randperm: _draw_randperm,
    torch.normal: _draw_normal,
    torch.bernoulli: _draw_bernoulli,
    Tensor.bernoulli: _draw_bernoulli,
    torch.multinomial: _draw_multinomial,
    Tensor.multinomial: _draw_multinomial,
    Tensor.uniform_: _in_place_formula(_fill_uniform),
    Tensor.normal_: _in_place_formula(_fill_normal),
    Tensor.bernoulli_: _in_place_formula(_fill_bernoulli),
    Tensor.exponential_: _in_place_formula(_fill_exponential),
    Tensor.log_normal_: _in_place_formula(_fill_log_normal),
    Tensor.cauchy_: _in_place_formula(_fill_cauchy),
    Tensor.geometric_: _in_place_formula(_fill_geometric),
    Tensor.random_: _in_place_formula(_fill_random),
}
"""For each function of torch its formula, ``draw(rng, *args, **kwargs)``."""
