"""Steps under grad, autograd, vmap and torch.compile."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

import funcnet as fn
from tests.helpers import assert_identical, clone, parametrize
from tests.optim.table import rows

DENSE = ["SGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam"]
DENSE += ["Adagrad", "Adadelta", "RMSprop", "Rprop", "ASGD", "Adafactor"]
ARGUMENTS: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    "Adam": {"weight_decay": 0.1, "amsgrad": True},
    "RAdam": {"betas": (0.9, 0.9)},  # with which it is rectified after a few steps
    "RMSprop": {"momentum": 0.5, "centered": True, "eps": 1e-4},
}
F64 = torch.float64
X = torch.linspace(-1, 1, 20, dtype=F64).view(5, 4)
Y = torch.linspace(1, -1, 15, dtype=F64).view(5, 3).sin()
W = torch.linspace(-0.7, 0.9, 12, dtype=F64).view(4, 3)


def make(name: str, **more: Any) -> Any:
    return getattr(fn.optim, name)(**ARGUMENTS.get(name, {}), **more)


def loss(params: dict[str, Any], x: Tensor) -> Tensor:
    return (torch.tanh(x @ params["w"]) - Y).square().mean()


def gradient_by_autograd(params: dict[str, Any], x: Tensor) -> dict[str, Any]:
    return {"w": torch.autograd.grad(loss(params, x), params["w"], create_graph=True)[0]}


def loss_after_steps(optimizer: Any, gradient: Any, steps: int = 8) -> Any:
    def compute(w: Tensor, x: Tensor, lr: Tensor) -> Tensor:
        params = {"w": w}
        state = optimizer.init(params, lr=lr)
        for _ in range(steps):
            params, state = optimizer.step(params, gradient(params, x), state, lr=lr)
        return loss(params, X)

    return compute


def grads_by_autograd(compute: Any) -> Any:
    def run(*arguments: Tensor) -> tuple[Tensor, ...]:
        leaves = [argument.clone().requires_grad_() for argument in arguments]
        return torch.autograd.grad(compute(*leaves), leaves)

    return run


WAYS = {
    "func": (torch.func.grad(loss), lambda compute: torch.func.grad(compute, argnums=(0, 1, 2))),
    "value_and_grad": (
        lambda params, x: fn.value_and_grad(loss)(params, x)[1],
        lambda compute: lambda *arguments: fn.value_and_grad(compute, argnums=(0, 1, 2))(*arguments)[1],
    ),
    "create_graph": (gradient_by_autograd, grads_by_autograd),
}


@parametrize(name=DENSE, way=list(WAYS))
def test_gradients_through_steps_are_those_of_finite_differences(name, way):
    gradient, outer = WAYS[way]
    compute = loss_after_steps(make(name), gradient)
    arguments = (W, X, torch.tensor(0.05, dtype=F64))
    grads = outer(compute)(*arguments)
    plain = loss_after_steps(make(name), torch.func.grad(loss))
    for at, (argument, grad) in enumerate(zip(arguments, grads, strict=True)):
        direction = torch.linspace(-1, 1, argument.numel(), dtype=F64).view(argument.shape).cos()
        sides = []
        for sign in (1, -1):
            moved = [*arguments]
            moved[at] = argument + sign * 1e-6 * direction
            sides.append(plain(*moved))
        expected = (sides[0] - sides[1]) / 2e-6
        torch.testing.assert_close((grad * direction).sum(), expected, rtol=1e-5, atol=1e-8)


@parametrize(name=DENSE)
def test_gradients_through_steps_are_mapped_over_tasks_with_a_learning_rate_each(name):
    gradient, outer = WAYS["func"]
    compute = outer(loss_after_steps(make(name), gradient, steps=4))
    tasks, rates = torch.stack([X, X.sin(), -X]), torch.tensor([0.01, 0.05, 0.1], dtype=F64)
    mapped = torch.vmap(compute, in_dims=(None, 0, 0))(W, tasks, rates)
    loop = [compute(W, x, lr) for x, lr in zip(tasks, rates, strict=True)]
    for at, grads in enumerate(mapped):
        torch.testing.assert_close(grads, torch.stack([one[at] for one in loop]))


def sparse_gradient(params: dict[str, Any], x: Tensor) -> dict[str, Any]:
    rows = torch.tensor([[0, 2, 2]])
    values = (params["w"][rows[0]] - x[:3, :3]).sin()
    return {"w": torch.sparse_coo_tensor(rows, values, params["w"].shape, check_invariants=False)}


@parametrize(name=["Muon", "SparseAdam"], way=list(WAYS))
def test_gradients_through_steps_of_matrices_and_of_sparse_gradients(name, way, monkeypatch):
    monkeypatch.setattr(Tensor, "bfloat16", lambda tensor: tensor)  # in which finite differences of Muon are noise
    gradient, outer = WAYS[way]
    if name == "SparseAdam":
        gradient = sparse_gradient
    compute = loss_after_steps(make(name), gradient, steps=4)
    arguments = (W, X, torch.tensor(0.05, dtype=F64))
    for at, grad in enumerate(outer(compute)(*arguments)):
        direction = torch.linspace(-1, 1, arguments[at].numel(), dtype=F64).view(arguments[at].shape).cos()
        sides = []
        for sign in (1, -1):
            moved = [*arguments]
            moved[at] = arguments[at] + sign * 1e-6 * direction
            sides.append(compute(*moved).detach() if way != "create_graph" else compute(*with_grad(moved)).detach())
        torch.testing.assert_close((grad * direction).sum(), (sides[0] - sides[1]) / 2e-6, rtol=1e-5, atol=1e-8)


def with_grad(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.clone().requires_grad_() for tensor in tensors]


@parametrize(name=DENSE)
def test_values_under_grad_are_those_of_plain_steps(name):
    params = {"w": W.float()}
    optimizer = make(name)

    def run(w: Tensor) -> Any:
        params, state = {"w": w}, optimizer.init({"w": w})
        for _ in range(6):
            params, state = optimizer.step(params, {"w": (params["w"] - 0.3).sin()}, state)
        return params["w"].sum(), (params, state)

    _, plain = run(params["w"])
    _, (_, under_grad) = torch.func.grad_and_value(run, has_aux=True)(params["w"])
    assert_identical(under_grad, plain)


def hyperparameters_to_differentiate() -> list[tuple[str, str, float]]:
    table = {
        "SGD": {"momentum": 0.8, "dampening": 0.1, "weight_decay": 0.2},
        "AdamW": {"eps": 0.01, "weight_decay": 0.2},
        "Adamax": {"eps": 0.01, "weight_decay": 0.2},
        "NAdam": {"eps": 0.01, "momentum_decay": 0.01, "weight_decay": 0.2},
        "RAdam": {"eps": 0.01, "weight_decay": 0.2},
        "Adagrad": {"lr_decay": 0.1, "eps": 0.01, "initial_accumulator_value": 0.1},
        "Adadelta": {"rho": 0.8, "eps": 0.01},
        "RMSprop": {"alpha": 0.9, "eps": 0.01, "momentum": 0.5},
        "ASGD": {"lambd": 0.01, "alpha": 0.7},
        "Adafactor": {"beta2_decay": -0.7, "weight_decay": 0.2},
    }
    return [(name, argument, value) for name, of_one in table.items() for argument, value in of_one.items()]


@pytest.mark.parametrize(("name", "argument", "value"), hyperparameters_to_differentiate())
def test_every_hyperparameter_can_be_differentiated(name, argument, value):
    def compute(tensor: Tensor) -> Tensor:
        more = {"SGD": {"momentum": 0.9}, "RAdam": {"betas": (0.9, 0.9)}}.get(name, {})
        optimizer = getattr(fn.optim, name)(**{"lr": 0.05, **more, argument: tensor})
        params = {"w": W}
        state = optimizer.init(params)
        for _ in range(8):
            params, state = optimizer.step(params, torch.func.grad(loss)(params, X), state)
        return loss(params, X)

    tensor = torch.tensor(value, dtype=F64)
    expected = (compute(tensor + 1e-6) - compute(tensor - 1e-6)) / 2e-6
    torch.testing.assert_close(torch.func.grad(compute)(tensor), expected, rtol=1e-4, atol=1e-8)
    assert expected != 0


@parametrize(name=DENSE)
def test_where_a_gradient_is_zero_gradients_through_steps_are_finite(name):
    optimizer = make(name, lr=0.1)
    start = torch.tensor([1.0, 2.0], dtype=F64)

    def compute(w: Tensor) -> Tensor:
        params, state = {"w": w}, optimizer.init({"w": w})
        for _ in range(4):
            grads = torch.func.grad(lambda params: (params["w"][0] ** 2).sum())(params)
            params, state = optimizer.step(params, grads, state)
        return params["w"].square().sum()

    assert torch.func.grad(compute)(start).isfinite().all()


@parametrize(row=rows(), dtype=[torch.float32, torch.float64, torch.complex64])
def test_mapped_steps_with_a_learning_rate_for_each_member_are_those_of_a_loop(row, dtype):
    if dtype.is_complex and not row.info.supports_complex:
        pytest.skip("torch takes no complex params here")
    optimizer, rates = row.ours(), torch.tensor([1e-2, 3e-3, 1e-1])
    params = [row.params(dtype, seed=seed) for seed in range(3)]
    states = [optimizer.init(member, lr=rate) for member, rate in zip(params, rates, strict=True)]
    stacked = stack(params)
    state = torch.vmap(lambda params, lr: optimizer.init(params, lr=lr))(stacked, rates)
    assert state["b"]["weight"].get("step", torch.zeros(3)).shape == (3,)
    for index in range(5):
        grads = [row.params(dtype, seed=10 * index + 3 + member) for member in range(3)]
        stacked, state = torch.vmap(lambda *trees: optimizer.step(*trees[:3], lr=trees[3]))(
            stacked, stack(grads), state, rates
        )
        for at in range(3):
            params[at], states[at] = optimizer.step(params[at], grads[at], states[at], lr=rates[at])
    if row.class_name == "Muon":  # products of matrices in bfloat16 are rounded otherwise when they are batched
        torch.testing.assert_close(stacked, stack(params), rtol=0.02, atol=0.02)
    else:
        assert_identical((stacked, state), (stack(params), stack(states)))


def stack(trees: list[Any]) -> Any:
    return fn.tree.map(lambda *leaves: torch.stack(leaves), *trees)


@parametrize(name=[name for name in DENSE if name != "Adafactor"], donate=[False, True])
def test_stacked_members_stepped_at_once_have_their_own_bits(name, donate):
    optimizer = make(name)
    row = next(row for row in rows() if row.class_name == name)
    params = [row.params(torch.float32, seed=seed) for seed in range(3)]
    states = [optimizer.init(member) for member in params]
    stacked = stack(params)
    state = optimizer.init(stacked)
    for index in range(5):
        grads = [row.params(torch.float32, seed=10 * index + 3 + member) for member in range(3)]
        stacked, state = optimizer.step(stacked, stack(grads), state, donate=donate)
        for at in range(3):
            params[at], states[at] = optimizer.step(params[at], grads[at], states[at])
    assert_identical(stacked, stack(params))


@parametrize(name=[*DENSE, "Muon"])
def test_a_training_step_is_one_graph_whatever_the_step_and_the_learning_rate(name):
    torch._dynamo.reset()
    optimizer = make(name, groups={"w2": {"lr": 0.01}})
    params = {"w1": torch.linspace(-1, 1, 12).view(4, 3), "w2": torch.linspace(-1, 1, 9).view(3, 3)}
    state = optimizer.init(params)
    if name == "SGD":  # the first step makes its buffers, which is another structure and another graph
        params, state = optimizer.step(params, clone(params), state)
    x = torch.linspace(-1, 1, 20).view(5, 4)

    def step(params: Any, state: Any, lr: Tensor) -> Any:
        _, grads = fn.value_and_grad(lambda params: (x @ params["w1"] @ params["w2"]).square().mean())(params)
        return optimizer.step(params, grads, state, lr=lr)

    counter = CompileCounter()
    compiled = torch.compile(step, backend=counter, fullgraph=True)
    ours, ours_state = params, state
    for index in range(4):
        lr = torch.tensor(0.001 * (index + 1))
        params, state = compiled(params, state, lr)
        ours, ours_state = step(ours, ours_state, lr)
    assert counter.frame_count == 1
    assert_identical((params, state), (ours, ours_state))


def test_a_step_can_be_exported():
    optimizer = fn.optim.AdamW()

    class Step(torch.nn.Module):
        def forward(self, params: Any, grads: Any, state: Any, lr: Tensor) -> Any:
            return optimizer.step(params, grads, state, lr=lr)

    params, grads = {"w": torch.ones(3)}, {"w": torch.full((3,), 0.5)}
    _, state = optimizer.step(params, grads, optimizer.init(params))
    lr = torch.tensor(0.1)
    exported = torch.export.export(Step(), (params, grads, state, lr)).module()
    assert_identical(exported(params, grads, state, lr), optimizer.step(params, grads, state, lr=lr))


def test_a_step_has_a_tangent():
    optimizer = fn.optim.Adam()

    def step(w: Tensor) -> Tensor:
        params, _ = optimizer.step({"w": w}, {"w": w.sin()}, optimizer.init({"w": w}))
        return params["w"]

    direction = torch.ones_like(W)
    _, tangent = torch.func.jvp(step, (W,), (direction,))
    torch.testing.assert_close(tangent, (step(W + 1e-6) - step(W - 1e-6)) / 2e-6, rtol=1e-5, atol=1e-8)


def test_nesterov_with_a_momentum_of_each_member_or_followed_by_a_gradient():
    params, grads = {"w": torch.ones(2, dtype=torch.float64)}, {"w": torch.ones(2, dtype=torch.float64)}
    optimizer = fn.optim.SGD(lr=0.1, momentum=0.5, nesterov=True)
    state = {"w": {"momentum_buffer": torch.ones(2, dtype=torch.float64)}}

    def step(momentum):
        return optimizer.step(params, grads, state, momentum=momentum)[0]["w"]

    momenta = torch.tensor([0.5, 0.9], dtype=torch.float64)
    assert torch.equal(torch.vmap(step)(momenta), torch.stack([step(0.5), step(0.9)]))
    # Its buffer is momentum + 1, so a param moves by 0.1 * (1 + momentum * (momentum + 1)).
    slope = torch.func.grad(lambda momentum: step(momentum).sum())(momenta[0])
    torch.testing.assert_close(slope, torch.tensor(-0.4, dtype=torch.float64))
