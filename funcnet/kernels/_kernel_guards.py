"""Torch's wrong kernels in code that calls them by itself: they give what is right, in torch's bits elsewhere.

The layers of torch are guarded one by one, at the price of a function call. Calls of the functions themselves are seen
by a mode only, which every call of torch pays for, so it is on where the code names one of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from funcnet.kernels._norms import guard_batch_norm_gradient, guard_instance_norm_gradient
from funcnet.kernels._wrong_kernels import INTERPOLATE

GUARDED_WORDS = frozenset({"batch_norm", "instance_norm", "antialias="})
"""Words in code that calls a wrong kernel by its function."""

_BATCH_NORMS = (nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_INSTANCE_NORMS = (nn.InstanceNorm2d, nn.InstanceNorm3d)


def guard_norm(module: nn.Module) -> None:
    """Have a norm of torch, which is nobody else's, give gradients that are right; any other module stays as it is."""
    if type(module) in _BATCH_NORMS:
        module.__dict__["forward"] = _guard_forward(module.forward, guard_batch_norm_gradient)
    elif type(module) in _INSTANCE_NORMS:
        module.__dict__["forward"] = _guard_forward(module.forward, lambda _, y: guard_instance_norm_gradient(y))


def _guard_forward(
    forward: Callable[[Tensor], Tensor], guard: Callable[[Tensor, Tensor], Tensor]
) -> Callable[[Tensor], Tensor]:
    @wraps(forward)
    def run_guarded(input: Tensor) -> Tensor:
        return guard(input, forward(input))

    return run_guarded


def with_guarded_kernels(run: Callable[..., Any]) -> Callable[..., Any]:
    """A function in which calls of torch's wrong kernels give what is right."""

    @wraps(run, assigned=(), updated=())
    def run_guarded(*inputs: Any, **kwargs: Any) -> Any:
        with _KernelGuard():
            return run(*inputs, **kwargs)

    return run_guarded


_INTERPOLATE_ARGUMENTS = tuple(inspect.signature(F.interpolate).parameters)


class _KernelGuard(TorchFunctionMode):
    """A context in which the functions of torch that are wrong for some layouts are called with others."""

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.interpolate:
            arguments = {**dict(zip(_INTERPOLATE_ARGUMENTS, args, strict=False)), **kwargs}
            if INTERPOLATE.can_bite(arguments):
                return func(**{**arguments, "input": arguments["input"].contiguous()})
        y = func(*args, **kwargs)
        if func is F.batch_norm:
            return guard_batch_norm_gradient(args[0] if args else kwargs["input"], y)
        return guard_instance_norm_gradient(y) if func is F.instance_norm else y
