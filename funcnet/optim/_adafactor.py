"""Adafactor; the counterpart of torch/optim/_adafactor.py."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
from torch import Tensor

from funcnet._typing import Tree
from funcnet.optim._optimizer import Optimizer
from funcnet.optim._scalars import TENSORS, Scalar, as_scalar, is_zero, larger, smaller
from funcnet.optim._state_entries import scalar_dtype, zeros_like
from funcnet.optim._update_operations import Memory, add, lerp


@dataclass(frozen=True, eq=False, repr=False)
class Adafactor(Optimizer):
    """Adafactor: keeps the means of squared gradients of matrices by rows and columns, in little memory.

    Args:
        lr: the largest relative step size, and the factor of weight decay.
        beta2_decay: the power of the step count that weighs a new square.
        eps: the smallest root of a mean square, by default that of the dtype of the param; and the smallest size of a
            param by which its move is scaled.
        d: the largest root mean square of a move, before it is scaled.
        weight_decay: each step first multiplies a param by ``1 - lr * weight_decay``.
        foreach: as in torch; it changes no value here.
        maximize: go up the gradient.
        groups: hyperparameters of some params, by selector.

    State: step (), and row_var (*, M, 1) and col_var (*, 1, N) of a param (*, M, N), or variance with the shape of a
        param of one axis or none.
    Raises: what torch.optim.Adafactor raises for values that it does not take; TreeError for complex params.
    Source: torch.optim.Adafactor; Shazeer and Stern, 2018, arXiv:1804.04235.

    >>> optimizer = Adafactor(lr=0.1)
    >>> params = {"w": torch.ones(2, 3)}
    >>> params, state = optimizer.step(params, {"w": torch.ones(2, 3)}, optimizer.init(params))
    >>> tuple(state["w"]["row_var"].shape), tuple(state["w"]["col_var"].shape), params["w"][0, 0]
    ((2, 1), (1, 3), tensor(0.9000))
    """

    lr: float | Tensor = 1e-2
    beta2_decay: float | Tensor = -0.8
    eps: tuple[float | Tensor | None, float | Tensor] = (None, 1e-3)
    d: float | Tensor = 1.0
    weight_decay: float | Tensor = 0.0
    _: KW_ONLY
    foreach: bool | None = None
    maximize: bool = False

    _has_other_shapes: ClassVar[bool] = True

    def _entry_names(self) -> tuple[str, ...]:
        return ("row_var", "col_var", "variance")

    _is_elementwise: ClassVar[bool] = False

    def _check_param(self, param: Tensor) -> str | None:
        return "Adafactor does not support complex parameters" if param.is_complex() else None

    def _entry_shape(self, name: str, shape: torch.Size) -> torch.Size | None:
        if (name == "variance") != (len(shape) <= 1):
            return None
        if name == "row_var":
            return torch.Size((*shape[:-1], 1))
        return torch.Size((*shape[:-2], 1, shape[-1])) if name == "col_var" else shape

    def _init_entry(self, param: Tensor) -> Tree:
        step = torch.zeros((), dtype=scalar_dtype())
        if param.dim() <= 1:
            return {"step": step, "variance": zeros_like(param)}
        rows, columns = (*param.shape[:-1], 1), (*param.shape[:-2], 1, param.shape[-1])
        return {"step": step, "row_var": param.new_zeros(rows), "col_var": param.new_zeros(columns)}

    def _update_param(self, memory: Memory, param: Tensor, grad: Tensor, entry: Tree) -> tuple[Tensor, Tree]:
        count, step = memory.next_step(entry["step"])
        smallest, smallest_size = self.eps
        if smallest is None:
            smallest = torch.finfo(param.dtype).eps
        if self.maximize:
            grad = -grad
        weight = count**self.beta2_decay
        rate = smaller(self.lr, 1 / (count**0.5)) * larger(smallest_size, _root_mean_square(memory, param))
        shrinks = not is_zero(self.weight_decay)
        if shrinks:
            param = memory.mul(param, 1 - self.lr * self.weight_decay, over=memory.donates)
        changes: Tree = {"step": step}
        if grad.dim() > 1:
            row_var = lerp(entry["row_var"], _mean_square(grad, -1), weight, over=memory.donates)
            col_var = lerp(entry["col_var"], _mean_square(grad, -2), weight, over=memory.donates)
            changes.update(row_var=row_var, col_var=col_var)
            variance = row_var @ col_var / _at_least(row_var.mean(dim=-2, keepdim=True), smallest)
        else:
            variance = lerp(entry["variance"], grad * grad, weight, over=memory.donates)
            changes["variance"] = variance
        move = _at_least(variance, smallest * smallest).rsqrt() * grad
        scale = larger(1.0, _root_mean_square(memory, move) / self.d)
        return add(param, move, -rate / scale, over=memory.reuses if shrinks else memory.donates), changes


def _mean_square(grad: Tensor, dim: int) -> Tensor:
    """The mean of the squares along an axis, without a tensor of all squares."""
    return torch.linalg.vector_norm(grad, dim=dim, keepdim=True).square() / grad.size(dim)


def _root_mean_square(memory: Memory, tensor: Tensor) -> Scalar:
    norm = torch.linalg.vector_norm(tensor)
    if memory.reuses:
        return as_scalar(norm) / (tensor.numel() ** 0.5)
    return norm.to(torch.float64) / (tensor.numel() ** 0.5)


def _at_least(tensor: Tensor, smallest: Scalar) -> Tensor:
    if isinstance(smallest, TENSORS):
        return torch.maximum(tensor, smallest.to(tensor.device, tensor.dtype))
    return tensor.clamp(min=smallest)
