"""What people take derivatives of derivatives for, each against finite differences in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import funcnet as fn
from tests.helpers import parametrize

GENERATOR = torch.Generator().manual_seed(0)


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=GENERATOR, dtype=torch.float64)


def random_like(tree: Any) -> Any:
    return fn.tree.map(lambda leaf: randn(*leaf.shape), tree)


def assert_slope(loss: Any, params: Any, grads: Any) -> None:
    """The gradients of a loss give its slope along some direction."""
    direction, step = fn.tree.scale(random_like(params), 0.3), 5e-4
    far_behind, behind, ahead, far_ahead = (
        loss(fn.tree.add(params, direction, alpha=place * step)) for place in (-2, -1, 1, 2)
    )
    slope = (8 * (ahead - behind) - (far_ahead - far_behind)) / (12 * step)
    torch.testing.assert_close(fn.tree.dot(grads, direction), slope, rtol=1e-5, atol=1e-6)


GRADS = {
    "fn.value_and_grad": lambda loss, params: fn.value_and_grad(loss)(params)[1],
    "fn.grad": lambda loss, params: fn.grad(loss)(params),
    "torch.func.grad": lambda loss, params: torch.func.grad(loss)(params),
}
SECOND_DERIVATIVES = {
    "jvp(jvp)": lambda u, x: fn.jvp(lambda x: fn.jvp(u, (x,), (torch.ones_like(x),))[1], (x,), (torch.ones_like(x),))[
        1
    ],
    "grad(grad)": lambda u, x: fn.grad(lambda x: fn.grad(lambda x: u(x).sum())(x).sum())(x),
    "hvp": lambda u, x: fn.hvp(lambda x: u(x).sum())(x, torch.ones_like(x)),
    "vmap(hessian)": lambda u, x: torch.vmap(fn.hessian(lambda one: u(one[None])[0]))(x).view(-1),
    "torch.func.jvp(fn.grad)": lambda u, x: torch.func.jvp(fn.grad(lambda x: u(x).sum()), (x,), (torch.ones_like(x),))[
        1
    ],
}


@pytest.mark.parametrize("grad", GRADS)
@pytest.mark.parametrize("second", SECOND_DERIVATIVES)
def test_a_physics_informed_net_with_a_norm(second, grad):
    # -u''(x) = sin(x): a second derivative in x, and the gradient in the params around it
    net = fn.Sequential(fn.Linear(1, 6), fn.LayerNorm(6), fn.Tanh(), fn.Linear(6, 1))
    params, _ = net.init(0, dtype=torch.float64)
    x = torch.linspace(0, 1, 5, dtype=torch.float64)

    def loss(params):
        def u(x):
            return net(params, x[:, None])[:, 0]

        residual = SECOND_DERIVATIVES[second](u, x) + x.sin()
        return F.mse_loss(residual, torch.zeros_like(residual)) + u(x[:1]).square().sum()

    assert_slope(loss, params, GRADS[grad](loss, params))


@parametrize(form=["layers", "functions"])
@pytest.mark.parametrize("grad", GRADS)
def test_an_energy_whose_gradient_is_a_force(form, grad):
    # atoms attend to each other; the loss is about the gradient of the energy, so its own is a second one
    attention = fn.MultiheadAttention(4, 2, batch_first=True)
    net = fn.ModuleDict(
        {"embed": fn.Linear(3, 4), "attention": attention, "norm": fn.LayerNorm(4), "out": fn.Linear(4, 1)}
    )
    params, _ = net.init(0, dtype=torch.float64)
    positions, forces, energy = randn(5, 3), randn(5, 3), randn()

    def compute_energy(params, positions):
        x = F.linear(positions, params["embed"]["weight"], params["embed"]["bias"])
        if form == "layers":
            x = net["norm"](params["norm"], x + attention(params["attention"], x, x, x, need_weights=False)[0])
        else:
            x = F.layer_norm(x + F.scaled_dot_product_attention(x[None], x[None], x[None])[0], (4,))
        return F.softplus(F.linear(x, params["out"]["weight"], params["out"]["bias"])).sum()

    def loss(params):
        value, gradient = fn.value_and_grad(compute_energy, argnums=1)(params, positions)
        return F.mse_loss(-gradient, forces) + F.mse_loss(value, energy)

    assert_slope(loss, params, GRADS[grad](loss, params))


def test_influence_of_an_example_on_the_loss_of_another():
    # by how much the loss at a test point changes if a training example gets more weight: Newton's step, by hvp
    net = fn.Linear(3, 2)
    params, _ = net.init(0, dtype=torch.float64)
    x, y = randn(12, 3), torch.arange(12) % 2
    test_x, test_y = randn(1, 3), torch.tensor([1])
    flat, unravel = fn.tree.ravel(params)

    def loss(params, weights):
        losses = F.cross_entropy(net(params, x), y, reduction="none")
        return (weights * losses).mean() + 0.05 * fn.tree.norm(params) ** 2

    def solve(weights):
        """The minimum, by Newton's method with products of the Hessian alone."""
        current = params
        for _ in range(8):
            columns = torch.vmap(fn.hvp(lambda flat: loss(unravel(flat), weights)), in_dims=(None, 0))
            matrix = columns(fn.tree.ravel(current)[0], torch.eye(len(flat), dtype=torch.float64))
            gradient = fn.tree.ravel(fn.grad(loss)(current, weights))[0]
            current = fn.tree.sub(current, unravel(torch.linalg.solve(matrix, gradient)))
        return current

    def test_loss(params):
        return F.cross_entropy(net(params, test_x), test_y)

    ones = torch.ones(12, dtype=torch.float64)
    minimum = solve(ones)
    at_minimum = fn.tree.ravel(minimum)[0]
    matrix = fn.hessian(lambda flat: loss(unravel(flat), ones))(at_minimum)
    towards = torch.linalg.solve(matrix, fn.tree.ravel(fn.grad(test_loss)(minimum))[0])
    by_example = fn.jacobian(lambda weights: fn.tree.ravel(fn.grad(loss)(minimum, weights))[0])(ones)
    influences = -(towards @ by_example)
    for example in (0, 7):
        step = 1e-4 * torch.nn.functional.one_hot(torch.tensor(example), 12)
        change = (test_loss(solve(ones + step)) - test_loss(solve(ones - step))) / 2e-4
        torch.testing.assert_close(influences[example], change, rtol=1e-5, atol=1e-9)


