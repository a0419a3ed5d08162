"""Stochastic gradient descent, with momentum or without; the counterpart of torch/optim/sgd.py."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from funcnet._torch import fused_sgd
from funcnet._typing import Tree
from funcnet.optim._fused import Columns, FusedOptimizer
from funcnet.optim._scalars import is_zero
from funcnet.optim._update_operations import Memory, add


@dataclass(frozen=True, eq=False, repr=False)
class SGD(FusedOptimizer):
    """Stochastic gradient descent.

    ``buffer = momentum * buffer + (1 - dampening) * g``, ``param = param - lr * buffer``, where ``g`` is the gradient
    plus ``weight_decay * param``. The first buffer is the first gradient, undampened.

    Args:
        lr: the learning rate.
        momentum: what part of the buffer is kept in each step; at 0 there is no buffer.
        dampening: what part of the gradient is left out of the buffer.
        weight_decay: the factor of an L2 penalty.
        nesterov: move by the gradient plus ``momentum * buffer``, not by the buffer.
        maximize: go up the gradient.
        foreach, differentiable: as in torch; they change no value here.
        fused: use torch's fused kernel where nobody differentiates through the step.
        groups: hyperparameters of some params, by selector.

    State: momentum_buffer with the shape of the param, from the first step with momentum on.
    Raises: what torch.optim.SGD raises for values that it does not take.
    Source: torch.optim.SGD.

    >>> optimizer = SGD(lr=0.1, momentum=0.9)
    >>> params = {"w": torch.tensor([1.0])}
    >>> optimizer.step(params, {"w": torch.tensor([1.0])}, optimizer.init(params))
    ({'w': tensor([0.9000])}, {'w': {'momentum_buffer': tensor([1.])}})
    """

    lr: float | Tensor = 1e-3
    momentum: float | Tensor = 0
    dampening: float | Tensor = 0
    weight_decay: float | Tensor = 0
    nesterov: bool = False
    _: KW_ONLY
    maximize: bool = False
    foreach: bool | None = None
    differentiable: bool = False
    fused: bool | None = None

    _starts_empty: ClassVar[bool] = True

    def _entry_names(self) -> tuple[str, ...]:
        return () if is_zero(self.momentum) else ("momentum_buffer",)

    def _init_entry(self, param: Tensor) -> Tree:
        return {}

    def _update_param(self, memory: Memory, param: Tensor, grad: Tensor, entry: Tree) -> tuple[Tensor, Tree]:
        if self.maximize:
            grad = -grad
        if not is_zero(self.weight_decay):
            grad = add(grad, param, self.weight_decay)
        changes: Tree = {}
        if not is_zero(self.momentum):
            buffer = entry.get("momentum_buffer")
            if buffer is None:
                buffer = grad.clone()
            else:
                buffer = memory.mul(buffer, self.momentum, over=memory.donates)
                buffer = add(buffer, grad, 1 - self.dampening, over=memory.reuses)
            grad = add(grad, buffer, self.momentum) if self.nesterov else buffer
            changes["momentum_buffer"] = buffer
        return add(param, grad, -self.lr, over=memory.donates), changes

    def _has_kernel(self, param: Tensor) -> bool:
        return _is_kernel_right(param.dtype, param.device)

    def _step_fused(self, params: list[Tensor], grads: list[Tensor], columns: Columns) -> None:
        buffers = columns.get("momentum_buffer")
        lacks_buffer = [buffers is not None and buffer is None for buffer in buffers or params]
        for is_first_step in sorted(set(lacks_buffer)):
            indices = [at for at, lacks in enumerate(lacks_buffer) if lacks is is_first_step]
            if is_first_step and buffers is not None:
                for at in indices:
                    buffers[at] = torch.empty_like(params[at])
            fused_sgd(
                [params[at] for at in indices],
                [grads[at] for at in indices],
                [] if buffers is None else [buffers[at] for at in indices],
                weight_decay=self.weight_decay,
                momentum=self.momentum,
                lr=self.lr,
                dampening=self.dampening,
                nesterov=self.nesterov,
                maximize=self.maximize,
                is_first_step=is_first_step,
            )


@cache
def _is_kernel_right(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether torch's fused kernel makes the plainest of steps; that of torch 2.13 is wrong in float16."""
    param, grad = torch.ones(32, dtype=dtype, device=device), torch.ones(32, dtype=dtype, device=device)
    fused_sgd(
        [param],
        [grad],
        [],
        weight_decay=0.0,
        momentum=0.0,
        lr=1.0,
        dampening=0.0,
        nesterov=False,
        maximize=False,
        is_first_step=False,
    )
    return not param.any()
