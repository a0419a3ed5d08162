"""Answers the draws of a body that calls torch's own random functions, from the ``rng`` of the call.

``F.dropout(x, training=p.training)`` in a body, or anything in a foreign module's forward, would draw from the global
generator. Within a :class:`DrawInterceptor` it draws from the call's ``rng``, by the first of these ways that applies:

* the dropout family, attention included, is computed by funcnet's own dropout, for every transform and ``rng``;
* ``rand``, ``normal``, ``bernoulli``, ``multinomial``, ``uniform_`` ... draw from a Key by formulas of their own, which
  work with every transform too;
* a function that takes ``generator=`` is given a private one;
* a kernel that draws inside (attention, recurrent layers) runs with the global generator lent: it is set to the
  call's numbers under a lock and put back. This works in eager calls only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from funcnet._context import beyond_one_gradient, transform_levels, under_vmap
from funcnet._errors import RandomnessError, UnplacedDrawError
from funcnet._torch import assume_constant_result, show_functions_to_modes
from funcnet._torch_functions import DRAWS_INSIDE, TAKES_GENERATOR
from funcnet.random._attention_function import scaled_dot_product_attention
from funcnet.random._dropout_functions import (
    NextRng,
    alpha_dropout,
    dropout,
    feature_alpha_dropout,
    feature_dropout,
    feature_dropout_with_torch_arguments,
    with_torch_arguments,
)
from funcnet.random._generators import GLOBAL_GENERATORS_LOCK, Rng, Stream, lend_cpu_generator, private_generator
from funcnet.random._key_formulas import KEY_FORMULAS, fill_tensor
from funcnet.random._keys import KeyAtPath
from funcnet.random._rrelu_function import rrelu


class DrawInterceptor(TorchFunctionMode):
    """A context in which torch's random functions draw from ``next_rng()``, which is called once per draw.

    Draws of compiled code are answered too, while it is traced.
    """

    def __init__(self, next_rng: NextRng | None = None) -> None:
        super().__init__()
        if torch.compiler.is_compiling():
            _show_draws_to_compiler()
        self.next_rng = next_rng
        self.key: Tensor | None = None
        """The Key that all draws are made from, if it is known: new tensors get its axes of examples to be filled."""
        self.has_drawn = False
        """Whether anything drew."""
        self.found_submodule = False
        """Whether a foreign forward learned which submodule drew, so that next time only that one is intercepted."""

    def _next_rng(self) -> Rng:
        self.has_drawn = True
        if self.next_rng is None:
            raise RandomnessError("DrawInterceptor was given nothing to draw from.")
        return self.next_rng()

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func not in _INTERCEPTED:  # this is nearly every call, so there is only a single lookup
            return func(*args, **kwargs) if kwargs else func(*args)
        kwargs = kwargs or {}
        if func in _MAKES_UNFILLED:
            return _with_axes_of(self.key, func(*args, **kwargs))
        if "generator" in kwargs and kwargs["generator"] is None:
            kwargs = {name: value for name, value in kwargs.items() if name != "generator"}
        if func in _COMPUTED_HERE and "generator" not in kwargs:
            return _COMPUTED_HERE[func](self._next_rng, *args, **kwargs)
        if func in TAKES_GENERATOR and "generator" not in kwargs:
            return _call_with_generator(self._next_rng(), func, args, kwargs)
        if (
            func in FUNCTIONS_THAT_CALL_OTHERS and not torch.compiler.is_compiling()
        ):  # Dynamo stops inside of it while a mode is active
            with self:
                return FUNCTIONS_THAT_CALL_OTHERS[func](*args, **kwargs)
        if func in DRAWS_INSIDE and DRAWS_INSIDE[func](*args, **kwargs):
            return _call_with_lent_generator(self._next_rng(), func, args, kwargs)
        return func(*args, **kwargs)


def drawn(func: Callable[..., Any], *args: Any, rng: Rng, **kwargs: Any) -> Any:
    """Call a random function of torch with its draws from ``rng``.

    Args:
        func: ``torch.rand``, ``F.dropout2d`` or any other.
        args, kwargs: its arguments, without ``rng``.
        rng: a Key, or ``p.rng``.

    >>> drawn(torch.rand, 3, rng=Stream(0))
    tensor([0.4963, 0.7682, 0.0885])
    """
    return DrawInterceptor(lambda: rng).__torch_function__(func, (), args, kwargs)


@assume_constant_result
def _show_draws_to_compiler() -> bool:
    show_functions_to_modes(_INTERCEPTED)
    return True


# --- computed by funcnet ---


def _kernel_with_torch_arguments(
    dropout_function: Callable[..., Tensor], inplace: bool = False
) -> Callable[..., Tensor]:
    """A dropout function as torch itself calls it: ``torch.dropout(input, p, train)``."""
    apply = with_torch_arguments(dropout_function)
    return lambda next_rng, input, p, train: apply(next_rng, input, p, train, inplace)


def _rrelu_with_torch_arguments(
    next_rng: NextRng,
    input: Tensor,
    lower: float = 1.0 / 8,
    upper: float = 1.0 / 3,
    training: bool = False,
    inplace: bool = False,
) -> Tensor:
    result = rrelu(input, lower, upper, training, rng=next_rng() if training else None)
    return input.copy_(result) if inplace else result


_RRELU: dict[Any, Callable[..., Tensor]] = {
    F.rrelu: _rrelu_with_torch_arguments,
    torch.rrelu: _rrelu_with_torch_arguments,
    torch.rrelu_: partial(_rrelu_with_torch_arguments, inplace=True),
}
_DROPOUTS = (dropout, feature_dropout, alpha_dropout, feature_alpha_dropout)


def _attention_with_torch_arguments(
    next_rng: NextRng,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **options: Any,
) -> Tensor:
    if dropout_p <= 0 and not beyond_one_gradient(query, key, value):
        return F.scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, **options)
    rng = next_rng() if dropout_p > 0 else None  # without dropout: torch's kernel has no rule for vmap
    return scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, **options, rng=rng)


_COMPUTED_HERE: dict[Any, Callable[..., Tensor]] = {
    F.dropout: with_torch_arguments(dropout),
    F.dropout1d: feature_dropout_with_torch_arguments(3),
    F.dropout2d: feature_dropout_with_torch_arguments(2, 3, 4, 5),
    F.dropout3d: feature_dropout_with_torch_arguments(5),
    F.alpha_dropout: with_torch_arguments(alpha_dropout, False),
    F.feature_alpha_dropout: with_torch_arguments(feature_alpha_dropout, False),
    **{
        getattr(torch, dropout_function.__name__): _kernel_with_torch_arguments(dropout_function)
        for dropout_function in _DROPOUTS
    },
    **{
        getattr(torch, f"{dropout_function.__name__}_"): _kernel_with_torch_arguments(dropout_function, inplace=True)
        for dropout_function in _DROPOUTS
    },
    **_RRELU,
    F.scaled_dot_product_attention: _attention_with_torch_arguments,
}


# --- Python functions that call them ---


def _without_override_check(function: Any) -> Callable[..., Any]:
    """A Python function of torch without its check for overrides, so that its own calls are intercepted."""
    never = dict.fromkeys(("has_torch_function", "has_torch_function_unary"), lambda inputs: False)
    namespace = {**function.__globals__, **never}
    return FunctionType(function.__code__, namespace, function.__name__, function.__defaults__, function.__closure__)


FUNCTIONS_THAT_CALL_OTHERS = {
    function: _without_override_check(function) for function in (F.multi_head_attention_forward, F.gumbel_softmax)
}


# --- functions that take a generator ---


def _call_with_generator(rng: Rng, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    if not isinstance(rng, Stream):
        if func in KEY_FORMULAS:
            return _draw_by_formula(rng, func, args, kwargs)
        if torch.compiler.is_compiling() or under_vmap():
            raise UnplacedDrawError(
                "the code",
                f"draws by torch's {func.__name__}, which cannot draw from a Key under vmap or compile. Draw with "
                f"uniform, normal or bernoulli of funcnet.random from p.rng; or loop over the examples; or draw before "
                f"the transform and pass it as an input.",
            )
    like = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
    device = kwargs.get("device") or (torch.get_default_device() if like is None else like.device)
    generator = _generator_for(rng, torch.device(device))
    if func in _NEW_LIKE:
        return _NEW_LIKE[func](torch.empty_like(*args, **kwargs), generator=generator)
    return func(*args, **kwargs, generator=generator)


def _draw_by_formula(
    rng: Tensor | KeyAtPath, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Tensor:
    out = kwargs.get("out")
    if out is None:
        return KEY_FORMULAS[func](rng, *args, **kwargs)
    options = {name: value for name, value in kwargs.items() if name != "out"}
    return fill_tensor(out, KEY_FORMULAS[func](rng, *args, **options))


_MAKES_UNFILLED: frozenset[object] = frozenset(
    {torch.empty, torch.empty_like, torch.empty_strided, Tensor.new, Tensor.new_empty, Tensor.new_empty_strided}
)
"""Functions that make a tensor to be filled, as ``torch.empty(3).normal_()`` is."""


def _with_axes_of(key: Tensor | None, empty: Tensor) -> Tensor:
    """An unfilled tensor with the axes of vmap that the Key has, so that draws from that can be written to it."""
    if key is None or empty.requires_grad or not under_vmap() or not transform_levels(key) - transform_levels(empty):
        return empty
    like = key.new_empty_strided(empty.shape, empty.stride(), dtype=empty.dtype, device=empty.device)
    return like if not transform_levels(empty) else empty + torch.zeros_like(like)


_NEW_LIKE: dict[Any, Callable[..., Tensor]] = {torch.rand_like: Tensor.uniform_, torch.randn_like: Tensor.normal_}


# --- kernels that draw from the global generator, which is lent ---


def _call_with_lent_generator(
    rng: Rng, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    if not isinstance(rng, Stream) and func in KEY_FORMULAS:
        return _draw_by_formula(rng, func, args, kwargs)
    if torch.compiler.is_compiling() or under_vmap():
        raise UnplacedDrawError(
            "the code",
            f"calls torch's {func.__name__}, which draws inside its kernel; that works in eager calls outside vmap "
            f"only. Draw with funcnet.random.dropout and p.rng beside it, or switch its dropout off; or loop over the "
            f"examples; or draw before the transform and pass it as an input.",
        )
    with GLOBAL_GENERATORS_LOCK, lend_cpu_generator(_generator_for(rng, torch.device("cpu"))):
        return func(*args, **kwargs)


def _generator_for(rng: Rng, device: torch.device) -> torch.Generator:
    generator = private_generator(rng, device)
    assert generator is not None, "what torch's global generator draws is not intercepted"
    return generator


_INTERCEPTED = frozenset(
    {*_COMPUTED_HERE, *_MAKES_UNFILLED, *TAKES_GENERATOR, *FUNCTIONS_THAT_CALL_OTHERS, *DRAWS_INSIDE}
)
