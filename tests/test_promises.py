"""The promises, each on every case: equal, pure, both ways, transformable."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

import funcnet as fn
from funcnet.core import Lazy
from funcnet.layers import COUNTERPARTS
from tests.cases import CASES, LAYER_CASES
from tests.helpers import (
    assert_identical,
    buffers_of,
    clone,
    floats,
    global_generator_untouched,
    parametrize,
    params_of,
    total,
)

DTYPES = [torch.float32, torch.float64]
LAZY = {twin for twin, net in COUNTERPARTS.items() if issubclass(net, Lazy)}
WITH_DRAWS = [case for case in CASES if case.dropout]


def both(case, dtype, train):
    """The module of a case and its net, with the same tensors."""
    module = case.module().to(dtype).train(train)
    net = case.net()
    return module, net, clone(params_of(module)), clone(buffers_of(module))


# --- equal ---


@parametrize(case=CASES, dtype=DTYPES, train=[False, True])
def test_apply_gives_the_bits_of_the_module_and_writes_nothing(case, dtype, train):
    module, net, params, buffers = both(case, dtype, train)
    xs = case.inputs(dtype)
    given = clone((params, buffers, xs))
    with global_generator_untouched():
        y, new = net.apply(params, buffers, *xs, **case.call, train=train, rng=7)
    assert_identical((params, buffers, xs), given)
    torch.manual_seed(7)
    assert_identical(y, module(*clone(xs), **case.call))
    assert_identical(new, buffers_of(module))


@parametrize(case=CASES, dtype=DTYPES, train=[False, True])
def test_gradients_are_those_of_the_module(case, dtype, train):
    module, net, params, buffers = both(case, dtype, train)
    xs = case.inputs(dtype)
    torch.manual_seed(7)
    given = tree_map(lambda x: x.clone().requires_grad_(x.is_floating_point()) if isinstance(x, Tensor) else x, xs)
    # an in-place twin may not write to a leaf, so it gets a copy of one
    total(module(*clone(given), **case.call)).backward()

    def loss(params, *xs):
        return total(net.apply(params, buffers, *xs, **case.call, train=train, rng=7)[0])

    _, grads = fn.value_and_grad(loss)(params, *xs)
    held = {name: param.grad for name, param in module.named_parameters() if param.grad is not None}
    unused = [name for name, param in module.named_parameters() if param.grad is None]
    flat = fn.tree.flatten(grads)
    assert_identical({name: flat[name] for name in held}, held)
    assert all(bool((flat[name] == 0).all()) for name in unused)
    for index, x in enumerate(given):
        if isinstance(x, Tensor) and x.grad is not None:
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
    added = {"impl"}  # funcnet's own choice of kernels
    ours = inspect.signature(COUNTERPARTS[twin])
    theirs = inspect.signature(twin)
    if any(parameter.kind == parameter.VAR_POSITIONAL for parameter in theirs.parameters.values()):
        return  # Sigmoid and Tanh pass anything on to Module; Identity forgets everything
    expected = [(p.name, p.default, p.kind) for p in theirs.parameters.values()]
    assert [(p.name, p.default, p.kind) for p in ours.parameters.values() if p.name not in added] == expected


@pytest.mark.parametrize("twin", [twin for twin in COUNTERPARTS if twin not in LAZY], ids=lambda twin: twin.__name__)
def test_inputs_have_the_names_and_defaults_of_the_twin(twin):
    ours = inspect.signature(COUNTERPARTS[twin].forward).parameters.values()
    ours = [p for p in ours if p.name not in ("self", "p", "_")]
    theirs = list(inspect.signature(twin.forward).parameters.values())[1:]
    assert [(p.name, p.default, p.kind) for p in ours] == [(p.name, p.default, p.kind) for p in theirs]


# --- pure ---


@parametrize(case=WITH_DRAWS)
def test_equal_arguments_give_equal_results_and_other_keys_others(case):
    net = case.net()
    params, buffers = net.init(0)
    xs = case.inputs()
    key = fn.random.key(0)
    with global_generator_untouched():
        first = net.apply(params, buffers, *xs, **case.call, train=True, rng=key)
        second = net.apply(params, buffers, *xs, **case.call, train=True, rng=key)
        other = net.apply(params, buffers, *xs, **case.call, train=True, rng=fn.random.key(1))
    assert_identical(first, second)
    draws = any(below.draws(True) and getattr(below, "p", 0) < 1 for _, below in net.named_nets())
    assert draws != bool(torch.equal(floats(first[0])[0], floats(other[0])[0]))


@parametrize(case=WITH_DRAWS)
def test_a_needed_rng_that_is_missing_is_refused_with_every_path(case):
    net = case.net()
    paths = [path for path, below in net.named_nets() if below.draws(True)]
    if not paths:
        assert net.apply(*net.init(0), *case.inputs(), **case.call, train=True)[1] == {}
        return
    with pytest.raises(fn.RandomnessError) as caught:
        net.apply(*net.init(0), *case.inputs(), **case.call, train=True)
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
    y, new = net.apply(params, buffers, *xs, **case.call, train=train, rng=5)
    torch.manual_seed(5)
    assert_identical(module(*clone(xs), **case.call), y)
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


def test_every_counterpart_has_a_case():
    covered = {type(case.module()) for case in LAYER_CASES}
    base = {twin for twin in COUNTERPARTS if twin.forward is nn.Module.forward}  # which compute nothing
    assert set(COUNTERPARTS) - covered - LAZY - base == set()
    assert all(issubclass(twin, nn.Module) and twin.__name__ == net.__name__ for twin, net in COUNTERPARTS.items())
