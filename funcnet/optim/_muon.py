"""Muon; the counterpart of torch/optim/_muon.py."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from funcnet._typing import Tree
from funcnet.optim._optimizer import Optimizer
from funcnet.optim._state_entries import zeros_like
from funcnet.optim._update_operations import Memory, add, lerp


@dataclass(frozen=True, eq=False, repr=False)
class Muon(Optimizer):
    """Muon: moves matrices by their momentum, made nearly orthogonal.

    ``buffer = momentum * buffer + (1 - momentum) * g``. The move is ``buffer`` (with ``nesterov`` a step further from
    ``g`` towards it) after ``ns_steps`` of the Newton-Schulz iteration, which computes in bfloat16. Other params than
    matrices take a different optimizer: see ``fn.tree.partition``.

    Args:
        lr: the learning rate.
        weight_decay: each step first multiplies a param by ``1 - lr * weight_decay``.
        momentum: what part of the buffer is kept in each step.
        nesterov: mix the buffer with the gradient once more.
        ns_coefficients: coefficients of the Newton-Schulz polynomial.
        eps: the smallest norm that a buffer is divided by.
        ns_steps: how often the polynomial is applied; less than 100.
        adjust_lr_fn: how the learning rate depends on the shape (A, B) of a param: "original" (or None) multiplies it
            by ``sqrt(max(1, A / B))``, "match_rms_adamw" by ``0.2 * sqrt(max(A, B))``, and, where torch has it (since
            2.14), "spectral_unclamped" by ``sqrt(A / B)``.
        groups: hyperparameters of some params, by selector.

    State: momentum_buffer with the shape of the param.
    Raises: what torch.optim.Muon raises for values that it does not take; TreeError for params that are not matrices.
    Source: torch.optim.Muon; Jordan, 2024, https://kellerjordan.github.io/posts/muon/.

    >>> optimizer = Muon(lr=0.1, weight_decay=0.0)
    >>> params = {"w": torch.zeros(2, 2)}
    >>> params, _ = optimizer.step(params, {"w": torch.eye(2)}, optimizer.init(params))
    >>> bool(params["w"][0, 0] < -0.05), float(params["w"][0, 1])
    (True, 0.0)
    """

    lr: float | Tensor = 1e-3
    weight_decay: float | Tensor = 0.1
    momentum: float | Tensor = 0.95
    nesterov: bool = True
    ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315)
    eps: float = 1e-7
    ns_steps: int = 5
    adjust_lr_fn: str | None = None

    _is_elementwise: ClassVar[bool] = False

    def _check_param(self, param: Tensor) -> str | None:
        if param.is_complex():
            return "Muon does not support complex parameters"
        if param.dim() != 2:
            return f"Muon only supports 2D parameters, and this has shape {tuple(param.shape)}"
        return None

    def _entry_names(self) -> tuple[str, ...]:
        return ("momentum_buffer",)

    def _init_entry(self, param: Tensor) -> Tree:
        return {"momentum_buffer": zeros_like(param)}

    def _update_param(self, memory: Memory, param: Tensor, grad: Tensor, entry: Tree) -> tuple[Tensor, Tree]:
        buffer = lerp(entry["momentum_buffer"], grad, 1 - self.momentum, over=memory.donates)
        move = self._orthogonalize(lerp(grad, buffer, self.momentum) if self.nesterov else buffer)
        param = memory.mul(param, 1 - self.lr * self.weight_decay, over=memory.donates)
        rate = self.lr * self._rate_factor(*param.shape)
        return add(param, move, -rate, over=memory.reuses), {"momentum_buffer": buffer}

    def _orthogonalize(self, matrix: Tensor) -> Tensor:
        """An approximation of the nearest orthogonal matrix, by the Newton-Schulz iteration in bfloat16."""
        if self.ns_steps >= 100:
            raise ValueError(f"Muon takes less than 100 steps of the Newton-Schulz iteration, got {self.ns_steps}.")
        a, b, c = self.ns_coefficients
        is_tall = matrix.size(0) > matrix.size(1)
        x = matrix.bfloat16()
        x = x.T if is_tall else x
        x = x / x.norm().clamp(min=self.eps)
        for _ in range(self.ns_steps):
            gram = x @ x.T
            polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)
            x = torch.addmm(x, polynomial, x, beta=a)
        return x.T if is_tall else x

    def _rate_factor(self, rows: int, columns: int) -> float:
        if self.adjust_lr_fn in (None, "original"):
            return math.sqrt(max(1, rows / columns))
        if self.adjust_lr_fn == "match_rms_adamw":
            return 0.2 * math.sqrt(max(rows, columns))
        if self.adjust_lr_fn == "spectral_unclamped":
            return math.sqrt(rows / columns)
        raise NotImplementedError(  # a name that only a newer torch has
            f"Muon: adjust_lr_fn={self.adjust_lr_fn!r} is not known; take 'original', 'match_rms_adamw' or "
            "'spectral_unclamped', or give groups a learning rate of their own."
        )
