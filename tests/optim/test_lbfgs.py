"""L-BFGS takes the loss as a function; its moves and its state have the bits of torch.optim.LBFGS."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import funcnet as fn
from tests.helpers import assert_identical, clone, parametrize
from tests.optim.table import rows

ROWS = [row for row in rows(with_lbfgs=True) if row.class_name == "LBFGS"]
PATHS = ["a.weight", "a.bias", "b.weight"]


def make_params(dtype: torch.dtype) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"a.weight": (3, 4), "a.bias": (4,), "b.weight": (4, 2)}
    return fn.tree.unflatten(
        {path: torch.randn(shape, generator=generator, dtype=dtype) for path, shape in shapes.items()}
    )


def make_loss(dtype: torch.dtype) -> Any:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(16, 3, generator=generator, dtype=dtype)
    y = torch.randn(16, 2, generator=generator, dtype=dtype)

    def loss(params: dict[str, Any]) -> Tensor:
        hidden = torch.tanh(x @ params["a"]["weight"] + params["a"]["bias"])
        return (hidden @ params["b"]["weight"] - y).abs().square().mean()

    return loss


@parametrize(row=ROWS, dtype=[torch.float32, torch.float64, torch.complex64], history_size=[100, 3])
def test_steps_have_torchs_bits(row, dtype, history_size):
    params, loss = make_params(dtype), make_loss(dtype)
    flat = {path: leaf.clone().requires_grad_() for path, leaf in fn.tree.flatten(params).items()}
    theirs = row.theirs(list(flat.values()), max_iter=5, history_size=history_size)
    optimizer = row.ours(max_iter=5, history_size=history_size)

    def closure() -> Tensor:
        theirs.zero_grad()
        value = loss(fn.tree.unflatten(flat))
        value.backward()
        return value

    state = optimizer.init(params)
    for _ in range(10):
        before = clone((params, state))
        new_params, new_state = optimizer.step(params, loss, state)
        assert_identical((params, state), before)
        params, state = new_params, new_state
        theirs.step(closure)
        assert_identical(fn.tree.flatten(params), {path: leaf.detach() for path, leaf in flat.items()})
        entry = dict(theirs.state[flat["a.weight"]])
        if isinstance(row.arguments.get("lr"), Tensor):
            entry["t"] = entry["t"].item()  # the number of the learning rate's tensor
        assert_identical(state["a"]["weight"], entry)


@parametrize(line_search_fn=[None, "strong_wolfe"])
def test_a_step_can_be_differentiated(line_search_fn):
    optimizer = fn.optim.LBFGS(lr=0.1, max_iter=4, line_search_fn=line_search_fn)
    params, loss = make_params(torch.float64), make_loss(torch.float64)

    def loss_after(bias: Tensor, lr: Tensor) -> Tensor:
        start = {"a": {"weight": params["a"]["weight"], "bias": bias}, "b": params["b"]}
        after, state = optimizer.step(start, loss, optimizer.init(start), lr=lr)
        return loss(optimizer.step(after, loss, state, lr=lr)[0])

    bias, lr = params["a"]["bias"], torch.tensor(0.1, dtype=torch.float64)
    direction = torch.linspace(-1, 1, 4, dtype=torch.float64)
    leaves = (bias.clone().requires_grad_(), lr.clone().requires_grad_())
    for grads in (
        torch.func.grad(loss_after, argnums=(0, 1))(bias, lr),
        fn.value_and_grad(loss_after, argnums=(0, 1))(bias, lr)[1],
        torch.autograd.grad(loss_after(*leaves), leaves),
    ):
        by_bias = (loss_after(bias + 1e-6 * direction, lr) - loss_after(bias - 1e-6 * direction, lr)) / 2e-6
        by_lr = (loss_after(bias, lr + 1e-6) - loss_after(bias, lr - 1e-6)) / 2e-6
        torch.testing.assert_close(grads[0].dot(direction), by_bias, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(grads[1], by_lr, rtol=1e-5, atol=1e-7)


def test_tied_params_stay_one_and_other_leaves_stay_as_they_are():
    weight = torch.ones(3)
    params = {"a": weight, "b": weight, "count": torch.tensor(3), "gone": fn.tree.ABSENT}
    optimizer = fn.optim.LBFGS()

    def loss(params: dict[str, Any]) -> Tensor:
        return (params["a"] * params["b"]).sum()

    state = optimizer.init(params)
    new_params, new_state = optimizer.step(params, loss, state)
    assert new_params["a"] is new_params["b"] and new_params["count"] is params["count"]
    assert new_params["gone"] is fn.tree.ABSENT and new_state["count"] == {} and new_state["a"]["n_iter"] > 0
    alone, _ = optimizer.step({"a": weight}, lambda params: (params["a"] * params["a"]).sum(), {"a": {}})
    assert_identical(new_params["a"], alone["a"])


def test_what_it_does_not_take_is_refused():
    params = {"w": torch.ones(2)}
    optimizer = fn.optim.LBFGS()
    with pytest.raises(TypeError, match="takes the loss as a function of params, not dict"):
        optimizer.step(params, {"w": torch.ones(2)}, optimizer.init(params))
    with pytest.raises(ValueError, match="doesn't support per-parameter options"):
        fn.optim.LBFGS(groups={"w": {"lr": 0.1}})
    with pytest.raises(ValueError, match="only supports the line search 'strong_wolfe', got 'backtracking'"):
        fn.optim.LBFGS(line_search_fn="backtracking")
    with pytest.raises(fn.TransformError, match="loop over the members"):
        torch.vmap(lambda w: optimizer.step({"w": w}, lambda p: p["w"].sum(), {"w": {}})[0])(torch.ones(2, 2))
