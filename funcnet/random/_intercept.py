"""Answer the draws inside a body that calls torch's own random functions, from the ``rng`` of the call.

``F.dropout(x, training=p.training)`` in a body, or anything in a foreign module's forward, would draw from the global
generator. Within :class:`Intercept` it draws from the call's ``rng``, by the first of these that applies:

* the dropout family, attention included, is computed by funcnet's own dropout: every transform, every ``rng``;
* ``rand``, ``normal``, ``bernoulli``, ``multinomial``, ``uniform_`` ... draw from a Key by formulas of their own:
  every transform too;
* what takes ``generator=`` is given a private one;
* kernels that draw inside (attention, recurrent layers) run with the global generator lent: it is set to the
  call's numbers under a lock and put back. Eager only.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from funcnet._context import beyond_one_gradient, under_vmap
from funcnet._errors import RandomnessError
from funcnet._torch import constant_result, show_to_modes
from funcnet._torch_functions import DRAWS_INSIDE, TAKES_GENERATOR
from funcnet.random._attention import scaled_dot_product_attention
from funcnet.random._draws import At, Rng, Stream
from funcnet.random._dropout import alpha_dropout, dropout, feature_alpha_dropout, feature_dropout
from funcnet.random._keyed import BY_KEY
from funcnet.random._op import seeded
from funcnet.random._rrelu import rrelu

Draws = Callable[[], Rng]


class Intercept(TorchFunctionMode):
    """A context in which torch's random functions draw from ``draws()``, called once per draw.

    Compiled code is answered too, while it is traced. ``drew`` says whether anything did, and ``learned`` whether a
    foreign forward found out where, so that next time only that part of it is within an Intercept.
    """

    def __init__(self, draws: Draws | None = None) -> None:
        super().__init__()
        if torch.compiler.is_compiling():
            _shown()
        self.draws = draws
        self.drew = False
        self.learned = False

    def _next(self) -> Rng:
        self.drew = True
        if self.draws is None:
            raise RandomnessError("Intercept was given nothing to draw from.")
        return self.draws()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in _INTERCEPTED:  # nearly all of them: one look has to do
            return func(*args, **kwargs) if kwargs else func(*args)
        kwargs = kwargs or {}
        if "generator" in kwargs and kwargs["generator"] is None:
            kwargs = {name: value for name, value in kwargs.items() if name != "generator"}
        if func in _OWN and "generator" not in kwargs:
            return _OWN[func](self._next, *args, **kwargs)
        if func in TAKES_GENERATOR and "generator" not in kwargs:
            return _given_generator(self._next(), func, args, kwargs)
        if func in _MADE_OF_THEM and not torch.compiler.is_compiling():  # Dynamo stops in it if a mode is on
            with self:
                return _MADE_OF_THEM[func](*args, **kwargs)
        if func in DRAWS_INSIDE and DRAWS_INSIDE[func](*args, **kwargs):
            return _lent(self._next(), func, args, kwargs)
        return func(*args, **kwargs)


def drawn(func: Callable[..., Any], *args: Any, rng: Rng, **kwargs: Any) -> Any:
    """One call of a function of torch's that draws, with its draws from ``rng``, as within :class:`Intercept`.

    Args:
        func: ``torch.rand``, ``F.dropout2d`` or another.
        args, kwargs: what it is called with.
        rng: a Key, or ``p.rng``.

    >>> drawn(torch.rand, 3, rng=Stream(0))
    tensor([0.4963, 0.7682, 0.0885])
    """
    return Intercept(lambda: rng).__torch_function__(func, (), args, kwargs)


@constant_result
def _shown() -> bool:
    show_to_modes(_INTERCEPTED)
    return True


# --- computed by funcnet ---


def _dropout(rule: Callable[..., Tensor], default: bool = True) -> Callable[..., Tensor]:
    """A function of the dropout family as torch.nn.functional calls it; ``default`` is that of its ``training``."""

    def apply(draws: Draws, input: Tensor, p: float = 0.5, training: bool = default, inplace: bool = False) -> Tensor:
        result = rule(input, p, training, rng=draws() if training and p else None)
        return input.copy_(result) if inplace and result is not input else result

    return apply


def _kernel(rule: Callable[..., Tensor], inplace: bool = False) -> Callable[..., Tensor]:
    """The same function as torch itself calls it."""
    apply = _dropout(rule)
    return lambda draws, input, p, train: apply(draws, input, p, train, inplace)


def _feature_dropout(*ranks: int) -> Callable[..., Tensor]:
    def apply(draws: Draws, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        batched = input if input.dim() in ranks else input.unsqueeze(0)
        result = feature_dropout(batched, p, training, rng=draws() if training and p else None).view_as(input)
        return input.copy_(result) if inplace else result

    return apply


def _rrelu(
    draws: Draws,
    input: Tensor,
    lower: float = 1.0 / 8,
    upper: float = 1.0 / 3,
    training: bool = False,
    inplace: bool = False,
) -> Tensor:
    result = rrelu(input, lower, upper, training, rng=draws() if training else None)
    return input.copy_(result) if inplace else result


_RRELU: dict[object, Callable[..., Tensor]] = {
    F.rrelu: _rrelu,
    torch.rrelu: _rrelu,
    torch.rrelu_: partial(_rrelu, inplace=True),
}
_RULES = (dropout, feature_dropout, alpha_dropout, feature_alpha_dropout)


def _attention(
    draws: Draws,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **options: Any,
) -> Tensor:
    if dropout_p <= 0 and not beyond_one_gradient():
        return F.scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, **options)
    rng = draws() if dropout_p > 0 else None  # else torch's kernel, which has no rule for vmap
    return scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, **options, rng=rng)


_OWN: dict[Any, Callable[..., Tensor]] = {
    F.dropout: _dropout(dropout),
    F.dropout1d: _feature_dropout(3),
    F.dropout2d: _feature_dropout(2, 3, 4, 5),
    F.dropout3d: _feature_dropout(5),
    F.alpha_dropout: _dropout(alpha_dropout, False),
    F.feature_alpha_dropout: _dropout(feature_alpha_dropout, False),
    **{getattr(torch, rule.__name__): _kernel(rule) for rule in _RULES},
    **{getattr(torch, f"{rule.__name__}_"): _kernel(rule, inplace=True) for rule in _RULES},
    **_RRELU,
    F.scaled_dot_product_attention: _attention,
}


OF_MODULES = {
    nn.Dropout: _OWN[F.dropout],
    nn.Dropout1d: _OWN[F.dropout1d],
    nn.Dropout2d: _OWN[F.dropout2d],
    nn.Dropout3d: _OWN[F.dropout3d],
}
"""What the dropout modules of torch.nn compute, as ``(draws, input, p, training, inplace)``, without a context."""


# --- made of those ---


def _unguarded(function: Any) -> Any:
    """A Python function of torch that does not first ask who overrides it, so that what it calls is intercepted."""
    never = dict.fromkeys(("has_torch_function", "has_torch_function_unary"), lambda inputs: False)
    space = {**function.__globals__, **never}
    return FunctionType(function.__code__, space, function.__name__, function.__defaults__, function.__closure__)


_MADE_OF_THEM = {function: _unguarded(function) for function in (F.multi_head_attention_forward, F.gumbel_softmax)}


# --- given a generator ---


def _given_generator(rng: Rng, func: Any, args: Any, kwargs: Any) -> Any:
    if not isinstance(rng, Stream):
        if func in BY_KEY:
            return BY_KEY[func](rng, *args, **kwargs)
        if torch.compiler.is_compiling() or under_vmap():
            raise RandomnessError(
                f"torch's {func.__name__} cannot draw from a Key under vmap or compile. Draw with uniform, normal or "
                f"bernoulli of funcnet.random from p.rng."
            )
    like = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
    device = kwargs.get("device") or (torch.get_default_device() if like is None else like.device)
    generator = _generator(rng, torch.device(device))
    if func in _LIKE:
        return _LIKE[func](torch.empty_like(*args, **kwargs), generator=generator)
    return func(*args, **kwargs, generator=generator)


_LIKE: dict[Any, Callable[..., Tensor]] = {torch.rand_like: Tensor.uniform_, torch.randn_like: Tensor.normal_}


# --- lent the global generator ---


def _lent(rng: Rng, func: Any, args: Any, kwargs: Any) -> Any:
    if torch.compiler.is_compiling() or under_vmap():
        raise RandomnessError(
            f"torch's {func.__name__} draws inside its kernel, which works in eager calls outside vmap only. Draw with "
            f"funcnet.random.dropout and p.rng beside it, or switch its dropout off."
        )
    generator = _generator(rng, torch.device("cpu"))
    with LENDING:
        before = torch.get_rng_state()
        try:
            torch.set_rng_state(generator.get_state())
            result = func(*args, **kwargs)
            generator.set_state(torch.get_rng_state())
            return result
        finally:
            torch.set_rng_state(before)


LENDING = threading.RLock()
"""Held while global generators are lent."""


def _generator(rng: Rng, device: torch.device) -> torch.Generator:
    if isinstance(rng, Stream):
        generator = rng.generator(device)
        assert generator is not None, "a module draws from torch's generator without Intercept"
        return generator
    key, salt = rng if isinstance(rng, At) else (rng, 0)
    return seeded(key, salt, device)


_INTERCEPTED = frozenset({*_OWN, *TAKES_GENERATOR, *_MADE_OF_THEM, *DRAWS_INSIDE})
