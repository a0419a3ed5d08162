"""jvp and vjp: torch.func's numbers on trees, and right where torch's kernels have no rule or a wrong one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import funcnet as fn
from tests.helpers import assert_identical

TREE = {"w": [torch.tensor([1.0, 2.0])], "n": torch.tensor(2), "absent": None}
TANGENT = {"w": [torch.tensor([1.0, 0.5])], "n": torch.tensor(7), "absent": None}
X = torch.tensor([3.0, 4.0])


def scaled(tree, x):
    y = tree["w"][0] ** 2 * tree["n"] * x
    return {"y": y, "rank": y.argmax(), "absent": None}


def test_jvp_returns_the_output_and_its_change():
    output, tangent, aux = fn.jvp(lambda t: (scaled(t, X), "a"), (TREE,), (TANGENT,), has_aux=True)
    assert_identical(output, scaled(TREE, X))
    assert_identical(tangent, {"y": torch.tensor([12.0, 16.0]), "rank": torch.tensor(0), "absent": None})
    assert aux == "a"


def test_vjp_returns_the_output_and_the_map_back():
    output, multiply, aux = fn.vjp(lambda t, x: (scaled(t, x), {"n": t["n"]}), TREE, X, has_aux=True)
    assert_identical(output, scaled(TREE, X))
    assert_identical(aux, {"n": torch.tensor(2)})
    assert not output["y"].requires_grad
    for _ in range(2):
        by_tree, by_x = multiply({"y": torch.ones(2), "rank": None, "absent": None})
        assert_identical(by_tree, {"w": [torch.tensor([12.0, 32.0])], "n": torch.tensor(0), "absent": None})
        assert_identical(by_x, torch.tensor([2.0, 8.0]))
    _, multiply = fn.vjp(lambda x: x.sin(), X)
    torch.testing.assert_close(multiply(X), X * X.cos())


def test_the_map_back_is_mapped_and_differentiated():
    def multiply_by(w):
        return fn.vjp(lambda x: (w * x).sin(), X)[1]

    w, cotangents = torch.tensor([0.5, 0.25]), torch.eye(2)
    each = torch.vmap(multiply_by(w))(cotangents)
    torch.testing.assert_close(each, torch.func.jacrev(lambda x: (w * x).sin())(X))
    torch.testing.assert_close(
        fn.grad(lambda w: multiply_by(w)(X).sum())(w), fn.grad(lambda w: (X * w * (w * X).cos()).sum())(w)
    )
    multiply = multiply_by(w)
    torch.testing.assert_close(fn.grad(lambda c: multiply(c).sum())(X), w * (w * X).cos())
    torch.testing.assert_close(fn.jvp(multiply, (X,), (X,))[1], X * w * (w * X).cos())
    cotangent = X.clone().requires_grad_()
    multiply(cotangent).sum().backward()
    torch.testing.assert_close(cotangent.grad, w * (w * X).cos())


def test_what_does_not_fit_is_one_error_with_all_places():
    with pytest.raises(fn.TreeError) as caught:
        fn.jvp(scaled, (TREE, X), ({"w": [torch.ones(3)]}, torch.ones(2, dtype=torch.int64)))
    assert "argument 0['w'][0] is float32[3], expected float32[2]" in str(caught.value)
    assert "argument 1 is int64[2], expected float32[2]" in str(caught.value)
    _, multiply = fn.vjp(scaled, TREE, X)
    with pytest.raises(fn.TreeError, match=r"cotangent .*\n  output\['y'\] is missing"):
        multiply({"z": torch.ones(2)})
    with pytest.raises(TypeError, match=r"jvp\(function, \(x,\), \(tangent,\)\)"):
        fn.jvp(torch.sin, X, X)
    with pytest.raises(TypeError, match="argument 1 is str"):
        fn.vjp(lambda x, mode: x, X, "mode")


@pytest.mark.parametrize("name", ["vjp", "jvp"])
def test_an_output_that_depends_on_no_argument_is_refused(name):
    with pytest.raises(ValueError, match=f"depends on none of the arguments that {name}"):
        fn.vjp(torch.detach, X) if name == "vjp" else fn.jvp(lambda x: torch.ones(2), (X,), (X,))


def test_forward_mode_goes_through_losses_that_torch_has_no_rule_for():
    def loss(x):
        return F.mse_loss(x.sin(), X) + F.huber_loss(x, X, delta=0.1)

    x = torch.tensor([0.3, 0.4])
    _, tangent = fn.jvp(loss, (x,), (X,))
    torch.testing.assert_close(tangent, (torch.func.grad(loss)(x) * X).sum())


NORMS = {
    "layer_norm": lambda x: F.layer_norm(x, (4,)),
    "batch_norm": lambda x: F.batch_norm(x, None, None, training=True),
    "instance_norm": lambda x: F.instance_norm(x[None]),
}
ROWS = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("outer", [torch.func.grad, fn.grad, lambda f: lambda x: fn.value_and_grad(f)(x)[1]])
@pytest.mark.parametrize("name", NORMS)
def test_a_gradient_of_a_directional_derivative_through_a_norm_is_right(name, outer):
    # Torch's own jvp takes the statistics for constants there, without a word.
    def loss(x):
        return NORMS[name](x).sin().sum()

    tangent = ROWS.sin()
    product = outer(lambda x: fn.jvp(loss, (x,), (tangent,))[1])(ROWS)
    torch.testing.assert_close(product, fn.hvp(loss)(ROWS, tangent))
    step = 1e-6
    ahead, behind = (torch.func.grad(loss)(ROWS + sign * step * tangent) for sign in (1, -1))
    torch.testing.assert_close(product, (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-7)
