"""Adam and AdamW; the counterparts of torch/optim/adam.py and adamw.py."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from funcnet._torch import fused_adam, fused_adamw
from funcnet._typing import Tree
from funcnet.optim._fused import Columns, FusedOptimizer
from funcnet.optim._moments import decay_weights, update_moments
from funcnet.optim._state_entries import zero_step, zeros_like
from funcnet.optim._update_operations import Memory, addcdiv, as_dtype_of, as_real, maximum

Betas: TypeAlias = "tuple[float | Tensor, float | Tensor]"


@dataclass(frozen=True, eq=False, repr=False)
class _AdamFamily(FusedOptimizer):
    """The update that Adam and AdamW share."""

    lr: float | Tensor = 1e-3
    betas: Betas = (0.9, 0.999)
    eps: float | Tensor = 1e-8
    weight_decay: float | Tensor = 0
    amsgrad: bool = False
    _: KW_ONLY
    foreach: bool | None = None
    maximize: bool = False
    capturable: bool = False
    differentiable: bool = False
    fused: bool | None = None

    def _decays_param(self) -> bool:
        """Whether weight decay shrinks the param, rather than being added to the gradient."""
        raise NotImplementedError

    def _entry_names(self) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if self.amsgrad else ("exp_avg", "exp_avg_sq")

    def _init_entry(self, param: Tensor) -> Tree:
        step = zero_step(param, bool(self.capturable or self.fused), torch.float32 if self.fused else None)
        return {"step": step, **{name: zeros_like(param) for name in self._entry_names()}}

    def _update_param(self, memory: Memory, param: Tensor, grad: Tensor, entry: Tree) -> tuple[Tensor, Tree]:
        count, step = memory.next_step(entry["step"])
        beta1, beta2 = self.betas
        old_param = param
        if self.maximize:
            grad = -grad
        param, grad, shrinks = decay_weights(memory, param, grad, self.lr, self.weight_decay, self._decays_param())
        grad = as_real(grad)
        exp_avg, exp_avg_sq = update_moments(memory, entry, grad, beta1, beta2)
        changes = {"step": step, "exp_avg": as_dtype_of(exp_avg, param), "exp_avg_sq": as_dtype_of(exp_avg_sq, param)}
        step_size = self.lr / (1 - beta1**count)
        largest = exp_avg_sq
        if self.amsgrad:
            largest = maximum(as_real(entry["max_exp_avg_sq"]), exp_avg_sq, over=memory.donates)
            changes["max_exp_avg_sq"] = as_dtype_of(largest, param)
        scale = memory.div(memory.sqrt(largest), (1 - beta2**count) ** 0.5, over=memory.reuses)
        scale = memory.add_scalar(scale, self.eps, over=memory.reuses)
        new_param = addcdiv(
            as_real(param), exp_avg, scale, -step_size, over=memory.reuses if shrinks else memory.donates
        )
        return as_dtype_of(new_param, old_param), changes

    def _step_fused(self, params: list[Tensor], grads: list[Tensor], columns: Columns) -> None:
        kernel = fused_adamw if self._decays_param() else fused_adam
        beta1, beta2 = self.betas
        kernel(
            params,
            grads,
            columns["exp_avg"],
            columns["exp_avg_sq"],
            columns["max_exp_avg_sq"] if self.amsgrad else [],
            columns["step"],
            lr=self.lr,
            beta1=beta1,
            beta2=beta2,
            weight_decay=self.weight_decay,
            eps=self.eps,
            amsgrad=self.amsgrad,
            maximize=self.maximize,
        )


@dataclass(frozen=True, eq=False, repr=False)
class Adam(_AdamFamily):
    """Adam: steps by running means of gradients and of their squares.

    ``m = beta1 * m + (1 - beta1) * g``, ``v = beta2 * v + (1 - beta2) * g**2``, and
    ``param = param - lr * m' / (sqrt(v') + eps)``, where ``m'`` and ``v'`` are divided by ``1 - beta**step`` and ``g``
    is the gradient plus ``weight_decay * param``.

    Args:
        lr: the learning rate.
        betas: what parts of the two running means are kept in each step.
        eps: added to the root, so that nothing is divided by zero.
        weight_decay: the factor of an L2 penalty; with ``decoupled_weight_decay`` as in :class:`AdamW`.
        amsgrad: divide by the largest ``v`` so far.
        maximize: go up the gradient.
        foreach, differentiable: as in torch; they change no value here.
        capturable: keep step counts on the device of the params.
        fused: use torch's fused kernel where nobody differentiates through the step. It rounds differently.
        decoupled_weight_decay: shrink params by ``1 - lr * weight_decay``, and leave gradients as they are.
        groups: hyperparameters of some params, by selector.

    State: step (), exp_avg, exp_avg_sq and with ``amsgrad`` max_exp_avg_sq with the shape of the param.
    Raises: what torch.optim.Adam raises for values that it does not take.
    Source: torch.optim.Adam; Kingma and Ba, 2015, arXiv:1412.6980.

    >>> optimizer = Adam(lr=0.1)
    >>> params = {"w": torch.tensor([1.0, 2.0])}
    >>> params, state = optimizer.step(params, {"w": torch.tensor([3.0, -0.5])}, optimizer.init(params))
    >>> params, state["w"]["step"]
    ({'w': tensor([0.9000, 2.1000])}, tensor(1.))
    """

    _: KW_ONLY
    decoupled_weight_decay: bool = False

    def _decays_param(self) -> bool:
        return self.decoupled_weight_decay


@dataclass(frozen=True, eq=False, repr=False)
class AdamW(_AdamFamily):
    """Adam whose weight decay shrinks the params and does not pass through the running means.

    Args:
        lr, betas, eps, amsgrad, maximize, foreach, capturable, differentiable, fused, groups: as in :class:`Adam`.
        weight_decay: each step first multiplies a param by ``1 - lr * weight_decay``.

    State: step (), exp_avg, exp_avg_sq and with ``amsgrad`` max_exp_avg_sq with the shape of the param.
    Raises: what torch.optim.AdamW raises for values that it does not take.
    Source: torch.optim.AdamW; Loshchilov and Hutter, 2019, arXiv:1711.05101.

    >>> import funcnet as fn
    >>> optimizer = AdamW(lr=0.1, groups={"**.bias": {"weight_decay": 0.0}})
    >>> params = {"fc": {"weight": torch.ones(1, 1), "bias": torch.ones(1)}}
    >>> grads = fn.tree.map(torch.ones_like, params)
    >>> optimizer.step(params, grads, optimizer.init(params))[0]
    {'fc': {'weight': tensor([[0.8990]]), 'bias': tensor([0.9000])}}
    """

    weight_decay: float | Tensor = 1e-2

    def _decays_param(self) -> bool:
        return True
