"""Stacked layers: the bits of the same layers with tensors of their own, in every form."""

from __future__ import annotations

import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import funcnet as fn
from tests.helpers import assert_identical, global_generator_untouched, parametrize, total

KEY = fn.random.key(7)
X = torch.linspace(-1, 1, 24).view(3, 8)
COUNT = 3


@fn.compose(fc=fn.Linear(8, 8), norm=fn.BatchNorm1d(8), drop=fn.Dropout(0.3))
def block(p, x, shift=0.0):
    return x + F.dropout(p.drop(p.norm(F.gelu(p.fc(x)))), 0.2, p.training) + shift


STOCK = fn.Sequential(fn.Linear(8, 8), fn.BatchNorm1d(8), fn.Dropout(0.3), fn.Tanh())
FOREIGN = fn.from_module(nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.3)))[0]
TIED = fn.Sequential(fn.Linear(8, 8), fn.Tanh(), fn.Linear(8, 8)).tie({"2.weight": "0.weight"})
BLOCKS = {
    "stock": STOCK,
    "composed": block,
    "foreign": FOREIGN,
    "in remat": fn.remat(block),
    "tied": TIED,
    "in a net": fn.Sequential({"inner": TIED, "act": fn.GELU()}),
    "function": fn.core.Function(torch.tanh),
    "stack": fn.Stack(STOCK, 2),
}


def loss_of(net, rng=KEY, train=True):
    def loss(params, buffers, *xs):
        output, buffers = net.apply(params, buffers, *xs, train=train, rng=rng)
        return total(output), (output, buffers)

    return loss


def separate(block):
    return fn.Sequential(*[block] * COUNT)


@parametrize(name=BLOCKS, rng=[3, KEY], train=[False, True])
def test_a_stack_has_the_bits_of_its_layers_one_after_the_other(name, rng, train):
    stack, plain = fn.Stack(BLOCKS[name], COUNT), separate(BLOCKS[name])
    params, buffers = plain.init(rng)
    stacked_params, stacked_buffers = stack.init(rng)
    members = {key: {} for key in "012"} | params
    assert_identical(stacked_params, fn.tree.stack(list(members.values())))
    if not params:
        assert_identical(stack(stacked_params, X), plain(params, X))
        return
    expected, grads = fn.value_and_grad(loss_of(plain, rng, train), has_aux=True)(params, buffers, X)
    with global_generator_untouched():
        result, stacked_grads = fn.value_and_grad(loss_of(stack, rng, train), has_aux=True)(
            stacked_params, stacked_buffers, X
        )
    assert_identical(result[0], expected[0])
    assert_identical(result[1][0], expected[1][0])
    assert_identical(stacked_grads, fn.tree.stack(list(grads.values())))
    if buffers:
        assert_identical(result[1][1], fn.tree.stack(list(expected[1][1].values())))


@parametrize(name=BLOCKS, train=[False, True])
def test_a_stack_is_a_module_and_back(name, train):
    stack = fn.Stack(BLOCKS[name], COUNT)
    params, buffers = stack.init(0)
    module = fn.to_module(stack, params, buffers).train(train)
    assert_identical(dict(module.state_dict()), fn.to_state_dict(stack, params, buffers))
    output, new_buffers = stack.apply(params, buffers, X, train=train, rng=5)
    torch.manual_seed(5)
    assert_identical(module(X), output)
    net, *trees = fn.from_module(module)
    assert (net == stack or name == "in a net") and net.aliases == stack.aliases  # a module has all ties at its root
    assert pickle.loads(pickle.dumps(stack)) == stack
    assert_identical(tuple(trees), (params, new_buffers))


