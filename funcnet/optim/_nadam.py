"""Adam with Nesterov momentum; the counterpart of torch/optim/nadam.py."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from funcnet._typing import Tree
from funcnet.optim._moments import decay_weights, update_moments
from funcnet.optim._optimizer import Optimizer
from funcnet.optim._scalars import as_scalar
from funcnet.optim._state_entries import zero_step, zeros_like
from funcnet.optim._update_operations import Memory, addcdiv, as_dtype_of, as_real


@dataclass(frozen=True, eq=False, repr=False)
class NAdam(Optimizer):
    """Adam with Nesterov momentum, whose strength ``mu = beta1 * (1 - 0.96**(step * momentum_decay) / 2)`` grows.

    Args:
        lr: the learning rate.
        betas: what parts of the running means of gradients and of their squares are kept in each step.
        eps: added to the root, so that nothing is divided by zero.
        weight_decay: the factor of an L2 penalty.
        momentum_decay: how fast ``mu`` comes close to ``beta1``.
        decoupled_weight_decay: shrink params by ``1 - lr * weight_decay``, and leave gradients as they are.
        foreach, differentiable: as in torch; they change no value here.
        maximize: go up the gradient.
        capturable: keep step counts and products on the device of the params.
        groups: hyperparameters of some params, by selector.

    State: step (), mu_product (), exp_avg and exp_avg_sq with the shape of the param.
    Raises: what torch.optim.NAdam raises for values that it does not take.
    Source: torch.optim.NAdam; Dozat, 2016.

    >>> optimizer = NAdam(lr=0.1)
    >>> params = {"w": torch.tensor([1.0])}
    >>> optimizer.step(params, {"w": torch.tensor([2.0])}, optimizer.init(params))[0]
    {'w': tensor([0.8944])}
    """

    lr: float | Tensor = 2e-3
    betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999)
    eps: float | Tensor = 1e-8
    weight_decay: float | Tensor = 0
    momentum_decay: float | Tensor = 4e-3
    decoupled_weight_decay: bool = False
    _: KW_ONLY
    foreach: bool | None = None
    maximize: bool = False
    capturable: bool = False
    differentiable: bool = False

    def _entry_names(self) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq")

    def differentiable_names(self) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq", "mu_product")

    def _init_entry(self, param: Tensor) -> Tree:
        dtype = self._number_dtype(param, "betas", "momentum_decay")
        return {
            "step": zero_step(param, self.capturable),
            "mu_product": torch.ones((), dtype=dtype, device=param.device if self.capturable else "cpu"),
            "exp_avg": zeros_like(param),
            "exp_avg_sq": zeros_like(param),
        }

    def _update_param(self, memory: Memory, param: Tensor, grad: Tensor, entry: Tree) -> tuple[Tensor, Tree]:
        count, step = memory.next_step(entry["step"])
        beta1, beta2 = self.betas
        old_param, param = param, as_real(param)
        if self.maximize:
            grad = -grad
        grad = as_real(grad)
        param, grad, shrinks = decay_weights(
            memory, param, grad, self.lr, self.weight_decay, self.decoupled_weight_decay
        )
        mu = beta1 * (1.0 - 0.5 * (0.96 ** (count * self.momentum_decay)))
        next_mu = beta1 * (1.0 - 0.5 * (0.96 ** ((count + 1) * self.momentum_decay)))
        mu_product = memory.mul(entry["mu_product"], mu, over=memory.donates)
        product = as_scalar(mu_product)
        exp_avg, exp_avg_sq = update_moments(memory, entry, grad, beta1, beta2)
        mean_square = memory.div(exp_avg_sq, 1 - beta2**count)
        scale = memory.add_scalar(memory.sqrt(mean_square, over=memory.reuses), self.eps, over=memory.reuses)
        param = addcdiv(
            param,
            grad,
            scale,
            -self.lr * (1.0 - mu) / (1.0 - product),
            over=memory.reuses if shrinks else memory.donates,
        )
        param = addcdiv(param, exp_avg, scale, (-self.lr * next_mu) / (1.0 - product * next_mu), over=memory.reuses)
        changes = {
            "step": step,
            "mu_product": mu_product,
            "exp_avg": as_dtype_of(exp_avg, old_param),
            "exp_avg_sq": as_dtype_of(exp_avg_sq, old_param),
        }
        return as_dtype_of(param, old_param), changes
