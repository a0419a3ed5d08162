"""value_and_grad: the bits of autograd, at every level."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad

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


def test_integers_and_unused_leaves_have_gradient_zero():
    tree = {"w": torch.ones(2), "unused": torch.ones(3), "n": torch.tensor(2)}
    _, grads = fn.value_and_grad(lambda t: (t["w"] * t["n"]).sum())(tree)
    assert_identical(grads, {"w": torch.full((2,), 2.0), "unused": torch.zeros(3), "n": torch.tensor(0)})
    value, grads = fn.value_and_grad(lambda t: t["n"] * 1.0)({"n": torch.tensor(2)})
    assert_identical((value, grads), (torch.tensor(2.0), {"n": torch.tensor(0)}))
    assert fn.value_and_grad(lambda t: torch.ones(()))({}) == (torch.ones(()), {})


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


def _make_params(inference: bool) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    with torch.inference_mode(inference):
        return {"w": torch.tensor([1.0, 2.0])}, torch.tensor([3.0, 4.0])


@pytest.mark.parametrize("params_by_inference", [False, True])
@pytest.mark.parametrize("data_by_inference", [False, True])
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_inference_mode_changes_no_gradient(params_by_inference, data_by_inference, mode):
    # Regression: under inference mode all gradients were zero, and params made in it were refused outside
    params, _ = _make_params(params_by_inference)
    _, x = _make_params(data_by_inference)
    with mode():
        value, grads = fn.value_and_grad(lambda p, x: (p["w"] * x).sum())(params, x)
        (_, aux), by_data = fn.value_and_grad(lambda p, x: ((p["w"] * x).sum(), {"n": 2}), 1, True)(params, x)
        (_, _), by_keyword = fn.value_and_grad(lambda p, *, x: ((p["w"] * x).sum(), None), has_aux=True)(params, x=x)
    assert_identical((value, grads["w"], by_data), (torch.tensor(11.0), x.clone(), params["w"].clone()))
    assert_identical(by_keyword, grads)
    assert aux == {"n": 2} and not value.requires_grad and not value.is_inference()


def test_nets_initialised_in_inference_mode_are_differentiated():
    with torch.inference_mode():
        params, _ = NET.init(0)
        inside = fn.value_and_grad(loss)(params)
    assert_identical(inside, fn.value_and_grad(loss)(PARAMS))
    assert_identical(fn.value_and_grad(loss)(params), inside)


def _without_grad(function):
    def run(w):
        with torch.no_grad():
            return function(w)

    return run


def _in_inference_mode(function):
    def run(w):
        with torch.inference_mode():
            return function(w)

    return run


INDEPENDENT = {
    "constant": lambda w: torch.ones(()),
    "detached": lambda w: w.detach().sum(),
    "no_grad": _without_grad(torch.sum),
    "inference": _in_inference_mode(torch.sum),
    "data": lambda w: w.data.sum(),
}
BY_A_BACKWARD_PASS_ONLY = {
    "item": lambda w: torch.tensor(w.sum().item()),
    "another leaf": lambda w: torch.ones((), requires_grad=True) * 2,
}


@pytest.mark.parametrize("name", INDEPENDENT)
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_a_value_that_depends_on_no_argument_is_refused(name, mode, requires_grad):
    # Regression: zeros came back without a word, where a backward pass of torch raises
    w = torch.ones(2, requires_grad=requires_grad)
    with mode(), pytest.raises(ValueError, match="depends on none of the arguments"):
        fn.value_and_grad(INDEPENDENT[name])(w)


@pytest.mark.parametrize("name", BY_A_BACKWARD_PASS_ONLY)
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad])
def test_a_number_and_a_leaf_of_its_own_are_no_function_of_the_arguments(name, mode):
    with mode(), pytest.raises(ValueError, match="depends on none of the arguments"):
        fn.value_and_grad(BY_A_BACKWARD_PASS_ONLY[name])(torch.ones(2))


@pytest.mark.parametrize("name", INDEPENDENT)
def test_inside_of_another_derivative_such_a_value_has_gradient_zero(name):
    def outer(w):
        _, grad = fn.value_and_grad(INDEPENDENT[name])(w)
        return (w * w).sum() + grad.sum()

    assert_identical(fn.value_and_grad(outer)(torch.ones(2))[1], torch.full((2,), 2.0))
    assert_identical(torch.func.grad(outer)(torch.ones(2)), torch.full((2,), 2.0))
    each = torch.vmap(lambda w: fn.value_and_grad(INDEPENDENT[name])(w)[1])(torch.ones(3, 2))
    assert_identical(each, torch.zeros(3, 2))


def test_compiled_code_refuses_it_too():
    torch._dynamo.reset()
    compiled = torch.compile(fn.value_and_grad(INDEPENDENT["detached"]), backend="eager")
    with pytest.raises(ValueError, match="depends on none of the arguments"):
        compiled(torch.ones(2))
    torch._dynamo.reset()
    compiled = torch.compile(fn.value_and_grad(lambda w: (3 * w).sum()), backend="eager", fullgraph=True)
    with torch.no_grad():
        assert_identical(compiled(torch.ones(2))[1], torch.full((2,), 3.0))


def _nested(function, *args, **options):
    """The same call inside of another value_and_grad, where it is a transform of torch.func."""
    results = []

    def outer(one):
        results.append(fn.value_and_grad(function, **options)(*args))
        return one * 1.0

    fn.value_and_grad(outer)(torch.ones(()))
    return results[0]


@pytest.mark.parametrize("run", [lambda f, *args, **options: fn.value_and_grad(f, **options)(*args), _nested])
def test_values_and_arguments_are_the_same_at_each_depth(run):
    tree = {"w": torch.ones(2), "n": torch.tensor(2), "absent": None}
    (value, aux), grads = run(lambda t: ((t["w"] * t["n"]).sum()[None], {"text": "a", "t": t["w"]}), tree, has_aux=True)
    assert_identical(value, torch.tensor([4.0]))
    assert_identical(grads, {"w": torch.full((2,), 2.0), "n": torch.tensor(0), "absent": None})
    assert aux["text"] == "a"
    for function, options, message in [
        (lambda t: t["n"], {}, "real floats from .*, got torch.int64"),
        (lambda t: (t["w"] * 1j).sum(), {}, "real floats from .*, got torch.complex64"),
        (lambda t: t["w"], {}, r"scalar tensor from .*, got shape \(2,\)"),
        (lambda t: t["w"].sum(), {"has_aux": True}, "needs a pair"),
        (lambda t: t["w"].sum(), {"argnums": ()}, "at least one position"),
    ]:
        with pytest.raises(ValueError, match=message):
            run(function, tree, **options)
    with pytest.raises(ValueError, match="names an argument twice"):
        run(lambda a, b: a.sum(), torch.ones(2), torch.ones(2), argnums=(1, -1))
    with pytest.raises(TypeError, match=r"argument 0\['rate'\] is float"):
        run(lambda t: t["w"].sum(), {"w": torch.ones(2), "rate": 2.0})


@pytest.mark.parametrize("number", [0, 1], ids=["by the argument", "by another one"])
def test_tangents_of_forward_mode_reach_value_and_gradient(number):
    def cubes(q, r):
        return (q**3 * r).sum()

    q, r = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    with forward_ad.dual_level():
        inputs = [q, r]
        inputs[number] = forward_ad.make_dual(inputs[number], torch.ones(2))
        value, grad = fn.value_and_grad(cubes)(*inputs)
        expected_grad, expected_value = torch.func.grad_and_value(cubes)(*inputs)
        for result, expected in ((value, expected_value), (grad, expected_grad)):
            assert forward_ad.unpack_dual(expected).tangent is not None
            assert_identical(tuple(forward_ad.unpack_dual(result)), tuple(forward_ad.unpack_dual(expected)))
