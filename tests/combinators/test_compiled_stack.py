"""Stacked layers in compiled code: one layer is compiled, and the numbers are those of all of them in eager code."""

from __future__ import annotations

import gc

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import funcnet as fn
from funcnet.combinators import _compiled_layers as compiled_layers
from funcnet.models import GPT2, Bert, Llama
from tests.helpers import assert_identical, parametrize

X = torch.linspace(-1, 1, 24).view(3, 8)
COUNT = 4


@fn.compose(norm=fn.LayerNorm(8), up=fn.Linear(8, 16), down=fn.Linear(16, 8))
def residual(p, x, shift=None):
    x = x + p.down(F.gelu(p.up(p.norm(x))))
    return x if shift is None else x + shift


STOCK = fn.Sequential(fn.Linear(8, 8), fn.LayerNorm(8), fn.GELU())
TIED = fn.Sequential(fn.Linear(8, 8), fn.Tanh(), fn.Linear(8, 8)).tie({"2.weight": "0.weight"})
BLOCKS = {"stock": STOCK, "composed": residual, "tied": TIED, "identity": fn.Identity(), "stack": fn.Stack(STOCK, 3)}
TOKENS = torch.tensor([[3, 1, 4, 1], [5, 9, 2, 6]])
SMALL = {"hidden_size": 8, "num_hidden_layers": COUNT, "num_attention_heads": 2}
MODELS = {
    "GPT2": GPT2(16, 8, stacked=True, **SMALL),
    "Llama": Llama(16, intermediate_size=12, num_key_value_heads=1, stacked=True, **SMALL),
    "Bert": Bert(16, 8, intermediate_size=12, stacked=True, **SMALL),
}


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    compiled_layers._PLANS.clear()


def compiled(function, fullgraph=True):
    return torch.compile(function, backend="aot_eager", fullgraph=fullgraph)


def used_operator():
    return bool(compiled_layers._PLANS)


def loss_of(net):
    def loss(params, *xs):
        output = net(params, *xs)
        return (output[0] if isinstance(output, tuple) else output).square().mean()

    return loss


@parametrize(name=BLOCKS, fullgraph=[False, True])
def test_values_and_gradients_have_eager_bits_by_params_and_inputs(name, fullgraph):
    net = fn.Sequential(fn.Linear(8, 8), fn.Stack(BLOCKS[name], COUNT), fn.Linear(8, 2))
    params, _ = net.init(0)
    loss = loss_of(net)
    both = fn.value_and_grad(compiled(loss, fullgraph), argnums=(0, 1))
    assert_identical(both(params, X), fn.value_and_grad(loss, argnums=(0, 1))(params, X))
    assert used_operator()
    with torch.no_grad():
        assert_identical(compiled(loss)(params, X), loss(params, X))
    del both
    gc.collect()
    assert not compiled_layers._RECORDED


@parametrize(name=MODELS)
def test_models_have_eager_bits(name):
    net = MODELS[name]
    params, _ = net.init(0)
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    loss = loss_of(net)
    assert_identical(
        fn.value_and_grad(compiled(loss))(params, TOKENS, mask), fn.value_and_grad(loss)(params, TOKENS, mask)
    )
    assert used_operator()


def test_each_call_has_the_gradient_of_its_own_inputs():
    net = fn.Stack(residual, COUNT)
    params, _ = net.init(0)
    call = compiled(net)

    def both(run):
        leaves = fn.tree.map(lambda leaf: leaf.clone().requires_grad_(), params)
        first, second = run(leaves, X), run(leaves, 2 * X)
        again = run(leaves, X)
        flat = list(fn.tree.flatten(leaves).values())
        value = (second * first).sum()
        once = torch.autograd.grad(value, flat, retain_graph=True)
        return [first, second, once, torch.autograd.grad(value, flat), torch.autograd.grad(again.sum(), flat)]

    assert_identical(both(call), both(net))
    same = compiled(lambda params: (net(params, X) * net(params, X).sin()).sum())
    plain = fn.value_and_grad(lambda params: (net(params, X) * net(params, X).sin()).sum())(params)
    assert_identical(fn.value_and_grad(same)(params), plain)


def test_what_has_no_gradient_gets_none():
    net = fn.Stack(residual, COUNT)
    params, _ = net.init(0)

    def gradients(run, of):
        leaves = {path: leaf.clone() for path, leaf in fn.tree.flatten(params).items()}
        x = X.clone()
        for wanted in of:
            (x if wanted == "x" else leaves[wanted]).requires_grad_()
        run(fn.tree.unflatten(leaves), x).square().sum().backward()
        return {path: leaf.grad for path, leaf in {**leaves, "x": x}.items()}

    for of in (["x"], ["up.weight"], ["norm.bias", "x"]):
        plain, result = gradients(net, of), gradients(compiled(net), of)
        assert {path for path, leaf in result.items() if leaf is not None} == set(of)
        assert_identical([result[path] for path in of], [plain[path] for path in of])
    frozen = fn.Stack(residual.freeze("up.weight"), COUNT)
    loss = loss_of(frozen)
    assert_identical(fn.value_and_grad(compiled(loss))(params, X), fn.value_and_grad(loss)(params, X))


