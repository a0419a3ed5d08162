"""The schemes of torch.nn.init. The formulas are those of torch/nn/init.py, whose helpers compute fans and gains."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from funcnet._errors import InitError
from funcnet._torch import fans_of
from funcnet._typing import Shape
from funcnet.random import Rng
from funcnet.random.internals import KeyAtPath, as_rng, contiguous_stride, draw_tensor


@dataclass(frozen=True)
class TensorRequest:
    """One tensor that a scheme is asked to make: its shape, dtype and device, and the rng that it draws from."""

    rng: Rng
    shape: Shape
    dtype: torch.dtype
    device: torch.device

    def fill_random(self, kind: str, *numbers: float) -> Tensor:
        """The tensor, filled by one of torch's in-place random fills; ``numbers`` are the arguments of the fill."""
        stride = contiguous_stride(self.shape)
        return draw_tensor(self.rng, self.shape, stride, kind, numbers, self.dtype, self.device)

    def empty(self) -> Tensor:
        """The tensor without values."""
        return torch.empty(self.shape, dtype=self.dtype, device=self.device)

    def fans(self) -> tuple[int, int]:
        """The pair (fan_in, fan_out) of the shape."""
        return fans_of(torch.empty(self.shape, device="meta"))


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
        rng: Tensor | int | Rng | None,
        shape: Shape,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        source = rng if isinstance(rng, KeyAtPath) else as_rng(rng)
        if source is None:
            raise InitError(f"{self!r} needs rng: an int seed (0) or a Key (funcnet.random.key(0)).")
        request = TensorRequest(
            source, tuple(shape), dtype or torch.get_default_dtype(), torch.device(device or torch.get_default_device())
        )
        return self.make(request, **dict(self.options))

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.options)
        return f"{self.make.__name__.removeprefix('_').removeprefix('fill_')}({options})"


