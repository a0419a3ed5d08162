"""Adam for sparse gradients; the counterpart of torch/optim/sparse_adam.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from funcnet._typing import Tree
from funcnet.optim._optimizer import Optimizer
from funcnet.optim._sparse_rows import rows_of
from funcnet.optim._state_entries import zeros_like
from funcnet.optim._update_operations import Memory


@dataclass(frozen=True, eq=False, repr=False)
class SparseAdam(Optimizer):
    """Adam for sparse gradients (COO): rows without a gradient keep their values and running means.

    Args:
        lr: the learning rate.
        betas: what parts of the running means of gradients and of their squares are kept in each step.
        eps: added to the root, so that nothing is divided by zero.
        maximize: go up the gradient.
        groups: hyperparameters of some params, by selector.

    State: step (a number of Python, as in torch), exp_avg and exp_avg_sq with the shape of the param.
    Raises: what torch.optim.SparseAdam raises for values that it does not take; RuntimeError for dense gradients;
        TreeError for params that are sparse or complex.
    Source: torch.optim.SparseAdam.

    >>> import torch
    >>> optimizer = SparseAdam(lr=0.1)
    >>> params = {"embedding": torch.ones(3, 2)}
    >>> grad = torch.sparse_coo_tensor([[1]], [[1.0, -1.0]], (3, 2), check_invariants=True)
    >>> optimizer.step(params, {"embedding": grad}, optimizer.init(params))[0]
    {'embedding': tensor([[1.0000, 1.0000],
            [0.9000, 1.1000],
            [1.0000, 1.0000]])}
    """

    lr: float | Tensor = 1e-3
    betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999)
    eps: float | Tensor = 1e-8
    maximize: bool = False

    _is_elementwise: ClassVar[bool] = False

    def _check_param(self, param: Tensor) -> str | None:
        if param.is_sparse:
            return "SparseAdam requires dense parameter tensors"
        return "SparseAdam does not support complex parameters" if param.is_complex() else None

    def _entry_names(self) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq")

    def _init_entry(self, param: Tensor) -> Tree:
        return {"step": 0, "exp_avg": zeros_like(param), "exp_avg_sq": zeros_like(param)}

    def _update_param(self, memory: Memory, param: Tensor, grad: Tensor, entry: Tree) -> tuple[Tensor, Tree]:
        if not grad.is_sparse:
            raise RuntimeError("SparseAdam does not support dense gradients: use Adam for this param.")
        count = entry["step"] + 1
        rows = rows_of(-grad if self.maximize else grad)
        if rows.values.numel() == 0:
            return param, {"step": count}
        beta1, beta2 = self.betas
        exp_avg, exp_avg_sq = rows.take_from(entry["exp_avg"]), rows.take_from(entry["exp_avg_sq"])
        change = memory.mul(rows.values - exp_avg, 1 - beta1, over=memory.reuses)
        square_change = memory.mul(rows.values.pow(2) - exp_avg_sq, 1 - beta2, over=memory.reuses)
        changes = {
            "step": count,
            "exp_avg": rows.add_to(entry["exp_avg"], change, over=memory.donates),
            "exp_avg_sq": rows.add_to(entry["exp_avg_sq"], square_change, over=memory.donates),
        }
        scale = memory.add_scalar(memory.sqrt(square_change + exp_avg_sq, over=True), self.eps, over=memory.reuses)
        step_size = self.lr * ((1 - beta2**count) ** 0.5) / (1 - beta1**count)
        move = memory.mul((change + exp_avg) / scale, -step_size, over=memory.reuses)
        return rows.add_to(param, move, over=memory.donates), changes
