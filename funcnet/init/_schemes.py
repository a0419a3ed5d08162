"""The schemes of torch.nn.init. Source of every formula: torch/nn/init.py, whose helpers compute fans and gains."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from funcnet._errors import InitError
from funcnet._typing import Shape
from funcnet.random import Rng
from funcnet.random.internals import KeyAtPath, as_rng, contiguous_stride, draw_tensor


@dataclass(frozen=True)
class Draw:
    """Where a scheme's numbers go: one tensor to make, and the source of its draws."""

    rng: Rng
    shape: Shape
    dtype: torch.dtype
    device: torch.device

    def fill(self, kind: str, *numbers: float) -> Tensor:
        """A tensor filled by one of torch's in-place random fills."""
        stride = contiguous_stride(self.shape)
        return draw_tensor(self.rng, self.shape, stride, kind, numbers, self.dtype, self.device)

    def empty(self) -> Tensor:
        return torch.empty(self.shape, dtype=self.dtype, device=self.device)

    def fans(self) -> tuple[int, int]:
        """(fan_in, fan_out) of the shape."""
        return nn.init._calculate_fan_in_and_fan_out(torch.empty(self.shape, device="meta"))


@dataclass(frozen=True)
class Scheme:
    """One way to make initial values. Call it as ``scheme(rng, shape, dtype=, device=)``.

    >>> from funcnet.random import key
    >>> scheme = xavier_uniform(gain=2.0)
    >>> scheme, scheme(key(0), (3, 4)).shape
    (xavier_uniform(gain=2.0), torch.Size([3, 4]))
    """

    make: Callable[..., Tensor]
    options: tuple[tuple[str, Any], ...]

    def __call__(
        self,
        rng: Any,
        shape: Shape,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        source = rng if isinstance(rng, KeyAtPath) else as_rng(rng)
        if source is None:
            raise InitError(f"{self!r} needs rng: an int seed (0) or a Key (funcnet.random.key(0)).")
        draw = Draw(
            source, tuple(shape), dtype or torch.get_default_dtype(), torch.device(device or torch.get_default_device())
        )
        return self.make(draw, **dict(self.options))

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.options)
        return f"{self.make.__name__.removeprefix('_')}({options})"


def as_scheme(init: Any) -> Scheme:
    """A scheme from what a ``Param`` may be given.

    Args:
        init: a scheme; a number; nested lists of numbers, or a tensor of them; torch's own ``nn.init.xavier_uniform_``;
            or a function ``init(rng, shape, dtype=, device=)`` that draws with :mod:`funcnet.random`.

    Raises:
        InitError: if it is none of these.

    >>> as_scheme(0.5), as_scheme(nn.init.orthogonal_), as_scheme(zeros)
    (constant(val=0.5), orthogonal(gain=1), zeros())
    """
    if isinstance(init, Scheme):
        return init
    if isinstance(init, (int, float, complex)):
        return constant(init)
    if isinstance(init, (list, tuple, Tensor)):
        return values(init)
    factory = init
    if getattr(init, "__module__", None) == nn.init.__name__:
        factory = getattr(sys.modules[__name__], init.__name__.removesuffix("_"), None)
    if getattr(factory, "__module__", None) == __name__:
        return factory()
    if callable(factory) and not isinstance(factory, type):
        return Scheme(_by_function, (("function", factory),))
    raise InitError(
        f"cannot initialise from {init!r}: pass a number, nested lists of numbers, a scheme such as "
        f"funcnet.init.normal(std=0.02), a function of torch.nn.init that funcnet.init has too, or a function "
        f"init(rng, shape, dtype=, device=)."
    )


def zeros() -> Scheme:
    """All zeros."""
    return Scheme(_zeros, ())


def ones() -> Scheme:
    """All ones."""
    return Scheme(_ones, ())


def constant(val: complex) -> Scheme:
    """All ``val``."""
    return Scheme(_constant, (("val", val),))


def values(values: Any) -> Scheme:
    """Given numbers: nested lists or tuples, or a tensor, kept as plain numbers; for small fixed kernels.

    >>> values([[1, 0], [0, 1]])(0, (2, 2))
    tensor([[1., 0.],
            [0., 1.]])
    """
    return Scheme(_values, (("values", _as_tuples(values.tolist() if isinstance(values, Tensor) else values)),))


def uniform(a: float = 0.0, b: float = 1.0) -> Scheme:
    """Uniform on [a, b)."""
    return Scheme(_uniform, (("a", a), ("b", b)))


def normal(mean: float = 0.0, std: float = 1.0) -> Scheme:
    """Normal; ``std`` is the standard deviation."""
    return Scheme(_normal, (("mean", mean), ("std", std)))


def trunc_normal(mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0) -> Scheme:
    """Normal, drawn again wherever it falls outside of [a, b]."""
    return Scheme(_trunc_normal, (("mean", mean), ("std", std), ("a", a), ("b", b)))


