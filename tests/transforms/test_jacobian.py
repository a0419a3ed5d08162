"""jacobian and hessian: torch.func's numbers, whatever is computed together."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import funcnet as fn
from funcnet._context import under_forward_mode, under_vmap
from tests.helpers import assert_identical, parametrize

NET = fn.Sequential(fn.Linear(3, 4), fn.Tanh(), fn.Linear(4, 2))
PARAMS, _ = NET.init(0, dtype=torch.float64)
X = torch.linspace(-1, 1, 15, dtype=torch.float64).view(5, 3)
Y = torch.tensor([0, 1, 1, 0, 1])


def loss(params, x=X):
    return F.cross_entropy(NET(params, x), Y)


@pytest.mark.parametrize("options", [{}, {"chunk_size": 3}, {"chunk_size": 1}, {"memory": 1}, {"memory": 5000}])
def test_rows_are_those_of_torch_however_many_at_once(options):
    torch.testing.assert_close(fn.jacobian(NET, **options)(PARAMS, X), torch.func.jacrev(NET)(PARAMS, X))
    torch.testing.assert_close(fn.hessian(loss, **options)(PARAMS), torch.func.hessian(loss)(PARAMS))


def outer(x):
    return {"outer": torch.outer(x, x).sin().repeat(9, 1), "n": torch.tensor(2), "absent": None}


def test_columns_are_computed_where_outputs_are_many():
    seen = []

    def watched(x):
        seen.append(under_forward_mode())
        return outer(x)["outer"]

    result = fn.jacobian(watched)(X[0])
    assert seen == [False, True]
    torch.testing.assert_close(result, torch.func.jacrev(watched)(X[0]))
    torch.testing.assert_close(fn.jacobian(watched, chunk_size=2)(X[0]), result)
    seen.clear()
    fn.jacobian(lambda x: watched(x)[:4])(X[0])
    assert seen == [False]


class Cube(torch.autograd.Function):
    """A function without a rule for forward mode."""

    @staticmethod
    def forward(x):
        return x**3

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * grad


def test_rows_are_computed_where_forward_mode_has_no_rule():
    x = torch.tensor([2.0])
    assert_identical(fn.jacobian(lambda x: Cube.apply(x).repeat(6), chunk_size=1)(x), torch.full((6, 1), 12.0))


def test_memory_bounds_how_many_rows_are_computed_together():
    def rows_at_once(memory):
        batches = []

        class Watch(torch.autograd.Function):
            generate_vmap_rule = False

            @staticmethod
            def forward(x):
                return x * 1

            @staticmethod
            def setup_context(ctx, inputs, output):
                pass

            @staticmethod
            def backward(ctx, grad):
                batches.append(under_vmap())
                return grad

        fn.jacobian(lambda x: Watch.apply(x) * 2, memory=memory)(torch.ones(8))
        return batches

    assert rows_at_once(2**20) == [True]
    assert rows_at_once(4 * (3 * 8 * 4)) == [True, True]  # four rows, three gradients with 8 floats of 4 bytes
    assert rows_at_once(1) == [False] * 8


def test_integers_and_none_stay_in_their_places():
    jacobian = fn.jacobian(outer)(X[0])
    assert_identical(jacobian["n"], torch.zeros(3, dtype=torch.int64))
    assert jacobian["absent"] is None
    tree = {"w": torch.tensor([1.0, 2.0]), "n": torch.tensor([1, 2]), "absent": None}
    jacobian = fn.jacobian(lambda t: t["w"] * t["n"])(tree)
    expected = {"w": torch.tensor([[1.0, 0.0], [0.0, 2.0]]), "n": torch.zeros(2, 2, dtype=torch.int64), "absent": None}
    assert_identical(jacobian, expected)
    hessian = fn.hessian(lambda t: (t["w"] ** 2 * t["n"]).sum())(tree)
    assert_identical(hessian["w"]["w"], torch.tensor([[2.0, 0.0], [0.0, 4.0]]))
    assert_identical(hessian["n"]["w"], torch.zeros(2, 2, dtype=torch.int64))
    assert hessian["absent"] is None


def test_aux_and_several_arguments():
    jacobian, aux = fn.jacobian(lambda p, x: (NET(p, x), {"n": 2}), argnums=(0, 1), has_aux=True)(PARAMS, X)
    torch.testing.assert_close(jacobian, torch.func.jacrev(NET, argnums=(0, 1))(PARAMS, X))
    assert aux == {"n": 2}
    hessian, aux = fn.hessian(lambda p, x: (loss(p, x), "a"), argnums=(0, 1), has_aux=True)(PARAMS, X)
    torch.testing.assert_close(hessian, torch.func.hessian(loss, argnums=(0, 1))(PARAMS, X))
    assert aux == "a"


@parametrize(transform=[fn.jacobian, fn.hessian])
def test_they_are_mapped_differentiated_and_compiled(transform):
    function = NET if transform is fn.jacobian else lambda p, x: F.cross_entropy(NET(p, x), Y[0])
    compute = transform(function, argnums=1)
    each = torch.vmap(compute, in_dims=(None, 0))(PARAMS, X)
    for index, x in enumerate(X):
        torch.testing.assert_close(each[index], compute(PARAMS, x))

    def total(params):
        return compute(params, X[0]).square().sum()

    theirs = torch.func.jacrev(function, 1) if transform is fn.jacobian else torch.func.hessian(function, 1)
    expected = torch.func.grad(lambda params: theirs(params, X[0]).square().sum())(PARAMS)
    for grad in (torch.func.grad, fn.grad):
        torch.testing.assert_close(grad(total)(PARAMS), expected)
    torch._dynamo.reset()
    compiled = torch.compile(compute, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(PARAMS, X[0]), compute(PARAMS, X[0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_through_recurrent_layers_and_attention_are_mapped(dtype):
    # Regression: torch maps the backward passes of their kernels in a loop, with a warning
    layers = {"lstm": fn.LSTM(3, 4), "attention": fn.MultiheadAttention(4, 2)}

    @fn.compose(**layers)
    def net(p, x):
        y, _ = p.lstm(x)
        return p.attention(y, y, y, need_weights=False)[0].sum(0)

    params, _ = net.init(0, dtype=dtype)
    x = torch.linspace(-1, 1, 12, dtype=dtype).view(4, 3)
    torch.testing.assert_close(fn.jacobian(net)(params, x), torch.func.jacfwd(net)(params, x), rtol=1e-4, atol=1e-6)
    module_net, params, _ = fn.from_module(Recurrent().to(dtype))
    rows = fn.jacobian(module_net, argnums=1)(params, x)
    torch.testing.assert_close(rows, torch.func.jacfwd(module_net, 1)(params, x), rtol=1e-4, atol=1e-6)


class Recurrent(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = torch.nn.LSTM(3, 4)

    def forward(self, x):
        return self.lstm(x)[0].sum(0)


def test_what_has_no_jacobian_is_refused():
    with pytest.raises(ValueError, match="depends on none of the arguments that jacobian"):
        fn.jacobian(lambda x: x.detach())(X)
    with pytest.raises(ValueError, match=r"hessian needs a scalar tensor .* got shape \(5, 3\)"):
        fn.hessian(lambda x: x)(X)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        fn.jacobian(lambda x: x, chunk_size=0)(X)
    with pytest.raises(TypeError, match=r"output\['n'\] is int"):
        fn.jacobian(lambda x: {"y": x, "n": 2})(X)
