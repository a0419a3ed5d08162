"""Convolutions beyond the table of cases: other dtypes, sizes of output, errors, refusals."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import funcnet as fn
from tests.helpers import assert_identical, parametrize

SHAPES = {1: (2, 4, 7), 2: (2, 4, 7, 6), 3: (2, 4, 5, 4, 6)}


@parametrize(
    name=["Conv", "ConvTranspose"],
    axes=[1, 2, 3],
    dtype=[torch.bfloat16, torch.float16, torch.complex64, torch.complex128],
)
def test_other_dtypes_give_the_bits_of_the_module(name, axes, dtype):
    torch.manual_seed(0)
    module = getattr(nn, f"{name}{axes}d")(4, 6, 3, groups=2, dtype=dtype)
    net, params, buffers = fn.from_module(module)
    assert net == getattr(fn, f"{name}{axes}d")(4, 6, 3, groups=2)
    for x in (torch.randn(SHAPES[axes], dtype=dtype), torch.randn(SHAPES[axes], dtype=dtype)[0]):
        ours, theirs = (x.clone().requires_grad_() for _ in range(2))
        y, expected = net.apply(params, buffers, ours)[0], module(theirs)
        y.abs().sum().backward()
        expected.abs().sum().backward()
        assert_identical((y, ours.grad), (expected, theirs.grad))


@parametrize(axes=[1, 2, 3])
def test_output_size_may_be_any_size_that_a_convolution_maps_to_the_input(axes):
    torch.manual_seed(0)
    module = getattr(nn, f"ConvTranspose{axes}d")(4, 2, 3, stride=3, padding=1, dilation=2)
    net, params, _ = fn.from_module(module)
    x = torch.randn(SHAPES[axes])
    smallest = list(net(params, x).shape[2:])
    for extra in (0, 1, 2):
        size = [length + extra for length in smallest]
        assert_identical(net(params, x, output_size=size), module(x, output_size=size))
        assert_identical(net(params, x[0], [2, *size]), module(x[0], [2, *size]))
        assert_identical(net(params, x, torch.Size([2, 2, *size])), module(x, torch.Size([2, 2, *size])))
    for size in ([length + 3 for length in smallest], [length - 1 for length in smallest], [1, 1, 1, 1, 1, 1]):
        with pytest.raises(ValueError, match="output"):
            module(x, size)
        with pytest.raises(fn.ShapeError, match="output_size"):
            net(params, x, size)


@parametrize(
    arguments=[
        {"padding": (1,), "padding_mode": "circular"},
        {"padding": -1, "padding_mode": "reflect"},
        {"stride": (2,), "dilation": (1,)},
        {"padding": "same", "dilation": (2, 1), "padding_mode": "replicate"},
    ]
)
def test_unusual_arguments_are_accepted_where_torch_accepts_them(arguments):
    torch.manual_seed(0)
    module = nn.Conv2d(4, 2, (3, 2), **arguments)
    net, params, _ = fn.from_module(module)
    x = torch.randn(2, 4, 6, 7)
    try:
        expected = module(x)
    except (RuntimeError, ValueError, NotImplementedError):
        with pytest.raises((RuntimeError, ValueError, NotImplementedError)):
            net(params, x)
    else:
        assert_identical(net(params, x), expected)


@parametrize(
    case=[
        (fn.Conv1d(3, 2, 3), (2, 4, 9), r"expected input \(N, 3, L\) or \(3, L\), got input \(2, 4, 9\)"),
        (fn.Conv2d(3, 2, 3), (3, 9), r"\(N, 3, H, W\)"),
        (fn.Conv3d(3, 2, 3), (3, 2, 2, 2), r"\(N, 3, D, H, W\)"),
        (fn.ConvTranspose2d(3, 2, 3), (2, 4, 5, 5), r"\(N, 3, H, W\)"),
        (fn.ConvTranspose1d(3, 2, 3, output_padding=1), (2, 3, 5), "Output padding"),
    ]
)
def test_an_input_that_does_not_fit_is_refused_by_module_and_net(case):
    net, shape, words = case
    params, buffers = net.init(0)
    with pytest.raises((RuntimeError, ValueError)):
        fn.to_module(net, params, buffers)(torch.ones(shape))
    with pytest.raises(fn.ShapeError, match=words):
        net(params, torch.ones(shape))


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@pytest.mark.parametrize(
    "make",
    [
        lambda: fn.Conv2d(3, 4, 3, groups=2),
        lambda: fn.Conv2d(3, 4, 3, padding="some"),
        lambda: fn.Conv2d(3, 4, 3, 2, padding="same"),
        lambda: fn.Conv2d(3, 4, 3, padding_mode="mirror"),
        lambda: fn.Conv2d(3, 4, 0),
        lambda: fn.Conv2d(3, 4, (3, 3, 3)),
        lambda: fn.Conv2d(3, 4, 3, stride=0),
        lambda: fn.Conv2d(3, 4, 3, padding=-1),
        lambda: fn.Conv2d(3, 4, 3, dilation=-1),
        lambda: fn.ConvTranspose2d(3, 4, 3, padding_mode="circular"),
        lambda: fn.ConvTranspose2d(3, 4, 3, output_padding=-1),
        lambda: fn.ConvTranspose1d(3, 4, (3, 3)),
        lambda: fn.ConvTranspose3d(3, 4, 3, groups=2),
    ],
)
def test_arguments_that_no_call_could_use_are_refused(make):
    with pytest.raises(ValueError, match=r"got|divisible|supported|padding"):
        make()


@pytest.mark.parametrize("name", ["Conv2d", "ConvTranspose2d"])
def test_negative_channels_are_refused(name):
    with pytest.raises((ValueError, RuntimeError)):
        getattr(fn, name)(-3, 4, 3)