def xavier_uniform(gain: float = 1.0) -> Scheme:
    """Uniform with standard deviation ``gain * sqrt(2 / (fan_in + fan_out))`` (Glorot and Bengio, 2010)."""
    return Scheme(_xavier_uniform, (("gain", gain),))


def xavier_normal(gain: float = 1.0) -> Scheme:
    """Normal with standard deviation ``gain * sqrt(2 / (fan_in + fan_out))`` (Glorot and Bengio, 2010)."""
    return Scheme(_xavier_normal, (("gain", gain),))


def kaiming_uniform(a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Scheme:
    """Uniform with standard deviation ``gain / sqrt(fan)`` (He et al., 2015); ``a`` is the leaky slope."""
    return Scheme(_kaiming_uniform, (("a", a), ("mode", mode), ("nonlinearity", nonlinearity)))


def kaiming_normal(a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Scheme:
    """Normal with standard deviation ``gain / sqrt(fan)`` (He et al., 2015); ``a`` is the leaky slope."""
    return Scheme(_kaiming_normal, (("a", a), ("mode", mode), ("nonlinearity", nonlinearity)))


def orthogonal(gain: float = 1) -> Scheme:
    """Orthogonal rows or columns (Saxe et al., 2013)."""
    return Scheme(_orthogonal, (("gain", gain),))


def eye() -> Scheme:
    """The identity matrix."""
    return Scheme(_eye, ())


def dirac(groups: int = 1) -> Scheme:
    """Convolution weights that copy their input channels."""
    return Scheme(_dirac, (("groups", groups),))


def _zeros(draw: Draw) -> Tensor:
    return nn.init.zeros_(draw.empty())


def _ones(draw: Draw) -> Tensor:
    return nn.init.ones_(draw.empty())


def _constant(draw: Draw, val: float) -> Tensor:
    return nn.init.constant_(draw.empty(), val)


def _values(draw: Draw, values: Any) -> Tensor:
    made = torch.tensor(values, dtype=draw.dtype, device=draw.device)
    if tuple(made.shape) != draw.shape:
        raise InitError(f"the values given have shape {tuple(made.shape)}, the declared shape is {draw.shape}.")
    return made


def _as_tuples(values: Any) -> Any:
    return tuple(_as_tuples(value) for value in values) if isinstance(values, (list, tuple)) else values


def _by_function(draw: Draw, function: Callable[..., Tensor]) -> Tensor:
    made = function(draw.rng, draw.shape, dtype=draw.dtype, device=draw.device)
    if not isinstance(made, Tensor) or tuple(made.shape) != draw.shape:
        got = tuple(made.shape) if isinstance(made, Tensor) else made
        raise InitError(f"{function!r} was to make a tensor of shape {draw.shape}, got {got!r}.")
    return made


def _uniform(draw: Draw, a: float, b: float) -> Tensor:
    return draw.fill("uniform", a, b)


def _normal(draw: Draw, mean: float, std: float) -> Tensor:
    return draw.fill("normal", mean, std)


def _trunc_normal(draw: Draw, mean: float, std: float, a: float, b: float) -> Tensor:
    return draw.fill("trunc_normal", mean, std, a, b)


def _xavier_uniform(draw: Draw, gain: float) -> Tensor:
    bound = math.sqrt(3.0) * _xavier_std(draw, gain)
    return draw.fill("uniform", -bound, bound)


def _xavier_normal(draw: Draw, gain: float) -> Tensor:
    return draw.fill("normal", 0.0, _xavier_std(draw, gain))


def _xavier_std(draw: Draw, gain: float) -> float:
    return gain * math.sqrt(2.0 / float(sum(draw.fans())))


def _kaiming_uniform(draw: Draw, a: float, mode: str, nonlinearity: str) -> Tensor:
    if 0 in draw.shape:
        return draw.empty()
    bound = math.sqrt(3.0) * _kaiming_std(draw, a, mode, nonlinearity)
    return draw.fill("uniform", -bound, bound)


def _kaiming_normal(draw: Draw, a: float, mode: str, nonlinearity: str) -> Tensor:
    if 0 in draw.shape:
        return draw.empty()
    return draw.fill("normal", 0.0, _kaiming_std(draw, a, mode, nonlinearity))


def _kaiming_std(draw: Draw, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise InitError(f"mode is 'fan_in' or 'fan_out', not {mode!r}.")
    fan = draw.fans()[mode == "fan_out"]
    return nn.init.calculate_gain(nonlinearity, a) / math.sqrt(fan)  # type: ignore[arg-type]


def _orthogonal(draw: Draw, gain: float) -> Tensor:
    return draw.fill("orthogonal", gain)


def _eye(draw: Draw) -> Tensor:
    return nn.init.eye_(draw.empty())


def _dirac(draw: Draw, groups: int) -> Tensor:
    return nn.init.dirac_(draw.empty(), groups)
