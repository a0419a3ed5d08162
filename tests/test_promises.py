"""The promises, each on every case: equal, pure, both ways, transformable."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest
import torch
from torch import Tensor, nn

import funcnet as fn
from funcnet.layers import COUNTERPARTS
from tests.cases import CASES, LAYER_CASES
from tests.helpers import assert_identical, buffers_of, clone, global_generator_untouched, parametrize, params_of

DTYPES = [torch.float32, torch.float64]
WITH_DRAWS = [case for case in CASES if case.dropout]


def both(case, dtype, train):
    """The module of a case and its net, with the same tensors."""
    module = case.module().to(dtype).train(train)
    net = case.net()
    return module, net, clone(params_of(module)), clone(buffers_of(module))


def floats(output) -> list[Tensor]:
    leaves = torch.utils._pytree.tree_leaves(output)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def total(output) -> Tensor:
    """A scalar whose gradient tells outputs apart."""
    return sum(
        (leaf * torch.linspace(0.5, 1.5, leaf.numel(), dtype=leaf.dtype).view(leaf.shape)).sum()
        for leaf in floats(output)
    )


# --- equal ---


@parametrize(case=CASES, dtype=DTYPES, train=[False, True])
def test_apply_gives_the_bits_of_the_module_and_writes_nothing(case, dtype, train):
    module, net, params, buffers = both(case, dtype, train)
    xs = case.inputs(dtype)
    given = clone((params, buffers, xs))
    with global_generator_untouched():
        y, new = net.apply(params, buffers, *xs, train=train, rng=7)
    assert_identical((params, buffers, xs), given)
    torch.manual_seed(7)
    assert_identical(y, module(*clone(xs)))
    assert_identical(new, buffers_of(module))


@parametrize(case=CASES, dtype=DTYPES, train=[False, True])
def test_gradients_are_those_of_the_module(case, dtype, train):
    module, net, params, buffers = both(case, dtype, train)
    xs = case.inputs(dtype)
    torch.manual_seed(7)
    given = [x.clone().requires_grad_(not case.ints) for x in xs]
    # an in-place twin may not write to a leaf, so it gets a copy of one
    total(module(*(x.clone() for x in given))).backward()

    def loss(params, *xs):
        return total(net.apply(params, buffers, *xs, train=train, rng=7)[0])

    _, grads = fn.value_and_grad(loss)(params, *xs)
    held = {name: param.grad for name, param in module.named_parameters() if param.grad is not None}
    unused = [name for name, param in module.named_parameters() if param.grad is None]
    flat = fn.tree.flatten(grads)
    assert_identical({name: flat[name] for name in held}, held)
    assert all(bool((flat[name] == 0).all()) for name in unused)
    if not case.ints and given[0].grad is not None:
        for index, x in enumerate(given):
            _, grad = fn.value_and_grad(loss, argnums=index + 1)(params, *xs)
            assert_identical(grad, x.grad)


@parametrize(case=CASES, dtype=DTYPES)
def test_init_by_seed_gives_the_tensors_of_the_module(case, dtype):
    state = torch.get_rng_state()
    torch.manual_seed(3)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        module = case.module()
        torch.set_rng_state(state)
        with global_generator_untouched():
            params, buffers = case.net().init(3)
    finally:
        torch.set_default_dtype(default)
    assert_identical(params, params_of(module))
    assert_identical(buffers, buffers_of(module))
    assert_identical(case.net().init(3, dtype=dtype), (params, buffers))


@parametrize(case=CASES)
def test_repr_is_that_of_the_module(case):
    expected = repr(case.module())
    assert repr(case.net()).replace(case.net().title(), type(case.module()).__name__) == expected


@pytest.mark.parametrize("twin", COUNTERPARTS, ids=lambda twin: twin.__name__)
def test_arguments_and_defaults_are_those_of_the_twin(twin):
    skipped = {"_weight", "_freeze"}  # tensors, which a record of hyperparameters does not hold
    ours = inspect.signature(COUNTERPARTS[twin])
    theirs = inspect.signature(twin)
    if any(parameter.kind == parameter.VAR_POSITIONAL for parameter in theirs.parameters.values()):
        return  # Sigmoid and Tanh pass anything on to Module; Identity forgets everything
    expected = [(p.name, p.default, p.kind) for p in theirs.parameters.values() if p.name not in skipped]
    assert [(p.name, p.default, p.kind) for p in ours.parameters.values()] == expected


# --- pure ---


@parametrize(case=WITH_DRAWS)
def test_equal_arguments_give_equal_results_and_other_keys_others(case):
    net = case.net()
    params, buffers = net.init(0)
    xs = case.inputs()
    key = fn.random.key(0)
    with global_generator_untouched():
        first = net.apply(params, buffers, *xs, train=True, rng=key)
        second = net.apply(params, buffers, *xs, train=True, rng=key)
        other = net.apply(params, buffers, *xs, train=True, rng=fn.random.key(1))
    assert_identical(first, second)
    draws = any(below.draws(True) and below.p < 1 for _, below in net.named_nets())
    assert draws != bool(torch.equal(floats(first[0])[0], floats(other[0])[0]))


@parametrize(case=WITH_DRAWS)
def test_a_needed_rng_that_is_missing_is_refused_with_every_path(case):
    net = case.net()
    paths = [path for path, below in net.named_nets() if below.draws(True)]
    if not paths:
        assert net.apply(*net.init(0), *case.inputs(), train=True)[1] == {}
        return
    with pytest.raises(fn.RandomnessError) as caught:
        net.apply(*net.init(0), *case.inputs(), train=True)
    for path in paths:
        assert (repr(path) if path else "the net itself") in str(caught.value)


@parametrize(case=CASES)
def test_nets_are_values(case):
    net, again = case.net(), case.net()
    assert net == again
    assert hash(net) == hash(again)
    assert copy.deepcopy(net) == net
    assert pickle.loads(pickle.dumps(net)) == net
    assert not [value for value in vars(net).values() if isinstance(value, Tensor)]


# --- both ways ---


@parametrize(case=CASES, train=[False, True])
def test_net_to_module_and_back(case, train):
    net = case.net()
    params, buffers = net.init(0)
    module = fn.to_module(net, params, buffers).train(train)
    xs = case.inputs()
    y, new = net.apply(params, buffers, *xs, train=train, rng=5)
    torch.manual_seed(5)
    assert_identical(module(*clone(xs)), y)
    assert_identical(buffers_of(module), new)
    back = fn.from_module(module)
    assert back[0] == net
    assert_identical(back[1], params_of(module))
    assert_identical(back[2], buffers_of(module))


@parametrize(case=CASES)
def test_module_to_net_and_back(case):
    module = case.module()
    before = clone(module.state_dict())
    net, params, buffers = fn.from_module(module)
    again = fn.to_module(net, params, buffers)
    assert repr(again) == repr(module)
    assert_identical(dict(again.state_dict()), before)
    assert_identical(dict(again.named_buffers()), dict(module.named_buffers()))
    assert_identical(fn.to_state_dict(net, params, buffers), before)
    assert_identical(fn.from_state_dict(net, before), (params, buffers))
    assert [path for path, _ in net.named_nets()] == [path for path, _ in module.named_modules(remove_duplicate=False)]


@parametrize(case=LAYER_CASES)
def test_stock_layers_become_native_nets(case):
    assert fn.from_module(case.module())[0] == case.net()


# --- transformable ---


@parametrize(case=CASES, train=[False, True])
def test_vmap_over_inputs_is_a_loop(case, train):
    net = case.net()
    params, buffers = net.init(0)
    keys = fn.random.split(fn.random.key(0), 3)
    xs = case.inputs(examples=3)

    def one(key, *xs):
        return net.apply(params, buffers, *xs, train=train, rng=key)

    mapped = torch.vmap(one)(keys, *xs)
    looped = [one(keys[index], *(x[index] for x in xs)) for index in range(3)]
    for index in range(3):
        chosen = torch.utils._pytree.tree_map(lambda leaf, index=index: leaf[index], mapped)
        torch.testing.assert_close(chosen, looped[index])


@parametrize(case=CASES, train=[False, True])
def test_per_sample_gradients_are_a_loop(case, train):
    net = case.net()
    params, buffers = net.init(0)
    if not params:
        params = {}
    keys = fn.random.split(fn.random.key(0), 2)
    xs = case.inputs(examples=2)

    def loss(params, key, *xs):
        return total(net.apply(params, buffers, *xs, train=train, rng=key)[0])

    argnums = 0 if params else 2
    if case.ints and not params:
        pytest.skip("nothing to differentiate")
    grad = torch.func.grad(loss, argnums=argnums)
    mapped = torch.vmap(grad, in_dims=(None, 0, *(0 for _ in xs)))(params, keys, *xs)
    for index in range(2):
        chosen = torch.utils._pytree.tree_map(lambda leaf, index=index: leaf[index], mapped)
        torch.testing.assert_close(chosen, grad(params, keys[index], *(x[index] for x in xs)), rtol=2e-4, atol=2e-5)


@parametrize(case=CASES)
def test_an_ensemble_is_a_vmap_over_init_and_params(case):
    net = case.net()
    keys = fn.random.split(fn.random.key(0), 3)
    xs = case.inputs()
    params, buffers = torch.vmap(net.init)(keys) if net.init(0) != ({}, {}) else ({}, {})
    if not params and not buffers:
        assert net.init(keys[0]) == ({}, {})
        return
    y, _ = torch.vmap(lambda p, b: net.apply(p, b, *xs))(params, buffers)
    for index in range(3):
        one = net.init(keys[index])
        assert_identical(fn.tree.map(lambda leaf, index=index: leaf[index], params), one[0])
        chosen = torch.utils._pytree.tree_map(lambda leaf, index=index: leaf[index], y)
        torch.testing.assert_close(chosen, net.apply(*one, *xs)[0])


@parametrize(case=CASES, train=[False, True])
def test_compiles_without_a_break_and_once_for_other_values(case, train):
    net = case.net()
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda params, buffers, key, *xs: net.apply(params, buffers, *xs, train=train, rng=key),
        fullgraph=True,
        backend="aot_eager",
    )
    torch._dynamo.utils.counters.clear()
    for seed in range(3):
        params, buffers = net.init(seed)
        key, xs = fn.random.key(seed), case.inputs(seed=seed)
        y, new = compiled(params, buffers, key, *xs)
        expected = net.apply(params, buffers, *xs, train=train, rng=key)
        torch.testing.assert_close((y, new), expected)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 1  # none where nothing is computed


@parametrize(case=[case for case in CASES if not case.ints])
def test_jvp_is_the_directional_derivative(case):
    net = case.net()
    params, buffers = net.init(0, dtype=torch.float64)
    # torch's own rule for group_norm fails on channels_last, with the module too
    xs = [x.contiguous() for x in case.inputs(torch.float64)]
    tangents = case.inputs(torch.float64, seed=1)

    def f(*xs):
        return total(net.apply(params, buffers, *xs, rng=fn.random.key(0))[0])

    _, forward = torch.func.jvp(f, tuple(xs), tuple(tangents))
    grads = torch.func.grad(f, argnums=tuple(range(len(xs))))(*xs)
    backward = sum((grad * tangent).sum() for grad, tangent in zip(grads, tangents, strict=True))
    torch.testing.assert_close(forward, backward)


def test_every_counterpart_has_a_case():
    covered = {type(case.module()) for case in LAYER_CASES}
    assert set(COUNTERPARTS) - covered == set()
    assert all(issubclass(twin, nn.Module) and twin.__name__ == net.__name__ for twin, net in COUNTERPARTS.items())
