"""Adagrad; the counterpart of torch/optim/adagrad.py."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from funcnet._torch import fused_adagrad
from funcnet._typing import Tree
from funcnet.optim._fused import Columns, FusedOptimizer
from funcnet.optim._scalars import Scalar, is_zero
from funcnet.optim._sparse_rows import rows_of
from funcnet.optim._state_entries import full_like, zero_step
from funcnet.optim._update_operations import Memory, add, addcdiv, addcmul, as_dtype_of, as_real


@dataclass(frozen=True, eq=False, repr=False)
class Adagrad(FusedOptimizer):
    """Adagrad: ``sum = sum + g**2``, ``param = param - rate * g / (sqrt(sum) + eps)``.

    ``rate`` is ``lr / (1 + (step - 1) * lr_decay)``, and ``g`` the gradient plus ``weight_decay * param``. A sparse
    gradient (COO) changes the rows that it has, and takes no weight decay.

    Args:
        lr: the learning rate.
        lr_decay: how fast the learning rate falls.
        weight_decay: the factor of an L2 penalty.
        initial_accumulator_value: what the sum of squares starts from, at :meth:`init`.
        eps: added to the root, so that nothing is divided by zero.
        foreach, differentiable: as in torch; they change no value here.
        maximize: go up the gradient.
        fused: use torch's fused kernel where nobody differentiates through the step. It rounds differently.
        groups: hyperparameters of some params, by selector.

    State: step (), sum with the shape of the param.
    Raises: what torch.optim.Adagrad raises for values that it does not take.
    Source: torch.optim.Adagrad; Duchi, Hazan and Singer, 2011.

    >>> optimizer = Adagrad(lr=0.1)
    >>> params = {"w": torch.tensor([1.0])}
    >>> optimizer.step(params, {"w": torch.tensor([2.0])}, optimizer.init(params))[0]
    {'w': tensor([0.9000])}
    """

    lr: float | Tensor = 1e-2
    lr_decay: float | Tensor = 0
    weight_decay: float | Tensor = 0
    initial_accumulator_value: float | Tensor = 0
    eps: float | Tensor = 1e-10
    foreach: bool | None = None
    _: KW_ONLY
    maximize: bool = False
    differentiable: bool = False
    fused: bool | None = None

    def _entry_names(self) -> tuple[str, ...]:
        return ("sum",)

    def _init_entry(self, param: Tensor) -> Tree:
        step = zero_step(param, bool(self.fused), torch.float32 if self.fused else None)
        return {"step": step, "sum": full_like(param, self.initial_accumulator_value)}

    def _update_param(self, memory: Memory, param: Tensor, grad: Tensor, entry: Tree) -> tuple[Tensor, Tree]:
        count, step = memory.next_step(entry["step"])
        if self.maximize:
            grad = -grad
        if not is_zero(self.weight_decay):
            if grad.is_sparse:
                raise RuntimeError("Adagrad: the weight_decay option is not compatible with sparse gradients.")
            grad = add(grad, param, self.weight_decay)
        rate = self.lr / (1 + (count - 1) * self.lr_decay)
        if grad.is_sparse:
            new_param, total = self._update_rows(memory, param, grad, entry["sum"], rate)
            return new_param, {"step": step, "sum": total}
        grad = as_real(grad)
        total = addcmul(as_real(entry["sum"]), grad, grad, over=memory.donates)
        scale = memory.add_scalar(memory.sqrt(total), self.eps, over=memory.reuses)
        new_param = addcdiv(as_real(param), grad, scale, -rate, over=memory.donates)
        return as_dtype_of(new_param, param), {"step": step, "sum": as_dtype_of(total, param)}

    def _update_rows(
        self, memory: Memory, param: Tensor, grad: Tensor, total: Tensor, rate: Scalar
    ) -> tuple[Tensor, Tensor]:
        """The next param and sum for a sparse gradient."""
        rows = rows_of(grad)
        total = rows.add_to(total, rows.values.pow(2), over=memory.donates)
        scale = memory.add_scalar(memory.sqrt(rows.take_from(total), over=memory.reuses), self.eps, over=memory.reuses)
        return rows.add_to(param, rows.values / scale, -rate, memory.donates), total

    def _step_fused(self, params: list[Tensor], grads: list[Tensor], columns: Columns) -> None:
        fused_adagrad(
            params,
            grads,
            columns["sum"],
            columns["step"],
            lr=self.lr,
            lr_decay=self.lr_decay,
            weight_decay=self.weight_decay,
            eps=self.eps,
            maximize=self.maximize,
        )
