"""Adamax; the counterpart of torch/optim/adamax.py."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from torch import Tensor

from funcnet._typing import Tree
from funcnet.optim._optimizer import Optimizer
from funcnet.optim._scalars import is_zero
from funcnet.optim._state_entries import zero_step, zeros_like
from funcnet.optim._update_operations import Memory, add, addcdiv, as_dtype_of, as_real, lerp, maximum


@dataclass(frozen=True, eq=False, repr=False)
class Adamax(Optimizer):
    """Adam with the largest recent gradient, ``u = max(beta2 * u, |g| + eps)``, in place of the root of squares.

    ``m = beta1 * m + (1 - beta1) * g``, ``param = param - lr / (1 - beta1**step) * m / u``, where ``g`` is the gradient
    plus ``weight_decay * param``.

    Args:
        lr: the learning rate.
        betas: what parts of ``m`` and ``u`` are kept in each step.
        eps: added to the size of the gradient.
        weight_decay: the factor of an L2 penalty.
        maximize: go up the gradient.
        foreach, differentiable: as in torch; they change no value here.
        capturable: keep step counts on the device of the params.
        groups: hyperparameters of some params, by selector.

    State: step (), exp_avg and exp_inf with the shape of the param.
    Raises: what torch.optim.Adamax raises for values that it does not take.
    Source: torch.optim.Adamax; Kingma and Ba, 2015, arXiv:1412.6980.

    >>> import torch
    >>> optimizer = Adamax(lr=0.5)
    >>> params = {"w": torch.tensor([1.0])}
    >>> optimizer.step(params, {"w": torch.tensor([2.0])}, optimizer.init(params))[0]
    {'w': tensor([0.5000])}
    """

    lr: float | Tensor = 2e-3
    betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999)
    eps: float | Tensor = 1e-8
    weight_decay: float | Tensor = 0
    foreach: bool | None = None
    _: KW_ONLY
    maximize: bool = False
    differentiable: bool = False
    capturable: bool = False

    def _entry_names(self) -> tuple[str, ...]:
        return ("exp_avg", "exp_inf")

    def _init_entry(self, param: Tensor) -> Tree:
        return {
            "step": zero_step(param, self.capturable),
            "exp_avg": zeros_like(param),
            "exp_inf": zeros_like(param),
        }

    def _update_param(self, memory: Memory, param: Tensor, grad: Tensor, entry: Tree) -> tuple[Tensor, Tree]:
        count, step = memory.next_step(entry["step"])
        beta1, beta2 = self.betas
        if self.maximize:
            grad = -grad
        if not is_zero(self.weight_decay):
            grad = add(grad, param, self.weight_decay)
        grad = as_real(grad)
        exp_avg = lerp(as_real(entry["exp_avg"]), grad, 1 - beta1, over=memory.donates)
        size = memory.add_scalar(grad.abs(), self.eps, over=memory.reuses)
        exp_inf = memory.mul(as_real(entry["exp_inf"]), beta2, over=memory.donates)
        exp_inf = maximum(exp_inf, size, over=memory.reuses)
        step_size = self.lr / (1 - beta1**count)
        new_param = addcdiv(as_real(param), exp_avg, exp_inf, -step_size, over=memory.donates)
        changes = {"step": step, "exp_avg": as_dtype_of(exp_avg, param), "exp_inf": as_dtype_of(exp_inf, param)}
        return as_dtype_of(new_param, param), changes
