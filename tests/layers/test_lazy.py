"""Lazy layers get their sizes from example inputs, and become the layers they are named after."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import funcnet as fn
from funcnet.core import Lazy
from funcnet.layers import COUNTERPARTS
from tests.helpers import assert_identical, buffers_of, global_generator_untouched, parametrize, params_of

LAZY = {
    "LazyLinear": ((5,), {"bias": False}, (4, 3)),
    "LazyConv1d": ((4, 3), {"padding": "same", "padding_mode": "circular"}, (2, 3, 8)),
    "LazyConv2d": ((6, (3, 2)), {"groups": 3, "bias": False}, (3, 8, 8)),
    "LazyConv3d": ((4, 2), {"dilation": 2}, (2, 3, 8, 8, 8)),
    "LazyConvTranspose1d": ((4, 3), {"stride": 2, "output_padding": 1}, (2, 3, 8)),
    "LazyConvTranspose2d": ((6, (3, 2)), {"groups": 3, "bias": False}, (3, 8, 8)),
    "LazyConvTranspose3d": ((4, 2), {"dilation": 2}, (2, 3, 4, 4, 4)),
    "LazyInstanceNorm1d": ((), {"momentum": 0.3}, (4, 3, 5)),
    "LazyInstanceNorm2d": ((), {"affine": False}, (4, 3, 2, 2)),
    "LazyInstanceNorm3d": ((1e-3,), {"bias": False}, (4, 3, 2, 2, 2)),
    "LazyBatchNorm1d": ((), {"momentum": None}, (4, 3)),
    "LazyBatchNorm2d": ((), {"affine": False}, (4, 3, 2, 2)),
    "LazyBatchNorm3d": ((1e-3,), {"bias": False}, (4, 3, 2, 2, 2)),
}
NAMES = sorted(LAZY)


def make(name: str, library: Any) -> Any:
    args, kwargs, _ = LAZY[name]
    return getattr(library, name)(*args, **kwargs)


def test_every_lazy_layer_is_in_the_table():
    assert {twin.__name__ for twin, net in COUNTERPARTS.items() if issubclass(net, Lazy)} == set(LAZY)


@parametrize(name=NAMES)
def test_a_lazy_layer_becomes_the_layer_the_module_becomes(name):
    x = torch.randn(LAZY[name][2])
    module = make(name, nn)
    torch.manual_seed(3)
    expected = module(x)
    with global_generator_untouched():
        net, params, buffers = make(name, fn).init(3, example_inputs=(x,))
    assert net == fn.from_module(module)[0]
    torch.manual_seed(3)
    seeded = make(name, nn)
    seeded(x)
    assert_identical(params, params_of(seeded))
    if not buffers:
        assert_identical(net(params, x), expected)
    else:
        concrete_class = type(module).cls_to_become if hasattr(type(module), "cls_to_become") else type(module)
        assert_identical(buffers, buffers_of(concrete_class(3, track_running_stats=True)))


@parametrize(name=NAMES)
def test_a_lazy_layer_is_a_value_with_the_repr_of_the_module(name):
    net = make(name, fn)
    assert net == make(name, fn)
    assert hash(net) == hash(make(name, fn))
    assert repr(net) == repr(make(name, nn))


def lazy_model(make: Any) -> Any:
    return make.Sequential(
        make.LazyConv2d(4, 3),
        make.LazyBatchNorm2d(),
        make.ReLU(),
        make.Flatten(),
        make.Linear(4 * 36, 7),
        make.Dropout(0.5),
        make.Sequential(make.LazyLinear(6), make.LazyLinear(2)),
    )


def test_a_seed_gives_the_numbers_of_the_modules_which_draw_when_they_are_first_called():
    x = torch.randn(2, 3, 8, 8)
    torch.manual_seed(5)
    module = lazy_model(nn).eval()
    module(x)
    net, params, buffers = lazy_model(fn).init(5, example_inputs=(x,))
    assert_identical(params, params_of(module))
    assert_identical(buffers, buffers_of(module))
    assert net == fn.from_module(module)[0]
    assert repr(net) == repr(module)
    assert_identical(net.apply(params, buffers, x)[0], module(x))


def test_keys_map_over_lazy_nets_too():
    x = torch.randn(2, 3, 8, 8)
    keys = fn.random.split(fn.random.key(0), 3)
    many = torch.vmap(lambda key: lazy_model(fn).init(key, example_inputs=x)[1:])(keys)
    assert_identical(
        torch.utils._pytree.tree_map(lambda leaf: leaf[1], many), lazy_model(fn).init(keys[1], example_inputs=x)[1:]
    )


def test_lazy_parts_of_composed_nets_and_of_classes():
    @fn.compose(body=fn.Sequential(fn.LazyLinear(4), F.relu), head=fn.LazyLinear(2), scale=fn.Param(4, 2.0))
    def model(p, x):
        return p.head(p.body(x) * p.scale)

    class Outer(fn.Net):
        width: int

        def parts(self):
            return {"inner": model, "last": fn.LazyLinear(self.width)}

        @staticmethod
        def forward(p, x):
            return p.last(p.inner(x))

    x = torch.randn(3, 5)
    net, params, buffers = Outer(7).init(0, example_inputs=x)
    assert {path: tuple(leaf.shape) for path, leaf in fn.tree.flatten(params).items()} == {
        "inner.scale": (4,),
        "inner.body.0.weight": (4, 5),
        "inner.body.0.bias": (4,),
        "inner.head.weight": (2, 4),
        "inner.head.bias": (2,),
        "last.weight": (7, 2),
        "last.bias": (7,),
    }
    assert net.init(fn.random.key(0))[0].keys() == params.keys()
    assert net != Outer(7)
    assert net == Outer(7).init(1, example_inputs=x)[0]
    module = fn.to_module(net, params, buffers)
    assert_identical(module(x), net(params, x))
    assert fn.from_module(module)[0] == net


def test_init_returns_a_net_without_lazy_layers_unchanged():
    net = fn.Linear(2, 3)
    returned, params, buffers = net.init(0, example_inputs=torch.ones(1, 2))
    assert returned is net
    assert_identical((params, buffers), net.init(0))


def test_only_the_shapes_of_the_inputs_matter():
    net, _, _ = fn.LazyLinear(2).init(0, example_inputs=torch.empty(4, 3, device="meta"))
    assert net == fn.Linear(3, 2)


def test_missing_example_inputs_are_reported_with_paths():
    lazy = lazy_model(fn)
    with pytest.raises(fn.InitError, match=r"'0', '1', '6\.0', '6\.1' have no shape yet.*example_inputs"):
        lazy.init(0)
    with pytest.raises(fn.InitError, match=r"LazyLinear has no shape yet.*example_inputs"):
        fn.LazyLinear(2)({}, torch.ones(1, 3))
    with pytest.raises(fn.ShapeError, match=r"Linear at '4': expected input \(\*, 144\), got input \(2, 196\)"):
        lazy.init(0, example_inputs=torch.ones(2, 3, 9, 9))

    @fn.compose(used=fn.LazyLinear(2), unused=fn.LazyLinear(2))
    def half(p, x):
        return p.used(x)

    with pytest.raises(fn.InitError, match="'unused' got no input"):
        half.init(0, example_inputs=torch.ones(1, 3))
    with pytest.raises(fn.ConversionError, match="example_inputs"):
        fn.from_module(nn.LazyLinear(2))


def test_shapes_are_found_in_the_dtype_that_params_will_have():
    x = torch.randn(2, 3, 6, dtype=torch.float64)
    lazy_net = fn.Sequential(fn.Conv1d(3, 4, 1), fn.LazyConv1d(4, 1))
    net, params, _ = lazy_net.init(0, example_inputs=x, dtype=torch.float64)
    assert net(params, x).dtype == torch.float64
    assert fn.LazyConv1d(3, 2, dtype=torch.float64).init(0, example_inputs=x)[1]["weight"].dtype == torch.float64


def test_an_input_of_another_rank_is_an_error_with_the_path():
    with pytest.raises(fn.ShapeError, match=r"LazyConv2d at '1': expected .* got input 0 \(2, 3\) float32"):
        fn.Sequential(fn.Identity(), fn.LazyConv2d(3, 3)).init(0, example_inputs=torch.ones(2, 3))
