"""Random nets: module -> net -> module and state_dict -> trees -> state_dict lose nothing."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import funcnet as fn
from tests.helpers import assert_identical, buffers_of, params_of

WIDTH = 4
LEAVES = st.one_of(
    st.builds(lambda bias: ("Linear", (WIDTH, WIDTH), {"bias": bias}), st.booleans()),
    st.builds(
        lambda affine, tracked, momentum: (
            "BatchNorm1d",
            (WIDTH,),
            {"affine": affine, "track_running_stats": tracked, "momentum": momentum},
        ),
        st.booleans(),
        st.booleans(),
        st.sampled_from([None, 0.1, 0.5]),
    ),
    st.builds(lambda affine: ("LayerNorm", (WIDTH,), {"elementwise_affine": affine}), st.booleans()),
    st.builds(lambda p: ("Dropout", (p,), {}), st.sampled_from([0.0, 0.3, 1.0])),
    st.sampled_from([("ReLU", (), {}), ("Tanh", (), {}), ("Identity", (), {}), ("GELU", (), {"approximate": "tanh"})]),
)
PLANS = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4), max_leaves=10)


def build(make, plan):
    """The same plan with torch.nn or with funcnet."""
    if isinstance(plan, list):
        return make.Sequential(*(build(make, layer) for layer in plan))
    name, args, kwargs = plan
    return getattr(make, name)(*args, **kwargs)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(plan=PLANS, seed=st.integers(0, 2**62), train=st.booleans(), shares=st.booleans())
def test_random_nets_equal_their_modules_both_ways(plan, seed, train, shares):
    torch.manual_seed(seed)
    module = nn.Sequential(build(nn, plan), nn.Linear(WIDTH, 2)).train(train)
    native = fn.Sequential(build(fn, plan), fn.Linear(WIDTH, 2))
    assert_identical(native.init(seed), (params_of(module), buffers_of(module)))
    if shares:  # the first part once more, as the same object
        module = nn.Sequential(module[0], *module)
    net, params, buffers = fn.from_module(module)
    state = dict(module.state_dict())
    assert_identical(fn.to_state_dict(net, params, buffers), state)
    assert_identical(fn.from_state_dict(net, state), (params, buffers))
    returned = fn.to_module(net, params, buffers).train(train)
    assert repr(net) == repr(module) == repr(returned)
    assert_identical(dict(returned.state_dict()), state)
    x = torch.linspace(-1, 1, 5 * WIDTH).view(5, WIDTH)
    y, new = net.apply(params, buffers, x, train=train, rng=seed)
    torch.manual_seed(seed)
    assert_identical(y, module(x))
    assert_identical(new, buffers_of(module))
    assert fn.from_module(returned)[0].tie({}) == net