INNER = {
    "fn.grad": fn.grad,
    "fn.value_and_grad": lambda loss: lambda params: fn.value_and_grad(loss)(params)[1],
    "torch.func.grad": torch.func.grad,
    "fn.vjp": lambda loss: lambda params: fn.vjp(loss, params)[1](torch.ones((), dtype=torch.float64)),
}


@pytest.mark.parametrize("outer", GRADS)
@pytest.mark.parametrize("inner", INNER)
def test_maml_over_a_transformer(inner, outer):
    net = fn.TransformerEncoderLayer(4, 2, 6, 0.0, activation="gelu", batch_first=True)
    params, _ = net.init(0, dtype=torch.float64)
    support, query = randn(2, 3, 4), randn(2, 3, 4)

    def task_loss(params, x):
        return F.mse_loss(net(params, x), x.sin())

    def loss(params):
        for _ in range(2):
            gradients = INNER[inner](lambda params: task_loss(params, support))(params)
            params = fn.tree.sub(params, gradients, alpha=0.1)
        return task_loss(params, query)

    assert_slope(loss, params, GRADS[outer](loss, params))


def test_maml_over_a_batch_of_tasks():
    net = fn.TransformerEncoderLayer(4, 2, 6, 0.0, activation="gelu", batch_first=True)
    params, _ = net.init(0, dtype=torch.float64)
    tasks = randn(3, 2, 3, 4)

    def loss_after(params, x):
        def task_loss(params):
            return F.mse_loss(net(params, x), x.sin())

        return task_loss(fn.tree.sub(params, fn.grad(task_loss)(params), alpha=0.1))

    def loss(params):
        return torch.vmap(loss_after, in_dims=(None, 0))(params, tasks).mean()

    assert_slope(loss, params, fn.grad(loss)(params))


def test_newton_and_gauss_newton_steps_descend():
    # a curvature that is solved by conjugate gradients on trees
    net = fn.Sequential(fn.Linear(2, 3), fn.Tanh(), fn.Linear(3, 1))
    params, _ = net.init(0, dtype=torch.float64)
    x, y = randn(20, 2), randn(20, 1)

    def loss_of_output(output):
        return F.mse_loss(output, y)

    def loss(params):
        return loss_of_output(net(params, x))

    def multiply(vector):
        return fn.tree.add(fn.ggn_vp(net, loss_of_output)(params, vector, x), vector, alpha=1e-3)

    target = fn.tree.scale(fn.grad(loss)(params), -1.0)
    step, residual = fn.tree.zeros_like(params), target
    direction, rest = residual, fn.tree.dot(residual, residual)
    for _ in range(40):
        product = multiply(direction)
        length = rest / fn.tree.dot(direction, product)
        step, residual = fn.tree.add(step, direction, alpha=length), fn.tree.sub(residual, product, alpha=length)
        rest, before = fn.tree.dot(residual, residual), rest
        direction = fn.tree.add(residual, direction, alpha=rest / before)
        if rest < 1e-20:
            break
    torch.testing.assert_close(multiply(step), target)
    assert loss(fn.tree.add(params, step, alpha=0.05)) < loss(params)
