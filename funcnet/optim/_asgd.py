"""Averaged stochastic gradient descent; the counterpart of torch/optim/asgd.py."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from funcnet._typing import Tree
from funcnet.optim._optimizer import Optimizer
from funcnet.optim._scalars import TENSORS, Scalar, as_scalar, is_zero, larger
from funcnet.optim._state_entries import scalar_dtype, zeros_like
from funcnet.optim._update_operations import Memory, add, as_dtype_of, as_real


@dataclass(frozen=True, eq=False, repr=False)
class ASGD(Optimizer):
    """Stochastic gradient descent that also keeps the mean of the params, ``ax``, from step ``t0`` on.

    ``param = (1 - lambd * eta) * param - eta * g``, where ``g`` is the gradient plus ``weight_decay * param``, and then
    ``eta = lr / (1 + lambd * lr * step)**alpha``.

    Args:
        lr: the learning rate; the first ``eta``, at :meth:`init`.
        lambd: how fast params decay and ``eta`` falls.
        alpha: the power with which ``eta`` falls.
        t0: the step from which on ``ax`` is a mean; before it, ``ax`` is the param.
        weight_decay: the factor of an L2 penalty.
        foreach, differentiable: as in torch; they change no value here.
        maximize: go up the gradient.
        capturable: as in torch; it changes no value here.
        groups: hyperparameters of some params, by selector.

    State: step (), eta (), mu (), ax with the shape of the param.
    Raises: what torch.optim.ASGD raises for values that it does not take.
    Source: torch.optim.ASGD; Polyak and Juditsky, 1992.

    >>> optimizer = ASGD(lr=0.1)
    >>> params = {"w": torch.tensor([1.0])}
    >>> optimizer.step(params, {"w": torch.tensor([2.0])}, optimizer.init(params))[0]
    {'w': tensor([0.8000])}
    """

    lr: float | Tensor = 1e-2
    lambd: float | Tensor = 1e-4
    alpha: float | Tensor = 0.75
    t0: float | Tensor = 1e6
    weight_decay: float | Tensor = 0
    foreach: bool | None = None
    maximize: bool = False
    differentiable: bool = False
    capturable: bool = False

    def _entry_names(self) -> tuple[str, ...]:
        return ("ax",)

    def differentiable_names(self) -> tuple[str, ...]:
        return ("ax", "eta", "mu")

    def _init_entry(self, param: Tensor) -> Tree:
        return {
            "step": torch.zeros((), dtype=scalar_dtype(), device=param.device),
            "eta": self._entry_of(self.lr, param),
            "mu": torch.ones((), dtype=scalar_dtype(), device=param.device),
            "ax": zeros_like(param),
        }

    def _update_param(self, memory: Memory, param: Tensor, grad: Tensor, entry: Tree) -> tuple[Tensor, Tree]:
        count, step = memory.next_step(entry["step"])
        old_param, param, mean = param, as_real(param), as_real(entry["ax"])
        if self.maximize:
            grad = -grad
        grad = as_real(grad)
        if not is_zero(self.weight_decay):
            grad = add(grad, param, self.weight_decay)
        eta, mu = as_scalar(entry["eta"]), as_scalar(entry["mu"])
        param = memory.mul(param, 1 - self.lambd * eta, over=memory.donates)
        param = add(param, grad, -eta, over=memory.reuses)
        changes = {
            "step": step,
            "eta": self._entry_of(self.lr / ((1 + self.lambd * self.lr * count) ** self.alpha), old_param),
            "mu": self._entry_of(1 / larger(1, count - self.t0), old_param),
            "ax": as_dtype_of(_next_mean(memory, mean, param, mu), old_param),
        }
        return as_dtype_of(param, old_param), changes

    def _entry_of(self, value: Scalar, param: Tensor) -> Tensor:
        """A scalar as an entry of the state of a param."""
        dtype = self._number_dtype(param, "lr", "lambd", "alpha", "t0")
        if isinstance(value, TENSORS):
            return value.to(param.device, dtype)
        return torch.as_tensor(value, dtype=dtype, device=param.device)


def _next_mean(memory: Memory, mean: Tensor, param: Tensor, mu: Scalar) -> Tensor:
    """The mean moved towards the param by ``mu``, or the param itself where ``mu`` is 1."""
    if isinstance(mu, Tensor):
        return torch.where((mu == 1).to(param.device), param, mean + memory.mul(param - mean, mu))
    if mu != 1:
        move = memory.mul(param - mean, mu, over=memory.reuses)
        return mean.add_(move) if memory.donates else mean + move
    return mean.copy_(param) if memory.donates else param.clone()