def test_a_body_loops_over_it_indexes_and_slices_it_and_gives_each_layer_what_it_takes():
    def body(p, x):
        states = [x]
        for index, layer in enumerate(p.layers):
            states.append(layer(states[-1], shift=float(index)))
        x = p.layers[1:](p.layers[-1](states[-1]))
        return x, p.layers[0].fc.weight, p.layers[0].drop(x), len(p.layers), p.layers[1].training

    stacked = fn.compose(layers=fn.Stack(block, COUNT))(body)

    def slices(p, x):  # a ModuleList view gives a list, which is not called
        states = [x]
        for index, layer in enumerate(p.layers):
            states.append(layer(states[-1], shift=float(index)))
        x = p.layers[-1](states[-1])
        for layer in p.layers[1:]:
            x = layer(x)
        return x, p.layers[0].fc.weight, p.layers[0].drop(x), len(p.layers), p.layers[1].training

    plain = fn.compose(layers=fn.ModuleList([block] * COUNT))(slices)
    trees = stacked.init(0)
    plain_trees = fn.unstack_layers(stacked, *trees)[1:]
    assert_identical(plain_trees, plain.init(0))
    for rng in (2, KEY):
        result, buffers = stacked.apply(*trees, X, train=True, rng=rng)
        expected, plain_buffers = plain.apply(*plain_trees, X, train=True, rng=rng)
        assert_identical(result, expected)
        assert_identical(fn.unstack_layers(stacked, trees[0], buffers)[2], plain_buffers)


def test_layers_may_return_more_than_one_value():
    @fn.compose(fc=fn.Linear(8, 8))
    def with_state(p, x, state):
        x = torch.tanh(p.fc(x))
        return x, {"sum": state["sum"] + x.sum(), "none": None}

    @fn.compose(layers=fn.Stack(with_state, COUNT))
    def net(p, x):
        state = {"sum": x.sum()}
        for layer in p.layers:
            x, state = layer(x, state)
        return x, state

    params, _ = net.init(0)
    x, total_sum = X, X.sum()
    for weight, bias in zip(*[params["layers"]["fc"][name].unbind() for name in ("weight", "bias")], strict=True):
        x = torch.tanh(F.linear(x, weight, bias))
        total_sum = total_sum + x.sum()
    assert_identical(net(params, X), (x, {"sum": total_sum, "none": None}))


def test_modes_are_those_of_all_layers_and_draws_those_of_each():
    stack, plain = fn.Sequential(fn.Stack(STOCK, COUNT)), fn.Sequential(separate(STOCK))
    trees = stack.init(0)
    plain_trees = fn.unstack_layers(stack, *trees)[1:]
    for selected, plain_selected in {"0.2": "0.*.2", "0.1": "0.*.1", "0": "0"}.items():
        result = stack.apply(*trees, X, train=selected, rng=KEY)[0]
        assert_identical(result, plain.apply(*plain_trees, X, train=plain_selected, rng=KEY)[0])
    with pytest.raises(fn.RandomnessError, match=r"'0.2'"):
        stack.apply(*trees, X, train=True)
    assert stack.freeze("0.0.weight").frozen == ("0.0.weight",)


@fn.compose(inner=fn.Stack(fn.Sequential(fn.Linear(8, 8), fn.Dropout(0.5)), 2), out=fn.Linear(8, 8))
def nest(p, x):
    return p.out(torch.tanh(p.inner(x)))


def test_nests_have_the_draws_and_modes_of_lists_in_lists():
    stack = fn.Stack(nest, COUNT)
    trees = stack.init(KEY)
    assert trees[0]["inner"]["0"]["weight"].shape == (COUNT, 2, 8, 8)
    plain, *plain_trees = fn.unstack_layers(stack, *trees)
    assert_identical(tuple(plain_trees), plain.init(KEY))
    result = stack.apply(*trees, X, train="inner.1", rng=KEY)[0]
    assert_identical(result, plain.apply(*plain_trees, X, train="*.inner.*.1", rng=KEY)[0])


SMOOTH = fn.Sequential(fn.Linear(8, 8), fn.Tanh(), fn.Dropout(0.5))
PARAMS, _ = fn.Stack(SMOOTH, COUNT).init(0)
TANGENT = fn.tree.map(torch.cos, PARAMS)
MEMBERS = fn.tree.map(lambda tensor: torch.stack([tensor, 2 * tensor]), PARAMS)
FORMS = {
    "grad": lambda loss: torch.func.grad(loss)(PARAMS),
    "jvp": lambda loss: torch.func.jvp(loss, (PARAMS,), (TANGENT,))[1],
    "hvp": lambda loss: fn.hvp(loss)(PARAMS, TANGENT),
    "vmap": lambda loss: torch.vmap(loss)(MEMBERS),
    "vmap of grad": lambda loss: torch.vmap(torch.func.grad(loss))(MEMBERS),
    "autocast": lambda loss: _with_autocast(lambda: fn.value_and_grad(loss)(PARAMS)),
}