def as_scheme(init: object) -> Scheme:
    """A scheme from any of the forms that the ``init`` of a ``Param`` may have.

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
        factory = getattr(sys.modules[__name__], getattr(init, "__name__", "").removesuffix("_"), None)
    if callable(factory) and getattr(factory, "__module__", None) == __name__:
        return factory()
    if callable(factory) and not isinstance(factory, type):
        return Scheme(_fill_by_function, (("function", factory),))
    raise InitError(
        f"cannot initialise from {init!r}: pass a number, nested lists of numbers, a scheme such as "
        f"funcnet.init.normal(std=0.02), a function of torch.nn.init that funcnet.init has too, or a function "
        f"init(rng, shape, dtype=, device=)."
    )


def zeros() -> Scheme:
    """Zeros everywhere.

    >>> zeros()(0, (2,))
    tensor([0., 0.])
    """
    return Scheme(_fill_zeros, ())


def ones() -> Scheme:
    """Ones everywhere.

    >>> ones()(0, (2,))
    tensor([1., 1.])
    """
    return Scheme(_fill_ones, ())


def constant(val: complex) -> Scheme:
    """The number ``val`` everywhere.

    >>> constant(0.5)(0, (2,))
    tensor([0.5000, 0.5000])
    """
    return Scheme(_fill_constant, (("val", val),))


def values(values: Tensor | Sequence[Any]) -> Scheme:
    """The numbers in nested lists or tuples, or in a tensor. They are kept as plain numbers, for small fixed kernels.

    >>> values([[1, 0], [0, 1]])(0, (2, 2))
    tensor([[1., 0.],
            [0., 1.]])
    """
    return Scheme(_fill_values, (("values", nested_tuples(values.tolist() if isinstance(values, Tensor) else values)),))


def uniform(a: float = 0.0, b: float = 1.0) -> Scheme:
    """Draws from the uniform distribution on [a, b).

    >>> bool((uniform(-1, 1)(0, (2, 3)).abs() <= 1).all())
    True
    """
    return Scheme(_fill_uniform, (("a", a), ("b", b)))


def normal(mean: float = 0.0, std: float = 1.0) -> Scheme:
    """Draws from the normal distribution; ``std`` is the standard deviation.

    >>> normal(std=0.02)(0, (2, 3)).shape
    torch.Size([2, 3])
    """
    return Scheme(_fill_normal, (("mean", mean), ("std", std)))


def trunc_normal(mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0) -> Scheme:
    """Draws from the normal distribution, drawn again wherever they fall outside of [a, b].

    >>> bool((trunc_normal(a=-1, b=1)(0, (2, 3)).abs() <= 1).all())
    True
    """
    return Scheme(_fill_trunc_normal, (("mean", mean), ("std", std), ("a", a), ("b", b)))


def xavier_uniform(gain: float = 1.0) -> Scheme:
    """Uniform draws with standard deviation ``gain * sqrt(2 / (fan_in + fan_out))`` (Glorot and Bengio, 2010).

    >>> xavier_uniform()(0, (2, 3)).shape
    torch.Size([2, 3])
    """
    return Scheme(_fill_xavier_uniform, (("gain", gain),))


def xavier_normal(gain: float = 1.0) -> Scheme:
    """Normal draws with standard deviation ``gain * sqrt(2 / (fan_in + fan_out))`` (Glorot and Bengio, 2010).

    >>> xavier_normal(gain=2.0)(0, (2, 3)).shape
    torch.Size([2, 3])
    """
    return Scheme(_fill_xavier_normal, (("gain", gain),))


def kaiming_uniform(a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Scheme:
    """Uniform draws with standard deviation ``gain / sqrt(fan)`` (He et al., 2015); ``a`` is the leaky slope.

    >>> kaiming_uniform(nonlinearity="relu")(0, (2, 3)).shape
    torch.Size([2, 3])
    """
    return Scheme(_fill_kaiming_uniform, (("a", a), ("mode", mode), ("nonlinearity", nonlinearity)))


def kaiming_normal(a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Scheme:
    """Normal draws with standard deviation ``gain / sqrt(fan)`` (He et al., 2015); ``a`` is the leaky slope.

    >>> kaiming_normal(mode="fan_out")(0, (2, 3)).shape
    torch.Size([2, 3])
    """
    return Scheme(_fill_kaiming_normal, (("a", a), ("mode", mode), ("nonlinearity", nonlinearity)))


def orthogonal(gain: float = 1) -> Scheme:
    """A matrix with orthogonal rows or columns (Saxe et al., 2013).

    >>> weight = orthogonal()(0, (2, 3))
    >>> torch.allclose(weight @ weight.T, torch.eye(2), atol=1e-6)
    True
    """
    return Scheme(_fill_orthogonal, (("gain", gain),))


def eye() -> Scheme:
    """The identity matrix.

    >>> eye()(0, (2, 2))
    tensor([[1., 0.],
            [0., 1.]])
    """
    return Scheme(_fill_eye, ())


def dirac(groups: int = 1) -> Scheme:
    """Weights of a convolution that copies its input channels.

    >>> dirac()(0, (2, 2, 3))[0, 0]
    tensor([0., 1., 0.])
    """
    return Scheme(_fill_dirac, (("groups", groups),))


def _fill_zeros(request: TensorRequest) -> Tensor:
    return nn.init.zeros_(request.empty())


def _fill_ones(request: TensorRequest) -> Tensor:
    return nn.init.ones_(request.empty())


def _fill_constant(request: TensorRequest, val: float) -> Tensor:
    return nn.init.constant_(request.empty(), val)


def _fill_values(request: TensorRequest, values: Sequence[Any]) -> Tensor:
    tensor = torch.tensor(values, dtype=request.dtype, device=request.device)
    if tuple(tensor.shape) != request.shape:
        raise InitError(f"the values given have shape {tuple(tensor.shape)}, the declared shape is {request.shape}.")
    return tensor


def nested_tuples(values: object, convert: Callable[[Any], Any] | None = None) -> Any:
    """Nested lists or tuples as nested tuples, which can be hashed; ``convert`` is applied to each number."""
    if isinstance(values, (list, tuple)):
        return tuple(nested_tuples(value, convert) for value in values)
    return values if convert is None else convert(values)


def _fill_by_function(request: TensorRequest, function: Callable[..., Tensor]) -> Tensor:
    result: object = function(request.rng, request.shape, dtype=request.dtype, device=request.device)
    if not isinstance(result, Tensor) or tuple(result.shape) != request.shape:
        got = tuple(result.shape) if isinstance(result, Tensor) else result
        raise InitError(f"{function!r} was to make a tensor of shape {request.shape}, got {got!r}.")
    return result


def _fill_uniform(request: TensorRequest, a: float, b: float) -> Tensor:
    return request.fill_random("uniform", a, b)


def _fill_normal(request: TensorRequest, mean: float, std: float) -> Tensor:
    return request.fill_random("normal", mean, std)


def _fill_trunc_normal(request: TensorRequest, mean: float, std: float, a: float, b: float) -> Tensor:
    return request.fill_random("trunc_normal", mean, std, a, b)


def _fill_xavier_uniform(request: TensorRequest, gain: float) -> Tensor:
    bound = math.sqrt(3.0) * _xavier_std(request, gain)
    return request.fill_random("uniform", -bound, bound)


def _fill_xavier_normal(request: TensorRequest, gain: float) -> Tensor:
    return request.fill_random("normal", 0.0, _xavier_std(request, gain))


def _xavier_std(request: TensorRequest, gain: float) -> float:
    return gain * math.sqrt(2.0 / float(sum(request.fans())))


def _fill_kaiming_uniform(request: TensorRequest, a: float, mode: str, nonlinearity: str) -> Tensor:
    if 0 in request.shape:
        return request.empty()
    bound = math.sqrt(3.0) * _kaiming_std(request, a, mode, nonlinearity)
    return request.fill_random("uniform", -bound, bound)


def _fill_kaiming_normal(request: TensorRequest, a: float, mode: str, nonlinearity: str) -> Tensor:
    if 0 in request.shape:
        return request.empty()
    return request.fill_random("normal", 0.0, _kaiming_std(request, a, mode, nonlinearity))


def _kaiming_std(request: TensorRequest, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise InitError(f"mode is 'fan_in' or 'fan_out', not {mode!r}.")
    fan = request.fans()[mode == "fan_out"]
    return nn.init.calculate_gain(nonlinearity, a) / math.sqrt(fan)  # type: ignore[arg-type]


def _fill_orthogonal(request: TensorRequest, gain: float) -> Tensor:
    return request.fill_random("orthogonal", gain)


def _fill_eye(request: TensorRequest) -> Tensor:
    return nn.init.eye_(request.empty())


def _fill_dirac(request: TensorRequest, groups: int) -> Tensor:
    return nn.init.dirac_(request.empty(), groups)
