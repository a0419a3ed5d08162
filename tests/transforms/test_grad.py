"""value_and_grad: the bits of autograd, at every level."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import funcnet as fn
from tests.helpers import assert_identical, clone

NET = fn.Sequential(fn.Linear(3, 4), fn.Tanh(), fn.Linear(4, 1))
PARAMS, _ = NET.init(0)
X, Y = torch.linspace(-1, 1, 12).view(4, 3), torch.linspace(0, 1, 4).view(4, 1)


def loss(params, x=X, y=Y):
    return F.mse_loss(NET(params, x), y)


def test_value_and_gradient_are_those_of_torch_func():
    given = clone(PARAMS)
    value, grads = fn.value_and_grad(loss)(PARAMS)
    expected, value_too = torch.func.grad_and_value(loss)(PARAMS)
    assert_identical(grads, fn.tree.map(lambda leaf: leaf, expected))
    assert_identical(value, value_too)
    assert_identical(PARAMS, given)
    assert not value.requires_grad


def test_aux_argnums_and_keywords():
    def scored(params, x, *, y):
        out = NET(params, x)
        return F.mse_loss(out, y), {"out": out}

    (value, aux), grad = fn.value_and_grad(scored, argnums=1, has_aux=True)(PARAMS, X, y=Y)
    assert_identical(value, loss(PARAMS))
    assert_identical(grad, torch.func.grad(lambda x: loss(PARAMS, x))(X))
    assert not aux["out"].requires_grad


@pytest.mark.parametrize(
    "inner_grad", [lambda f: lambda p: fn.value_and_grad(f)(p)[1], torch.func.grad], ids=["ours", "torch"]
)
@pytest.mark.parametrize(
    "outer_grad", [lambda f: lambda p: fn.value_and_grad(f)(p)[1], torch.func.grad], ids=["ours", "torch"]
)
def test_it_nests_to_second_order(inner_grad, outer_grad):
    def adapted(params):
        return loss(fn.tree.map(lambda w, g: w - 0.5 * g, params, inner_grad(loss)(params)))

    by_hand = {path: leaf.clone().requires_grad_() for path, leaf in fn.tree.flatten(PARAMS).items()}
    tree = fn.tree.unflatten(by_hand)
    first = torch.autograd.grad(loss(tree), list(by_hand.values()), create_graph=True)
    moved = fn.tree.unflatten({path: w - 0.5 * g for (path, w), g in zip(by_hand.items(), first, strict=True)})
    expected = torch.autograd.grad(loss(moved), list(by_hand.values()))
    found = fn.tree.flatten(outer_grad(adapted)(PARAMS))
    for path, grad in zip(by_hand, expected, strict=True):
        torch.testing.assert_close(found[path], grad)


def test_the_inner_gradient_reaches_what_only_the_outer_differentiates():
    def tuned(rate):
        _, grads = fn.value_and_grad(loss)(PARAMS)
        return loss(fn.tree.map(lambda w, g: w - rate * g, PARAMS, grads))

    def weighted(scale):
        _, grads = fn.value_and_grad(lambda params: scale * loss(params))(PARAMS)
        return loss(fn.tree.map(lambda w, g: w - 0.5 * g, PARAMS, grads))

    for function in (tuned, weighted):
        _, grad = fn.value_and_grad(function)(torch.tensor(0.5))
        step = 1e-3
        slope = (function(torch.tensor(0.5 + step)) - function(torch.tensor(0.5 - step))) / (2 * step)
        torch.testing.assert_close(grad, slope, rtol=1e-2, atol=1e-4)


def test_vmap_compile_and_a_plain_backward_go_through_it():
    each = torch.vmap(lambda x, y: fn.value_and_grad(loss)(PARAMS, x[None], y[None])[1])(X, Y)
    for index in range(4):
        one = fn.value_and_grad(loss)(PARAMS, X[index : index + 1], Y[index : index + 1])[1]
        torch.testing.assert_close(fn.tree.map(lambda leaf, index=index: leaf[index], each), one)
    torch._dynamo.reset()
    compiled = torch.compile(fn.value_and_grad(loss), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(PARAMS), fn.value_and_grad(loss)(PARAMS))
    w = torch.ones(3, requires_grad=True)
    fn.value_and_grad(lambda w: (w**3).sum())(w)[1].sum().backward()
    assert_identical(w.grad, 6 * torch.ones(3))


def test_integers_unused_leaves_and_constants_have_gradient_zero():
    tree = {"w": torch.ones(2), "unused": torch.ones(3), "n": torch.tensor(2)}
    _, grads = fn.value_and_grad(lambda t: (t["w"] * t["n"]).sum())(tree)
    assert_identical(grads, {"w": torch.full((2,), 2.0), "unused": torch.zeros(3), "n": torch.tensor(0)})
    _, grads = fn.value_and_grad(lambda t: torch.ones(()))(tree)
    assert_identical(grads["w"], torch.zeros(2))


@pytest.mark.parametrize("result", [torch.ones(2), 3.0, None], ids=["vector", "float", "None"])
def test_what_is_no_scalar_tensor_is_refused(result):
    with pytest.raises(ValueError, match="needs a scalar tensor"):
        fn.value_and_grad(lambda params: result)(PARAMS)


def test_a_pair_is_told_to_be_value_and_more():
    with pytest.raises(ValueError, match=r"got tuple\. Of \(value, more\) it takes has_aux=True\."):
        fn.value_and_grad(lambda params: (torch.ones(()), params))(PARAMS)


def test_a_graph_that_belongs_to_somebody_else_is_kept():
    # Regression: the gradient of the inner function came back detached from what only plain autograd watches
    meta = torch.tensor(2.0, requires_grad=True)
    value, grads = fn.value_and_grad(lambda w: meta * (w**2).sum())(torch.tensor([1.0, 2.0]))
    moved = torch.tensor([1.0, 2.0]) - 0.1 * grads
    ((moved**2).sum() + meta**2).backward()
    torch.testing.assert_close(meta.grad, torch.tensor(2.8))
    assert value.requires_grad


def test_several_arguments_at_once():
    value, grads = fn.value_and_grad(lambda a, b, c: (a * b["w"] * c).sum(), argnums=(0, 1))(
        torch.ones(2), {"w": torch.full((2,), 3.0)}, 2.0
    )
    assert_identical((value, grads), (torch.tensor(12.0), (torch.full((2,), 6.0), {"w": torch.full((2,), 2.0)})))
    with pytest.raises(TypeError, match="argnums=1 needs 2 positional arguments, got 1"):
        fn.value_and_grad(lambda a: a, argnums=1)(torch.ones(()))
