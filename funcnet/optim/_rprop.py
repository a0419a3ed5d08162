"""Resilient backpropagation; the counterpart of torch/optim/rprop.py."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor

from funcnet._typing import Tree
from funcnet.optim._optimizer import Optimizer
from funcnet.optim._scalars import TENSORS, Scalar
from funcnet.optim._state_entries import full_like, zero_step, zeros_like
from funcnet.optim._update_operations import Memory, addcmul, as_dtype_of, as_real


@dataclass(frozen=True, eq=False, repr=False)
class Rprop(Optimizer):
    """Resilient backpropagation: moves by step sizes of its own, and takes nothing but the sign of a gradient.

    A step size grows by ``etas[1]`` where the gradient kept its sign. Where the sign changed it shrinks by ``etas[0]``,
    and the param stays for one step.

    Args:
        lr: the first step size, at :meth:`init`.
        etas: the factors by which step sizes shrink and grow.
        step_sizes: the smallest and the largest step size.
        capturable: keep step counts on the device of the params.
        foreach, differentiable: as in torch; they change no value here.
        maximize: go up the gradient.
        groups: hyperparameters of some params, by selector.

    State: step (), prev and step_size with the shape of the param.
    Raises: what torch.optim.Rprop raises for values that it does not take.
    Source: torch.optim.Rprop; Riedmiller and Braun, 1993.

    >>> optimizer = Rprop(lr=0.1)
    >>> params = {"w": torch.tensor([1.0, 1.0])}
    >>> optimizer.step(params, {"w": torch.tensor([2.0, -0.01])}, optimizer.init(params))[0]
    {'w': tensor([0.9000, 1.1000])}
    """

    lr: float | Tensor = 1e-2
    etas: tuple[float | Tensor, float | Tensor] = (0.5, 1.2)
    step_sizes: tuple[float | Tensor, float | Tensor] = (1e-6, 50)
    _: KW_ONLY
    capturable: bool = False
    foreach: bool | None = None
    maximize: bool = False
    differentiable: bool = False

    def _entry_names(self) -> tuple[str, ...]:
        return ("prev", "step_size")

    def _init_entry(self, param: Tensor) -> Tree:
        return {
            "step": zero_step(param, self.capturable),
            "prev": zeros_like(param),
            "step_size": full_like(param, self.lr),
        }

    def _update_param(self, memory: Memory, param: Tensor, grad: Tensor, entry: Tree) -> tuple[Tensor, Tree]:
        _, step = memory.next_step(entry["step"])
        if self.maximize:
            grad = -grad
        grad, prev = as_real(grad), as_real(entry["prev"])
        shrinks, grows = [_in_dtype_of(grad, eta) for eta in self.etas]
        smallest, largest = [_in_dtype_of(grad, size) for size in self.step_sizes]
        sign = (grad * prev).sign()
        factor = torch.where(sign > 0, grows, torch.where(sign < 0, shrinks, torch.where(sign == 0, 1, sign)))
        step_size = as_real(entry["step_size"])
        if memory.donates:
            step_size = torch.clamp_(step_size.mul_(factor), smallest, largest)
        else:
            step_size = torch.clamp(step_size * factor, smallest, largest)
        grad = torch.where(factor == shrinks, 0, grad)
        if memory.donates:
            grad = prev.copy_(grad)
        new_param = addcmul(as_real(param), grad.sign(), step_size, -1, over=memory.donates)
        changes = {"step": step, "prev": as_dtype_of(grad, param), "step_size": as_dtype_of(step_size, param)}
        return as_dtype_of(new_param, param), changes


def _in_dtype_of(tensor: Tensor, value: Scalar) -> Any:
    return value.to(tensor.device, tensor.dtype) if isinstance(value, TENSORS) else value
