"""What Adam, NAdam and RAdam have in common: weight decay of two kinds, and the running means of gradients."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from funcnet.optim._scalars import Scalar, is_zero
from funcnet.optim._update_operations import Memory, add, addcmul, as_real, lerp


def decay_weights(
    memory: Memory, param: Tensor, grad: Tensor, lr: Scalar, weight_decay: Scalar, shrinks_param: bool
) -> tuple[Tensor, Tensor, bool]:
    """The param and the gradient after weight decay, and whether the param is now a tensor that the step made.

    Args:
        memory: what the step may write over.
        param, grad: before weight decay.
        lr: the learning rate.
        weight_decay: the factor of the decay.
        shrinks_param: multiply the param by ``1 - lr * weight_decay``, and leave the gradient as it is; otherwise
            ``weight_decay * param`` is added to the gradient.
    """
    if is_zero(weight_decay):
        return param, grad, False
    if shrinks_param:
        return memory.mul(param, 1 - lr * weight_decay, over=memory.donates), grad, True
    return param, add(grad, param, weight_decay), False


def update_moments(
    memory: Memory, entry: Mapping[str, Tensor], grad: Tensor, beta1: Scalar, beta2: Scalar
) -> tuple[Tensor, Tensor]:
    """The next running means of the gradient and of its square, as real tensors; ``grad`` is real."""
    exp_avg = lerp(as_real(entry["exp_avg"]), grad, 1 - beta1, over=memory.donates)
    exp_avg_sq = memory.mul(as_real(entry["exp_avg_sq"]), beta2, over=memory.donates)
    return exp_avg, addcmul(exp_avg_sq, grad, grad, 1 - beta2, over=memory.reuses)
