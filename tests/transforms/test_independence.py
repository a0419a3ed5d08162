"""A value that depends on none of the arguments is an error at top level, whatever its arguments are to autograd."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import funcnet as fn

BATCH = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])


def _made_in_inference_mode() -> Tensor:
    with torch.inference_mode():
        return torch.ones(2)


PARAMS: dict[str, Callable[[], Tensor]] = {
    "plain": lambda: torch.ones(2),
    "requires grad": lambda: torch.ones(2, requires_grad=True),
    "inference": _made_in_inference_mode,
}


def value_of_nothing(p: dict[str, Tensor]) -> Tensor:
    return p["w"].detach().sum()


def loss_of_nothing(p: dict[str, Tensor], x: Tensor) -> Tensor:
    return (p["w"].detach() * x).sum()


DERIVATIVES: dict[str, Callable[[Any], Any]] = {
    "grad": lambda p: fn.grad(value_of_nothing)(p),
    "value_and_grad": lambda p: fn.value_and_grad(value_of_nothing)(p),
    "jacobian": lambda p: fn.jacobian(value_of_nothing)(p),
    "hessian": lambda p: fn.hessian(value_of_nothing)(p),
    "hvp": lambda p: fn.hvp(value_of_nothing)(p, p),
    "ggn_vp": lambda p: fn.ggn_vp(value_of_nothing, torch.sum)(p, p),
    "jvp": lambda p: fn.jvp(value_of_nothing, (p,), (p,)),
    "vjp": lambda p: fn.vjp(value_of_nothing, p),
    "per_sample_norms": lambda p: fn.per_sample_norms(loss_of_nothing)(p, BATCH),
    "per_sample_grads": lambda p: fn.per_sample_grads(loss_of_nothing)(p, BATCH),
    "per_sample_dots": lambda p: fn.per_sample_dots(loss_of_nothing)(p, p, BATCH),
    "clipped_grads": lambda p: fn.clipped_grads(loss_of_nothing, 1.0)(p, BATCH),
    "weighted_grads": lambda p: fn.weighted_grads(loss_of_nothing)(p, torch.ones(3), BATCH),
}


@pytest.mark.parametrize("make_param", PARAMS.values(), ids=PARAMS)
@pytest.mark.parametrize("differentiate", DERIVATIVES.values(), ids=DERIVATIVES)
def test_no_derivative_of_nothing_is_zero(
    differentiate: Callable[[Any], Any], make_param: Callable[[], Tensor]
) -> None:
    with pytest.raises(ValueError, match="depends on none of the arguments"):
        differentiate({"w": make_param()})


@pytest.mark.parametrize("differentiate", DERIVATIVES.values(), ids=DERIVATIVES)
def test_inference_mode_changes_nothing(differentiate: Callable[[Any], Any]) -> None:
    with torch.inference_mode(), pytest.raises(ValueError, match="depends on none of the arguments"):
        differentiate({"w": torch.ones(2)})
