"""Pooling beyond the table of cases: given samples, indices, dtypes, errors, refusals."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import funcnet as fn
from tests.helpers import assert_identical, buffers_of, parametrize

SAMPLES = (((0.25, 0.75), (0.5, 0.125), (0.0, 0.875)),)


def test_given_samples_are_numbers_in_the_record_and_a_buffer_in_the_tree():
    net = fn.FractionalMaxPool2d(2, output_size=3, _random_samples=SAMPLES)
    module = nn.FractionalMaxPool2d(2, output_size=3, _random_samples=torch.tensor(SAMPLES))
    params, buffers = net.init(0)
    assert_identical(buffers, buffers_of(module))
    assert fn.from_module(module)[0] == net
    assert fn.from_module(fn.to_module(net, params, buffers))[0] == net
    x = torch.randn(1, 3, 6, 7)
    assert not net.draws(False)
    assert_identical(net.apply(params, buffers, x)[0], module(x))
    mapped = torch.vmap(lambda x: net.apply(params, buffers, x)[0])(x[None])
    assert_identical(mapped[0], module(x))
    assert hash(net) == hash(
        fn.FractionalMaxPool2d(2, output_size=3, _random_samples=[[[*pair] for pair in SAMPLES[0]]])
    )
    with pytest.raises(TypeError, match="holds no tensor"):
        fn.FractionalMaxPool2d(2, output_size=3, _random_samples=torch.tensor(SAMPLES))


def test_fractional_pooling_draws_in_eval_mode_too_and_says_so():
    net = fn.FractionalMaxPool3d(2, output_ratio=0.5)
    with pytest.raises(fn.RandomnessError, match="rng is None"):
        net.apply({}, {}, torch.ones(1, 6, 6, 6))
    with pytest.raises(fn.RandomnessError):
        net({}, torch.ones(1, 6, 6, 6))


@parametrize(count=[1, 2, 5], dtype=[torch.float32, torch.float64])
def test_windows_under_vmap_are_those_of_the_kernel(count, dtype):
    for net in (
        fn.FractionalMaxPool2d((2, 3), (count, 3), return_indices=True),
        fn.FractionalMaxPool3d((2, 1, 3), (count, 4, 3), return_indices=True),
    ):
        x = torch.randn(40, 2, 3, *(8,) * (len(net.kernel_size)), dtype=dtype)
        keys = fn.random.split(fn.random.key(0), 40)
        mapped = torch.vmap(lambda key, x, net=net: net.apply({}, {}, x, rng=key)[0])(keys, x)
        for index in range(40):
            alone = net.apply({}, {}, x[index], rng=keys[index])[0]
            assert_identical((mapped[0][index], mapped[1][index]), alone)


@parametrize(axes=[1, 2, 3])
def test_unpooling_is_the_way_back_under_vmap_too(axes):
    pool = getattr(fn, f"MaxPool{axes}d")(2, return_indices=True)
    back = getattr(fn, f"MaxUnpool{axes}d")(2)
    x = torch.randn(2, 3, 4, *(6,) * axes)
    y, indices = pool({}, x[0])
    assert_identical(back({}, y, indices), getattr(nn, f"MaxUnpool{axes}d")(2)(y, indices))
    mapped = torch.vmap(lambda x: back({}, *pool({}, x)))(x)
    assert_identical(mapped[0], back({}, y, indices))
    with pytest.raises(fn.ShapeError, match="Indices have the shape"):
        torch.vmap(lambda y: back({}, y, indices[..., :1]))(y[None])


@parametrize(
    name=["MaxPool2d", "AvgPool2d", "LPPool2d", "AdaptiveAvgPool2d", "AdaptiveMaxPool2d"],
    dtype=[torch.bfloat16, torch.float16],
)
def test_half_precision_gives_the_bits_of_the_module(name, dtype):
    arguments = (2, 2) if name == "LPPool2d" else (2,)
    module, net = getattr(nn, name)(*arguments), getattr(fn, name)(*arguments)
    for x in (torch.randn(2, 3, 6, 6, dtype=dtype), torch.randn(2, 3, 6, 6, dtype=dtype).mT, torch.randn(0, 3, 6, 6)):
        ours, theirs = (x.clone().requires_grad_() for _ in range(2))
        y, expected = net({}, ours), module(theirs)
        y.sum().backward()
        expected.sum().backward()
        assert_identical((y, ours.grad), (expected, theirs.grad))


def test_ints_are_pooled_where_the_module_pools_them():
    x = torch.arange(36).view(1, 6, 6)
    assert_identical(fn.MaxPool2d(2)({}, x), nn.MaxPool2d(2)(x))


@parametrize(
    case=[
        (fn.MaxPool1d(2), (1, 2, 3, 4), r"expected input \(N, C, L\) or \(C, L\), got input \(1, 2, 3, 4\)"),
        (fn.MaxPool2d(9), (1, 2, 3, 4), r"\(N, C, H, W\)"),
        (fn.AvgPool3d(2), (3, 4), r"\(N, C, D, H, W\)"),
        (fn.AvgPool2d(2, padding=2), (1, 4, 4), "at most half"),
        (fn.LPPool1d(2, 2), (3,), r"\(N, C, L\)"),
        (fn.AdaptiveAvgPool2d(2), (3, 4), r"\(N, C, H, W\)"),
        (fn.AdaptiveMaxPool1d(2), (1, 2, 3, 4), r"\(N, C, L\)"),
    ]
)
def test_an_input_that_does_not_fit_is_refused_by_module_and_net(case):
    net, shape, words = case
    with pytest.raises((RuntimeError, ValueError)):
        fn.to_module(net, {}, {})(torch.ones(shape))
    with pytest.raises(fn.ShapeError, match=words):
        net({}, torch.ones(shape))


def test_fractional_and_unpooling_refuse_what_the_module_refuses():
    with pytest.raises(fn.ShapeError, match=r"Expected 3D or 4D input"):
        fn.FractionalMaxPool2d(2, 3).apply({}, {}, torch.ones(5, 5), rng=0)
    with pytest.raises(fn.ShapeError):
        fn.FractionalMaxPool2d(2, 5).apply({}, {}, torch.ones(1, 5, 5), rng=0)
    with pytest.raises(fn.ShapeError, match="no 5 windows of 2"):
        torch.vmap(lambda key: fn.FractionalMaxPool2d(2, 5).apply({}, {}, torch.ones(1, 5, 5), rng=key)[0])(
            fn.random.split(fn.random.key(0), 2)
        )
    values, indices = torch.ones(1, 1, 2), torch.tensor([[[0, 2]]])
    with pytest.raises(fn.ShapeError, match="output_size"):
        fn.MaxUnpool1d(2)({}, values, indices, [9])
    with pytest.raises(fn.ShapeError, match="indices"):
        fn.MaxUnpool1d(2)({}, values, indices + 7)


@pytest.mark.parametrize(
    "make",
    [
        lambda: fn.MaxPool2d(0),
        lambda: fn.MaxPool2d(2, -1),
        lambda: fn.MaxPool2d(2, padding=-1),
        lambda: fn.MaxPool3d(2, dilation=0),
        lambda: fn.MaxPool2d((2, 2, 2)),
        lambda: fn.AvgPool1d((2, 2)),
        lambda: fn.AvgPool2d(2, divisor_override=0),
        lambda: fn.LPPool2d(0, 2),
        lambda: fn.LPPool1d(2, (2,)),
        lambda: fn.AdaptiveAvgPool2d(-1),
        lambda: fn.AdaptiveAvgPool1d(None),
        lambda: fn.AdaptiveMaxPool3d((1, 2)),
        lambda: fn.MaxUnpool2d(2, padding=-1),
        lambda: fn.FractionalMaxPool2d(2),
        lambda: fn.FractionalMaxPool2d(2, 3, 0.5),
        lambda: fn.FractionalMaxPool2d(2, output_ratio=1.5),
        lambda: fn.FractionalMaxPool2d(0, 3),
        lambda: fn.FractionalMaxPool3d(2, output_ratio=(0.5, 0.5, 0.5, 0.5)),
    ],
)
def test_sizes_that_no_call_could_use_are_refused(make):
    with pytest.raises(ValueError, match=r"got|requires|only one|not 0"):
        make()


def test_sizes_that_torch_accepts_are_accepted():
    x = torch.randn(1, 3, 6, 6)
    for module in (
        nn.MaxPool2d((2,), stride=(1,)),
        nn.MaxPool2d(2, stride=()),
        nn.AdaptiveAvgPool2d(0),
        nn.AdaptiveMaxPool2d((None, None)),
    ):
        net, params, buffers = fn.from_module(module)
        assert_identical(net.apply(params, buffers, x)[0], module(x))
    empty = fn.FractionalMaxPool2d(2, 0)
    torch.manual_seed(0)
    assert_identical(empty.apply({}, {}, x, rng=0)[0], nn.FractionalMaxPool2d(2, 0)(x))
