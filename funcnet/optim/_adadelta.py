"""Adadelta; the counterpart of torch/optim/adadelta.py."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from torch import Tensor

from funcnet._typing import Tree
from funcnet.optim._optimizer import Optimizer
from funcnet.optim._scalars import is_zero
from funcnet.optim._state_entries import zero_step, zeros_like
from funcnet.optim._update_operations import Memory, add, addcmul, as_dtype_of, as_real


@dataclass(frozen=True, eq=False, repr=False)
class Adadelta(Optimizer):
    """Adadelta: moves by the gradient times the root of recent squared moves over that of recent squared gradients.

    ``s = rho * s + (1 - rho) * g**2``, ``move = sqrt(a + eps) / sqrt(s + eps) * g``,
    ``a = rho * a + (1 - rho) * move**2``, ``param = param - lr * move``, where ``g`` is the gradient plus
    ``weight_decay * param``.

    Args:
        lr: the factor of each move.
        rho: what part of the running means is kept in each step.
        eps: added below the roots.
        weight_decay: the factor of an L2 penalty.
        foreach, differentiable: as in torch; they change no value here.
        capturable: keep step counts on the device of the params.
        maximize: go up the gradient.
        groups: hyperparameters of some params, by selector.

    State: step (), square_avg and acc_delta with the shape of the param.
    Raises: what torch.optim.Adadelta raises for values that it does not take.
    Source: torch.optim.Adadelta; Zeiler, 2012, arXiv:1212.5701.

    >>> import torch
    >>> optimizer = Adadelta()
    >>> params = {"w": torch.tensor([1.0])}
    >>> optimizer.step(params, {"w": torch.tensor([2.0])}, optimizer.init(params))[0]
    {'w': tensor([0.9968])}
    """

    lr: float | Tensor = 1.0
    rho: float | Tensor = 0.9
    eps: float | Tensor = 1e-6
    weight_decay: float | Tensor = 0
    foreach: bool | None = None
    _: KW_ONLY
    capturable: bool = False
    maximize: bool = False
    differentiable: bool = False

    def _entry_names(self) -> tuple[str, ...]:
        return ("square_avg", "acc_delta")

    def _init_entry(self, param: Tensor) -> Tree:
        return {
            "step": zero_step(param, self.capturable),
            "square_avg": zeros_like(param),
            "acc_delta": zeros_like(param),
        }

    def _update_param(self, memory: Memory, param: Tensor, grad: Tensor, entry: Tree) -> tuple[Tensor, Tree]:
        _, step = memory.next_step(entry["step"])
        if self.maximize:
            grad = -grad
        if not is_zero(self.weight_decay):
            grad = add(grad, param, self.weight_decay)
        grad = as_real(grad)
        old_acc_delta = as_real(entry["acc_delta"])
        square_avg = memory.mul(as_real(entry["square_avg"]), self.rho, over=memory.donates)
        square_avg = addcmul(square_avg, grad, grad, 1 - self.rho, over=memory.reuses)
        gradient_size = memory.sqrt(memory.add_scalar(square_avg, self.eps), over=memory.reuses)
        move_size = memory.sqrt(memory.add_scalar(old_acc_delta, self.eps), over=memory.reuses)
        move = move_size.div_(gradient_size).mul_(grad) if memory.reuses else move_size / gradient_size * grad
        acc_delta = memory.mul(old_acc_delta, self.rho, over=memory.donates)
        acc_delta = addcmul(acc_delta, move, move, 1 - self.rho, over=memory.reuses)
        new_param = add(param, as_dtype_of(move, param), -self.lr, over=memory.donates)
        changes = {
            "step": step,
            "square_avg": as_dtype_of(square_avg, param),
            "acc_delta": as_dtype_of(acc_delta, param),
        }
        return new_param, changes