def _with_autocast(run):
    with torch.autocast("cpu", torch.bfloat16):
        return run()


@parametrize(form=FORMS, in_remat=[False, True])
def test_transforms_give_what_they_give_for_separate_layers(form, in_remat):
    block = fn.remat(SMOOTH) if in_remat else SMOOTH
    stack, plain = fn.Stack(block, COUNT), separate(SMOOTH)

    def plain_loss(params):
        return total(plain.apply(fn.unstack_layers(stack, params)[1], {}, X, train=True, rng=KEY)[0])

    def loss(params):
        return total(stack.apply(params, {}, X, train=True, rng=KEY)[0])

    assert_identical(FORMS[form](loss), FORMS[form](plain_loss))


def test_layouts_go_both_ways_with_ties_and_frozen_params():
    module = nn.Sequential(nn.Linear(4, 8), nn.ModuleList(), nn.Linear(8, 2))
    blocks = [nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8)) for _ in range(COUNT)]
    for part in blocks:
        part[2].weight = part[0].weight
        part[0].bias.requires_grad_(False)
    module[1] = nn.Sequential(*blocks)
    net, params, buffers = fn.from_module(module)
    stacked, *trees = fn.stack_layers(net, params, buffers, "1")
    assert stacked.frozen == ("1.0.bias",) and stacked.aliases == {"1.2.weight": "1.0.weight"}
    x = torch.linspace(-1, 1, 12).view(3, 4)
    assert_identical(stacked.apply(*trees, x)[0], module(x))
    back, *back_trees = fn.unstack_layers(stacked, *trees)
    assert_identical(tuple(back_trees), (params, buffers))
    assert set(back.frozen) == set(net.frozen) and back.aliases == net.aliases
    again = fn.to_module(back, *back_trees)
    assert_identical(dict(again.state_dict()), dict(module.state_dict()))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: fn.Sequential(fn.Linear(8, 8), fn.Linear(8, 8, bias=False)), "'1' is Linear"),
        (lambda: fn.Sequential(fn.Linear(8, 8), fn.Linear(8, 8)).freeze("0"), "'1' has other frozen params than '0'"),
        (
            lambda: fn.Sequential(fn.Linear(8, 8), fn.Linear(8, 8)).tie({"1.weight": "0.weight"}),
            "tied to one outside of its layer",
        ),
    ],
)
def test_layers_that_differ_are_not_stacked(build, message):
    net = build()
    with pytest.raises(fn.TreeError, match=message):
        fn.stack_layers(net, *net.init(0), "")


def test_what_is_no_stack_is_refused():
    with pytest.raises(ValueError, match="at least 1 layer, got count=0"):
        fn.Stack(fn.Linear(2, 2), 0)
    with pytest.raises(ValueError, match="has sizes, and 0 has none yet"):
        fn.Stack(fn.Sequential(fn.LazyLinear(2)), 2)
    with pytest.raises(TypeError, match="from_module"):
        fn.Stack(nn.Linear(2, 2), 2)
    stack = fn.Stack(STOCK, COUNT)
    with pytest.raises(fn.TreeError, match=r"put funcnet.Stack\(net, 3\) there"):
        stack.replaced({"0": fn.Linear(8, 8, bias=False)})
    assert stack.replaced({"0": fn.Stack(fn.Linear(8, 8, bias=False), COUNT)})[0][0].bias is False
    with pytest.raises(fn.TreeError, match="finds no equal layers"):
        fn.stack_layers(fn.Linear(2, 2), fn.Linear(2, 2).init(0)[0])
    net = fn.Sequential(fn.Stack(fn.Sequential(fn.Linear(8, 8), lambda x: x[:, 1:]), COUNT))
    params, _ = net.init(0)
    with pytest.raises(fn.ShapeError, match=r"Linear at '0.1.0': expected input \(\*, 8\)"):
        net(params, X)
