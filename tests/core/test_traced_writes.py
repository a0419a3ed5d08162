"""Compiled code refuses the writes that plain code refuses, and gives its result where there are none."""

from __future__ import annotations

import random

import pytest
import torch

import funcnet as fn
from tests.helpers import assert_identical, clone

X = torch.linspace(-1, 1, 6).view(2, 3)
HELD = torch.zeros(3)
LOG: list[int] = []
DICE = random.Random(0)
TOTAL = 0
halve = getattr(torch.Tensor, "mul" + "_")  # a write that no code shows


def add_to_global(p, x):
    global TOTAL
    TOTAL += 1
    return p.fc(x) * TOTAL


WRITES = {
    "augmented": lambda p, x: p.fc(x.__iadd__(1)),
    "item": lambda p, x: (x.__setitem__(0, 1.0), p.fc(x))[1],
    "of a view": lambda p, x: (x.view(-1).add_(1), p.fc(x))[1],
    "detached": lambda p, x: (x.detach().add_(1), p.fc(x))[1],
    "hidden": lambda p, x: p.fc(halve(x, 2)),
    "inplace": lambda p, x: p.fc(torch.nn.functional.relu(x, inplace=True)),
    "out": lambda p, x: p.fc(torch.add(x, 1, out=x)),
    "foreach": lambda p, x: (torch._foreach_add_([x], 1), p.fc(x))[1],
    "data": lambda p, x: (x.data.add_(1), p.fc(x))[1],
    "numpy": lambda p, x: (x.numpy().__setitem__(0, 5.0), p.fc(x))[1],
    "requires_grad": lambda p, x: (x.requires_grad_(), p.fc(x))[1],
    "param": lambda p, x: (p.fc.weight.detach().mul_(2), p.fc(x))[1],
    "param, hidden": lambda p, x: (halve(p.fc.weight.detach(), 2), p.fc(x))[1],
    "held tensor": lambda p, x: p.fc(x) + HELD.add_(1),
    "held list": lambda p, x: (LOG.append(1), p.fc(x) * len(LOG))[1],
    "held generator": lambda p, x: p.fc(x) * DICE.random(),
    "global": add_to_global,
}


QUICK = ("item", "hidden", "data", "param, hidden", "held generator", "held tensor")


@pytest.mark.parametrize(
    "what", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in WRITES]
)
def test_what_plain_code_refuses_is_refused_in_compiled_code(what):
    net = fn.compose(fc=fn.Linear(3, 3))(WRITES[what])
    params, _ = net.init(0)
    torch.compiler.reset()
    x = X.clone()
    with pytest.raises(Exception, match=r"PurityError|wrote"):
        torch.compile(net, backend="eager", fullgraph=True)(params, x)
    assert_identical(x, X)
    for call in (torch.compile(net, backend="eager"), net):
        with pytest.raises(fn.PurityError, match=r"wrote|writes|changed"):
            call(params, X.clone())


@pytest.mark.parametrize("make", [lambda x: [x], lambda x: {"a": (x,)}])
def test_tensors_in_containers_are_watched_in_compiled_code(make):
    def write(p, given):
        tensor = given[0] if isinstance(given, list) else given["a"][0]
        return p.fc(tensor.add_(1))

    net = fn.compose(fc=fn.Linear(3, 3))(write)
    params, _ = net.init(0)
    for fullgraph in (True, False):
        torch.compiler.reset()
        with pytest.raises(Exception, match=r"wrote in place to (input 0|L\[)|PurityError"):
            torch.compile(net, backend="eager", fullgraph=fullgraph)(params, make(X.clone()))


def test_what_a_body_made_it_may_write_to_in_compiled_code():
    @fn.compose(fc=fn.Linear(3, 3), steps=fn.Buffer((), 0.0))
    def net(p, x):
        p.steps += 1
        y = p.fc(x)
        y += 1
        rows = [y]
        rows.append(y.clone().mul_(2))
        return sum(rows) * p.steps

    params, buffers = net.init(0)
    params["fc"]["weight"].mul_(2)  # so that a version is not 0 before the call
    x = X.clone().add_(0)
    for backend in ("eager", "aot_eager"):
        torch.compiler.reset()
        compiled = torch.compile(lambda *args: net.apply(*args), backend=backend, fullgraph=True)
        given = clone((params, buffers, x))
        assert_identical(compiled(params, buffers, x), net.apply(params, buffers, x))
        assert_identical((params, buffers, x), given)


def test_a_gradient_of_a_body_that_writes_to_its_own_is_one_graph():
    @fn.compose(fc=fn.Linear(3, 3))
    def net(p, x):
        y = p.fc(x)
        y.mul_(2)
        return y

    params, _ = net.init(0)
    torch.compiler.reset()

    def loss(params, x):
        return net(params, x).square().sum()

    compiled = torch.compile(fn.value_and_grad(loss), backend="aot_eager", fullgraph=True)
    assert_identical(compiled(params, X), fn.value_and_grad(loss)(params, X))
    per_sample = torch.vmap(torch.func.grad(loss), (None, 0))
    assert_identical(torch.compile(per_sample, backend="aot_eager", fullgraph=True)(params, X), per_sample(params, X))


def test_a_tie_holds_in_a_compiled_body():
    @fn.compose(a=fn.Linear(3, 3, bias=False), b=fn.Linear(3, 3, bias=False))
    def net(p, x):
        y = p.a(x)
        y += 1
        return p.b(y)

    net = net.tie({"b.weight": "a.weight"})
    params, _ = net.init(0)
    torch.compiler.reset()
    compiled = torch.compile(fn.grad(lambda params: net(params, X).sum()), backend="eager", fullgraph=True)
    assert_identical(compiled(params), fn.grad(lambda params: net(params, X).sum())(params))


def test_code_that_breaks_the_graph_is_watched_too():
    """Regression: what runs between two graphs is compiled function by function, and was watched by no one."""

    @fn.compose(fc=fn.Linear(3, 3))
    def net(p, x, writes):
        y = p.fc(x)
        torch._dynamo.graph_break()
        if writes:
            halve(x, 2)
        return p.fc(y)

    params, _ = net.init(0)
    torch.compiler.reset()
    compiled = torch.compile(net, backend="eager")
    for _ in range(2):
        assert_identical(compiled(params, X, False), net(params, X, False))
        with pytest.raises(fn.PurityError, match="input 0"):
            compiled(params, X.clone(), True)
