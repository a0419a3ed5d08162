"""Composed forms within code that calls torch's functions by itself: foreign forwards, and bodies of users.

Every call of a torch function under a mode costs about half of itself more. So the mode is on only inside of the
transforms that torch's kernels lack rules for, and never for a single gradient or plain batches of one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from funcnet._context import (
    calls_are_mapped,
    derivatives_planned,
    is_differentiated_twice,
    transform_kinds,
    under_forward_mode,
    unwrap_transforms,
)
from funcnet._tensors import iter_tensors
from funcnet._torch import weight_norm as weight_norm_kernel
from funcnet.kernels import _linear_algebra, _norms
from funcnet.kernels._activations import glu, hardsigmoid
from funcnet.kernels._attention_kernel import scaled_dot_product_attention
from funcnet.kernels._ctc_by_steps import ctc_loss
from funcnet.kernels._distances import cdist, pdist
from funcnet.kernels._embedding_bag_rows import embedding_bag
from funcnet.kernels._losses import huber_loss, mse_loss, multi_margin_loss, multilabel_margin_loss, soft_margin_loss
from funcnet.kernels._recurrent_kernels import RECURRENT_FORMS
from funcnet.kernels._weight_norm import weight_norm
from funcnet.random.internals import FUNCTIONS_THAT_CALL_OTHERS
from funcnet.ranks import current_run


def _where_differentiated_twice(
    composed: Callable[..., Tensor], kernel: Callable[..., Tensor]
) -> Callable[..., Tensor]:
    """A function that is composed where a derivative of torch's kernel would be differentiated."""

    def compute(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return (composed if is_differentiated_twice(*iter_tensors((input, args, kwargs))) else kernel)(
            input, *args, **kwargs
        )

    return compute


def _on_ranks(batch_norm: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A batch norm that takes the rows of all ranks where a loss runs on many."""

    def compute(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        run = current_run()
        shares = run is not None and run.shares_statistics
        return (_norms.batch_norm_on_ranks if shares else batch_norm)(input, *args, **kwargs)

    return compute


def _where_rules_lack(composed: Callable[..., Any], kernel: Callable[..., Any]) -> Callable[..., Any]:
    """A recurrent kernel: it has no batching rule, and on some devices no rule for jvp."""

    def compute(*args: Any) -> Any:
        return (composed if calls_are_mapped() or under_forward_mode() else kernel)(*args)

    return compute


FORMS: dict[Any, Callable[..., Any]] = {
    F.scaled_dot_product_attention: scaled_dot_product_attention,
    F.mse_loss: mse_loss,
    F.huber_loss: huber_loss,
    F.soft_margin_loss: soft_margin_loss,
    F.multi_margin_loss: multi_margin_loss,
    F.multilabel_margin_loss: multilabel_margin_loss,
    F.ctc_loss: ctc_loss,
    F.hardsigmoid: hardsigmoid,
    F.glu: glu,
    F.embedding_bag: embedding_bag,
    F.pdist: pdist,
    torch.cdist: cdist,
    weight_norm_kernel: weight_norm,
    F.layer_norm: _where_differentiated_twice(_norms.layer_norm, F.layer_norm),
    F.batch_norm: _on_ranks(_where_differentiated_twice(_norms.batch_norm, F.batch_norm)),
    F.instance_norm: _where_differentiated_twice(_norms.instance_norm, F.instance_norm),
    **{
        kernel: _where_differentiated_twice(composed, kernel)
        for composed, kernels in _linear_algebra.KERNELS.items()
        for kernel in kernels
    },
    **{kernel: _where_rules_lack(composed, kernel) for kernel, composed in RECURRENT_FORMS.items()},
}
"""Function of torch -> the one that computes the same, and knows more transforms."""

UNRULED_KERNEL_NAMES = frozenset(
    {
        *(
            "scaled_dot_product_attention",
            "multi_head_attention_forward",
            "multi_margin_loss",
            "multilabel_margin_loss",
        ),
        *("ctc_loss", "hardsigmoid", "embedding_bag", "pdist", "cdist", "_weight_norm"),
    }
)
"""Names of the functions of torch whose gradient has no derivative, or a wrong one."""

_RARE_ARGUMENTS = ("size_average", "reduce", "weight")
"""Arguments of losses that torch passes on as None; a call that has others goes to torch."""

_WEIGHTED = {F.multi_margin_loss, F.embedding_bag, F.layer_norm, F.batch_norm, F.instance_norm}
"""Functions whose ``weight`` the composed forms know."""


class KernelInterceptor(TorchFunctionMode):
    """A context in which torch's functions have the derivatives and batching rules of funcnet's."""

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in FORMS:
            known = {name: value for name, value in kwargs.items() if value is not None or name not in _RARE_ARGUMENTS}
            if not any(name in known for name in _RARE_ARGUMENTS) or func in _WEIGHTED:
                return FORMS[func](*args, **known)
        if func in FUNCTIONS_THAT_CALL_OTHERS and not torch.compiler.is_compiling():
            with self:
                return FUNCTIONS_THAT_CALL_OTHERS[func](*args, **kwargs)
        return func(*args, **kwargs)


class RankInterceptor(TorchFunctionMode):
    """A context in which torch's batch norm takes the rows of all ranks, where a loss runs on many."""

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return (_norms.batch_norm_on_ranks if func is F.batch_norm else func)(*args, **kwargs or {})


@contextlib.contextmanager
def differentiable_kernels(is_second: bool = True, is_mapped: bool = False) -> Iterator[None]:
    """Run a block in which torch's functions and funcnet's layers take forms that have the derivatives to be taken.

    Args:
        is_second: whether a second derivative will be taken.
        is_mapped: whether the last derivative will be taken in many directions at once, by vmap.
    """
    with contextlib.ExitStack() as stack:
        if not torch.compiler.is_compiling():  # compiled code is told by its transforms
            stack.enter_context(derivatives_planned(is_second, is_mapped))
        stack.enter_context(KernelInterceptor())
        yield


def call_with_kernel_rules(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The result of a function, in which torch's functions have the derivatives and batching rules of funcnet's."""
    with KernelInterceptor():
        return function(*args, **kwargs)


def call_with_rules(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The same, where the transforms around the call need such a rule; elsewhere the function is called as it is."""
    if kernels_lack_rules((args, kwargs)):
        return call_with_kernel_rules(function, *args, **kwargs)
    return function(*args, **kwargs)


def kernels_lack_rules(tensors: Iterable[object]) -> bool:
    """Whether the caller is inside of transforms that some kernels of torch have no rule for.

    Args:
        tensors: what the call is about: nested data that may hold tensors which autograd records.
    """
    kinds = transform_kinds()
    if not kinds:
        return under_forward_mode()
    if kinds == ("Grad",):
        return not torch.compiler.is_compiling() and any(
            unwrap_transforms(tensor).requires_grad for value in tensors for tensor in iter_tensors(value)
        )
    return kinds not in (("Vmap",), ("Vmap", "Grad"))
