"""hvp and ggn_vp: the numbers of whole matrices, on any tree, in any nesting."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

import funcnet as fn
from tests.helpers import assert_identical, clone, parametrize

NET = fn.Sequential(fn.Linear(3, 4), fn.Tanh(), fn.Linear(4, 2))
PARAMS, _ = NET.init(0, dtype=torch.float64)
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(5, 3, dtype=torch.float64, generator=GENERATOR)
Y = torch.tensor([0, 1, 1, 0, 1])
VECTOR = fn.tree.map(lambda w: torch.randn(w.shape, dtype=w.dtype, generator=GENERATOR), PARAMS)


def loss(params, x=X, y=Y):
    return F.cross_entropy(NET(params, x), y)


def loss_of_output(output):
    return F.cross_entropy(output, Y)


def _multiply(matrix, vector):
    """The product of a tree of trees with a tree."""
    columns = fn.tree.flatten(vector)

    def multiply_row(path, tensor):
        row = fn.tree.flatten(fn.tree.get(matrix, path))
        return sum((row[key] * column).flatten(tensor.dim()).sum(-1) for key, column in columns.items())

    return fn.tree.map_with_path(multiply_row, vector)


def _gauss_newton(params, x):
    """The whole matrix over the raveled params."""
    flat, unravel = fn.tree.ravel(params)
    rows = torch.func.jacrev(lambda flat: NET(unravel(flat), x).flatten())(flat)
    curvature = torch.func.hessian(lambda y: loss_of_output(y.view(len(x), -1)))(NET(params, x).flatten())
    return rows.T @ curvature @ rows


def test_hvp_is_the_hessian_times_the_vector():
    given = clone((PARAMS, VECTOR))
    product = fn.hvp(loss)(PARAMS, VECTOR)
    torch.testing.assert_close(product, _multiply(torch.func.hessian(loss)(PARAMS), VECTOR))
    assert_identical((PARAMS, VECTOR), given)
    assert not any(tensor.requires_grad for tensor in fn.tree.flatten(product).values())


def test_blocks_in_torch_checkpoint_are_computed_again():
    def recomputed(params):
        return F.cross_entropy(checkpoint(NET, params, X, use_reentrant=False), Y)

    torch.testing.assert_close(fn.hvp(recomputed)(PARAMS, VECTOR), fn.hvp(loss)(PARAMS, VECTOR))


def test_further_arguments_follow_the_vector():
    assert_identical(fn.hvp(loss)(PARAMS, VECTOR, X, Y), fn.hvp(loss)(PARAMS, VECTOR))
    assert_identical(fn.hvp(loss)(PARAMS, VECTOR, X, y=Y), fn.hvp(loss)(PARAMS, VECTOR))
    by_data = fn.hvp(loss, argnums=1)(PARAMS, X, X.sin(), Y)
    torch.testing.assert_close(by_data, fn.hvp(lambda x: loss(PARAMS, x))(X, X.sin()))
    assert_identical(fn.hvp(lambda p, x: loss(p, x), argnums=-1)(PARAMS, X, X.sin()), by_data)


def test_several_arguments_have_one_hessian():
    product = fn.hvp(loss, argnums=(0, 1))(PARAMS, X, (VECTOR, X.sin()), Y)
    packed = fn.hvp(lambda both: loss(both["p"], both["x"]))({"p": PARAMS, "x": X}, {"p": VECTOR, "x": X.sin()})
    torch.testing.assert_close(product, (packed["p"], packed["x"]))


def test_gauss_newton_is_the_matrix_of_its_definition():
    product = fn.ggn_vp(NET, loss_of_output)(PARAMS, VECTOR, X)
    expected = _gauss_newton(PARAMS, X) @ fn.tree.ravel(VECTOR)[0]
    torch.testing.assert_close(fn.tree.ravel(product)[0], expected)
    assert not any(tensor.requires_grad for tensor in fn.tree.flatten(product).values())


def test_gauss_newton_is_the_hessian_of_a_linear_model():
    net = fn.Linear(3, 2)
    params, _ = net.init(0, dtype=torch.float64)
    vector = fn.tree.map(torch.sin, params)
    product = fn.ggn_vp(net, loss_of_output)(params, vector, X)
    torch.testing.assert_close(product, fn.hvp(lambda params: loss_of_output(net(params, X)))(params, vector))


PRODUCTS = {
    "hvp": lambda params, vector: fn.hvp(loss)(params, vector),
    "ggn_vp": lambda params, vector: fn.ggn_vp(NET, loss_of_output)(params, vector, X),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_they_are_mapped_over_vectors_and_compiled(name):
    product = PRODUCTS[name]
    vectors = fn.tree.map(lambda v: torch.stack([v, v.sin()]), VECTOR)
    each = torch.vmap(product, in_dims=(None, 0))(PARAMS, vectors)
    for index in range(2):
        one = fn.tree.map(lambda v, index=index: v[index], vectors)
        torch.testing.assert_close(fn.tree.map(lambda v, index=index: v[index], each), product(PARAMS, one))
    torch._dynamo.reset()
    compiled = torch.compile(product, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(PARAMS, VECTOR), product(PARAMS, VECTOR))


@parametrize(train=[False, True])
def test_aux_comes_beside_the_product(train):
    def scored(params, x):
        output = NET(params, x)
        return loss_of_output(output), {"output": output, "text": "a", "train": train}

    product, aux = fn.hvp(scored, has_aux=True)(PARAMS, VECTOR, X)
    assert_identical(product, fn.hvp(loss)(PARAMS, VECTOR))
    assert_identical(aux, {"output": NET(PARAMS, X), "text": "a", "train": train})
    assert not aux["output"].requires_grad
    product, aux = fn.ggn_vp(lambda p, x: (NET(p, x), "a"), loss_of_output, has_aux=True)(PARAMS, VECTOR, X)
    assert_identical((product, aux), (fn.ggn_vp(NET, loss_of_output)(PARAMS, VECTOR, X), "a"))


TREE = {"w": [torch.tensor([1.0, 2.0]), torch.tensor(3.0)], "n": torch.tensor(2), "absent": None}
TANGENT = {"n": None, "w": [torch.tensor([1.0, 0.5]), torch.tensor(-1.0)]}


def cubes(tree):
    return (tree["w"][0] ** 3).sum() * tree["n"] + tree["w"][1] ** 3


def _inside_of_another(function, *args):
    """The result of a call inside of a derivative, where torch.func takes the inner one."""
    results = []

    def outer(one):
        results.append(function(*args))
        return one * 1.0

    fn.value_and_grad(outer)(torch.ones(()))
    return results[0]


@pytest.mark.parametrize("run", [lambda f, *args: f(*args), _inside_of_another], ids=["alone", "inside"])
def test_lists_integers_and_none_stay_in_their_places(run):
    expected = {"w": [torch.tensor([12.0, 12.0]), torch.tensor(-18.0)], "n": torch.tensor(0), "absent": None}
    assert_identical(run(fn.hvp(cubes), TREE, TANGENT), expected)


def test_a_vector_that_does_not_fit_is_one_error_with_all_places():
    wrong = {"w": [torch.ones(3), torch.ones((), dtype=torch.float64), torch.ones(())], "m": torch.ones(1)}
    for transform in (fn.hvp(cubes), fn.ggn_vp(cubes, torch.sum)):
        with pytest.raises(fn.TreeError) as caught:
            transform(TREE, wrong)
        for line in (
            "argument 0['w'][0] is float32[3], expected float32[2]",
            "argument 0['w'][1] is float64[], expected float32[]",
            "argument 0['w'][2] is no place of it",
            "argument 0['m'] is no place of it",
        ):
            assert line in str(caught.value)
    with pytest.raises(fn.TreeError, match=r"argument 0\['w'\]\[1\] is missing"):
        fn.hvp(cubes)(TREE, {"w": [torch.ones(2)]})


def test_what_has_no_hessian_is_refused():
    w = torch.ones(2)
    for function, error, message in [
        (lambda w: w, ValueError, r"hvp needs a scalar tensor .* got shape \(2,\)"),
        (lambda w: (w.sum(), 1), ValueError, r"takes has_aux=True"),
        (lambda w: w.detach().sum(), ValueError, "depends on none of the arguments that hvp"),
        (lambda w: torch.ones(()), ValueError, "depends on none of the arguments that hvp"),
    ]:
        with pytest.raises(error, match=message):
            fn.hvp(function)(w, w)
    with pytest.raises(TypeError, match=r"argument 0\['rate'\] is float"):
        fn.hvp(lambda t: t["w"].sum())({"w": w, "rate": 2.0}, {"w": w})
    with pytest.raises(TypeError, match="needs 1 positional arguments, got 0"):
        fn.hvp(cubes)(TREE)
    with pytest.raises(TypeError, match="needs a tuple of 2 vectors"):
        fn.hvp(lambda a, b: (a * b).sum(), argnums=(0, 1))(w, w, w)


def test_a_linear_function_has_the_product_zero():
    assert_identical(fn.hvp(lambda w: (2 * w).sum())(torch.ones(2), torch.ones(2)), torch.zeros(2))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_mode_around_changes_nothing(mode):
    expected = {name: product(PARAMS, VECTOR) for name, product in PRODUCTS.items()}
    with mode():
        for name, product in PRODUCTS.items():
            torch.testing.assert_close(product(PARAMS, VECTOR), expected[name])


def test_weights_that_are_used_twice_or_in_other_ways_count_each_use():
    # the uses as weights of F.linear are apart from the norm, the sum and the convolution
    def tied(params, x):
        hidden = F.linear(x, params["w"], params["b"]).relu_()
        hidden = F.conv1d(hidden[:, None], params["k"], padding=1).flatten(1)
        return (
            F.linear(hidden, params["w"], bias=params["b"]).square().sum() * params["w"].norm() + params["b"].sum() ** 3
        )

    params = {
        name: torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        for name, shape in {"w": (3, 3), "b": (3,), "k": (1, 1, 3)}.items()
    }
    vector = fn.tree.map(torch.cos, params)
    expected = _multiply(torch.func.hessian(lambda params: tied(params, X))(params), vector)
    torch.testing.assert_close(fn.hvp(tied)(params, vector, X), expected)


def test_a_graph_that_belongs_to_somebody_else_is_kept():
    scale = torch.tensor(2.0, requires_grad=True)
    product = fn.hvp(lambda w: scale * (w**3).sum())(torch.tensor([1.0]), torch.tensor([1.0]))
    product.sum().backward()
    assert_identical(scale.grad, torch.tensor(6.0))
