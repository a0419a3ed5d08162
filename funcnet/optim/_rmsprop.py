"""RMSprop; the counterpart of torch/optim/rmsprop.py."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from funcnet._typing import Tree
from funcnet.optim._optimizer import Optimizer
from funcnet.optim._scalars import is_zero
from funcnet.optim._state_entries import zero_step, zeros_like
from funcnet.optim._update_operations import Memory, add, addcdiv, addcmul, as_dtype_of, as_real, lerp


@dataclass(frozen=True, eq=False, repr=False)
class RMSprop(Optimizer):
    """RMSprop: divides gradients by the root of a running mean of their squares.

    ``v = alpha * v + (1 - alpha) * g**2``, ``move = g / (sqrt(v) + eps)``; with momentum
    ``buffer = momentum * buffer + move``; ``param = param - lr * move``, or ``lr * buffer``. ``g`` is the gradient plus
    ``weight_decay * param``.

    Args:
        lr: the learning rate.
        alpha: what part of the running means is kept in each step.
        eps: added to the root, so that nothing is divided by zero.
        weight_decay: the factor of an L2 penalty.
        momentum: what part of the buffer is kept in each step; at 0 there is no buffer.
        centered: take the square of the running mean of gradients from ``v``, which makes it a variance.
        capturable: keep step counts on the device of the params.
        foreach, differentiable: as in torch; they change no value here.
        maximize: go up the gradient.
        groups: hyperparameters of some params, by selector.

    State: step (), and with the shape of the param square_avg, momentum_buffer (with momentum), grad_avg (centered).
    Raises: what torch.optim.RMSprop raises for values that it does not take.
    Source: torch.optim.RMSprop; Hinton's lecture notes, 2012.

    >>> optimizer = RMSprop(lr=0.1, alpha=0.75)
    >>> params = {"w": torch.tensor([1.0])}
    >>> optimizer.step(params, {"w": torch.tensor([2.0])}, optimizer.init(params))[0]
    {'w': tensor([0.8000])}
    """

    lr: float | Tensor = 1e-2
    alpha: float | Tensor = 0.99
    eps: float | Tensor = 1e-8
    weight_decay: float | Tensor = 0
    momentum: float | Tensor = 0
    centered: bool = False
    capturable: bool = False
    foreach: bool | None = None
    maximize: bool = False
    differentiable: bool = False

    def _entry_names(self) -> tuple[str, ...]:
        momentum = () if is_zero(self.momentum) else ("momentum_buffer",)
        return ("square_avg", *momentum, *(("grad_avg",) if self.centered else ()))

    def _init_entry(self, param: Tensor) -> Tree:
        return {
            "step": zero_step(param, self.capturable),
            **{name: zeros_like(param) for name in self._entry_names()},
        }

    def _update_param(self, memory: Memory, param: Tensor, grad: Tensor, entry: Tree) -> tuple[Tensor, Tree]:
        _, step = memory.next_step(entry["step"])
        old_param = param
        if self.maximize:
            grad = -grad
        if not is_zero(self.weight_decay):
            grad = add(grad, param, self.weight_decay)
        param, grad = as_real(param), as_real(grad)
        square_avg = memory.mul(as_real(entry["square_avg"]), self.alpha, over=memory.donates)
        square_avg = addcmul(square_avg, grad, grad, 1 - self.alpha, over=memory.reuses)
        changes = {"step": step, "square_avg": as_dtype_of(square_avg, old_param)}
        if self.centered:
            grad_avg = lerp(as_real(entry["grad_avg"]), grad, 1 - self.alpha, over=memory.donates)
            changes["grad_avg"] = as_dtype_of(grad_avg, old_param)
            scale = memory.sqrt(torch.addcmul(square_avg, grad_avg, grad_avg, value=-1), over=True)
        else:
            scale = memory.sqrt(square_avg)
        scale = memory.add_scalar(scale, self.eps, over=memory.reuses)
        if is_zero(self.momentum):
            param = addcdiv(param, grad, scale, -self.lr, over=memory.donates)
        else:
            buffer = memory.mul(as_real(entry["momentum_buffer"]), self.momentum, over=memory.donates)
            buffer = addcdiv(buffer, grad, scale, over=memory.reuses)
            changes["momentum_buffer"] = as_dtype_of(buffer, old_param)
            param = add(param, buffer, -self.lr, over=memory.donates)
        return as_dtype_of(param, old_param), changes