def test_other_inputs_are_given_to_every_layer_and_may_be_none():
    net = fn.Stack(residual, COUNT)
    params, _ = net.init(0)
    for shift in (None, torch.linspace(0, 1, 8)):
        loss = loss_of(net)
        assert_identical(fn.value_and_grad(compiled(loss))(params, X, shift), fn.value_and_grad(loss)(params, X, shift))
    both = fn.value_and_grad(compiled(loss), argnums=2)
    assert_identical(both(params, X, shift), fn.value_and_grad(loss, argnums=2)(params, X, shift))


def test_new_sizes_and_dtypes_have_their_own_numbers():
    net = fn.Stack(residual, COUNT)
    params, _ = net.init(0)
    call = compiled(net)
    for rows in (3, 5, 7):
        x = torch.linspace(-1, 1, 8 * rows).view(rows, 8)
        assert_identical(call(params, x), net(params, x))
    double = fn.tree.map(lambda leaf: leaf.double(), params)
    assert_identical(call(double, X.double()), net(double, X.double()))
    cut = fn.Stack(fn.Sequential(lambda x: x[:, 1:], fn.Tanh()), COUNT)
    assert_identical(compiled(cut)({}, X), cut({}, X))


LOOPS = {
    "grad inside": lambda net, params: lambda: torch.func.grad(loss_of(net))(params, X),
    "value_and_grad inside": lambda net, params: lambda: fn.value_and_grad(loss_of(net))(params, X),
    "vmap inside": lambda net, params: lambda: torch.vmap(lambda x: net(params, x))(X),
    "transposed": lambda net, params: lambda: net(params, torch.ones(8, 3).t()),
    "autocast": lambda net, params: lambda: _in_bfloat16(lambda: net(params, X)),
}


def _in_bfloat16(run):
    with torch.autocast("cpu", torch.bfloat16):
        return run()


@parametrize(form=LOOPS)
def test_where_the_operator_has_no_rule_the_loop_is_compiled(form):
    net = fn.Stack(residual, COUNT)
    run = LOOPS[form](net, net.init(0)[0])
    assert_identical(compiled(run)(), run())
    assert not used_operator()


def test_exports_draws_and_buffers_are_loops():
    net = fn.Stack(fn.Sequential(fn.Linear(8, 8), fn.BatchNorm1d(8), fn.Dropout(0.5)), COUNT)
    trees = net.init(0)
    key = fn.random.key(3)

    def train(params, buffers):
        return net.apply(params, buffers, X, train=True, rng=key)

    assert_identical(compiled(train)(*trees), train(*trees))
    plain = fn.Stack(residual, COUNT)
    module = fn.to_module(plain, *plain.init(0))
    program = torch.export.export(module, (X,))
    assert_identical(program.module()(X), module(X))
    assert not used_operator()


@parametrize(transform=["grad", "vmap"])
def test_a_transform_around_compiled_code_is_never_wrong(transform):
    net = fn.Stack(residual, COUNT)
    params, _ = net.init(0)
    loss = loss_of(net)
    around = {"grad": torch.func.grad, "vmap": lambda f: torch.vmap(f, in_dims=(None, 0))}[transform]
    xs = X if transform == "grad" else torch.stack([X, 2 * X])
    try:
        result = around(compiled(loss, fullgraph=False))(params, xs)
    except RuntimeError:
        return  # torch refuses
    assert_identical(result, around(loss)(params, xs))


def test_a_second_derivative_through_it_is_refused():
    net = fn.Stack(residual, COUNT)
    x = X.clone().requires_grad_()
    (first,) = torch.autograd.grad(compiled(net)(net.init(0)[0], x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward"):
        torch.autograd.grad(first.sum(), x)


def test_a_wrong_shape_is_named_at_its_path():
    net = fn.Sequential(fn.Linear(8, 8), fn.Stack(fn.Sequential(fn.Linear(8, 9)), COUNT))
    params, _ = net.init(0)
    with pytest.raises(fn.ShapeError, match="Stack at '1'"):
        compiled(net, fullgraph=False)(params, X)
    module = nn.Linear(8, 8)
    assert_identical(compiled(module)(X), module(X))
