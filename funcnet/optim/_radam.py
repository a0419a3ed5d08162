"""Rectified Adam; the counterpart of torch/optim/radam.py."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from funcnet._typing import Tree
from funcnet.optim._moments import decay_weights, update_moments
from funcnet.optim._optimizer import Optimizer
from funcnet.optim._scalars import Scalar, TensorScalar
from funcnet.optim._state_entries import zero_step, zeros_like
from funcnet.optim._update_operations import Memory, add, as_dtype_of, as_real


@dataclass(frozen=True, eq=False, repr=False)
class RAdam(Optimizer):
    """Adam that moves by the running mean of gradients alone as long as that of squares cannot be trusted yet.

    Args:
        lr: the learning rate.
        betas: what parts of the running means of gradients and of their squares are kept in each step.
        eps: added to the root, so that nothing is divided by zero.
        weight_decay: the factor of an L2 penalty.
        decoupled_weight_decay: shrink params by ``1 - lr * weight_decay``, and leave gradients as they are.
        foreach, differentiable: as in torch; they change no value here.
        maximize: go up the gradient.
        capturable: keep step counts on the device of the params.
        groups: hyperparameters of some params, by selector.

    State: step (), exp_avg and exp_avg_sq with the shape of the param.
    Raises: what torch.optim.RAdam raises for values that it does not take.
    Source: torch.optim.RAdam; Liu et al., 2020, arXiv:1908.03265.

    >>> optimizer = RAdam(lr=0.1)
    >>> params = {"w": torch.tensor([1.0])}
    >>> optimizer.step(params, {"w": torch.tensor([2.0])}, optimizer.init(params))[0]
    {'w': tensor([0.8000])}
    """

    lr: float | Tensor = 1e-3
    betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999)
    eps: float | Tensor = 1e-8
    weight_decay: float | Tensor = 0
    decoupled_weight_decay: bool = False
    _: KW_ONLY
    foreach: bool | None = None
    maximize: bool = False
    capturable: bool = False
    differentiable: bool = False

    def _entry_names(self) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq")

    def _init_entry(self, param: Tensor) -> Tree:
        return {
            "step": zero_step(param, self.capturable),
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
        exp_avg, exp_avg_sq = update_moments(memory, entry, grad, beta1, beta2)
        correction2 = 1 - beta2**count
        move = memory.mul(memory.div(exp_avg, 1 - beta1**count), self.lr, over=memory.reuses)
        longest = 2 / (1 - beta2) - 1
        length = longest - 2 * count * (beta2**count) / correction2
        move = self._rectify(memory, move, exp_avg_sq, length, longest, correction2)
        new_param = add(param, move, -1.0, over=memory.reuses if shrinks else memory.donates)
        changes = {
            "step": step,
            "exp_avg": as_dtype_of(exp_avg, old_param),
            "exp_avg_sq": as_dtype_of(exp_avg_sq, old_param),
        }
        return as_dtype_of(new_param, old_param), changes

    def _rectify(
        self,
        memory: Memory,
        move: Tensor,
        exp_avg_sq: Tensor,
        length: Scalar,
        longest: Scalar,
        correction2: Scalar,
    ) -> Tensor:
        """The move over the root of the squares and rectified, where their running mean is long enough; else itself."""
        if isinstance(length, TensorScalar):
            length = length.to(torch.float64)
        is_long = length > 5.0
        if isinstance(is_long, Tensor):
            length = torch.where(is_long, length, 6.0)  # so that the root below has a derivative in any case
        elif not is_long:
            return move
        scale = memory.add_scalar(memory.sqrt(exp_avg_sq), self.eps, over=memory.reuses)
        scale = memory.mul(scale.reciprocal(), correction2**0.5, over=memory.reuses)
        rect = ((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)) ** 0.5
        rectified = memory.mul(move * scale, rect, over=memory.reuses)
        return torch.where(is_long, rectified, move) if isinstance(is_long, Tensor) else rectified
