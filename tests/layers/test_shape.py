"""Padding, resizing and reshaping beyond the table: arguments, words of errors, exactness under vmap."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import funcnet as fn
from tests.helpers import assert_identical, parametrize

REFUSED = {
    "ConstantPad1d((1,2,3),0)": (lambda: fn.ConstantPad1d((1, 2, 3), 0.0), "pairs of ints, got"),
    "ReflectionPad2d(0.5)": (lambda: fn.ReflectionPad2d(0.5), "pairs of ints, got"),
    "PixelShuffle(0)": (lambda: fn.PixelShuffle(0), "upscale_factor is at least 1, got 0"),
    "PixelUnshuffle(-2)": (lambda: fn.PixelUnshuffle(-2), "downscale_factor is at least 1, got -2"),
    "ChannelShuffle(0)": (lambda: fn.ChannelShuffle(0), "groups is at least 1, got 0"),
    "Unfold(0)": (lambda: fn.Unfold(0), "kernel_size is at least 1, got 0"),
    "Unfold(2,padding=-1)": (lambda: fn.Unfold(2, padding=-1), "padding is at least 0, got -1"),
    "Unfold((2,2,2))": (lambda: fn.Unfold((2, 2, 2)), "kernel_size is an int or two"),
    "Fold(0,2)": (lambda: fn.Fold(0, 2), "output_size is at least 1, got 0"),
    "Fold(4,2,stride=0)": (lambda: fn.Fold(4, 2, stride=(1, 0)), r"stride is at least 1, got \(1, 0\)"),
    "Upsample()": (lambda: fn.Upsample(), "give size or scale_factor, one of the two"),
    "Upsample(2,2)": (lambda: fn.Upsample(2, 2), "give size or scale_factor, one of the two"),
    "UpsamplingNearest2d()": (lambda: fn.UpsamplingNearest2d(), "give size or scale_factor, one of the two"),
    "Upsample(mode)": (lambda: fn.Upsample(2, mode="cubic"), "mode is one of 'nearest'.*got 'cubic'"),
    "Upsample(align)": (lambda: fn.Upsample(2, align_corners=True), "align_corners means nothing for mode 'nearest'"),
    "Upsample(recompute)": (
        lambda: fn.Upsample(2, recompute_scale_factor=True),
        "recompute_scale_factor means nothing with a size",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_arguments_that_would_fail_in_a_call_are_refused_at_construction(name):
    make, words = REFUSED[name]
    with pytest.raises(ValueError, match=words):
        make()


WRONG = [
    (fn.CircularPad2d(1), (3, 4), r"expected input \(N, C, H, W\) or \(C, H, W\).*, got input \(3, 4\)"),
    (fn.ReflectionPad1d(4), (2, 3, 4), r"expected input \(N, C, L\).* padding \(4, 4\) .*, got input \(2, 3, 4\)"),
    (fn.ZeroPad1d(-3), (2, 4), r"no axis smaller than what padding \(-3, -3\) cuts off, got input \(2, 4\)"),
    (fn.PixelShuffle(2), (3, 4, 4), r"expected input \(\*, C, H, W\) with C a multiple of 4, got input \(3, 4, 4\)"),
    (fn.PixelUnshuffle(3), (1, 4, 3), r"with H and W multiples of 3, got input \(1, 4, 3\)"),
    (fn.ChannelShuffle(2), (1, 3, 3), r"expected input \(N, C, \*\) with C a multiple of 2, got input \(1, 3, 3\)"),
    (fn.Unfold(5), (1, 4, 4), r"expected input \(N, C, H, W\) or .*smaller than a window, got input \(1, 4, 4\)"),
    (fn.Fold((4, 5), 2), (1, 12, 11), r"expected input \(N, C, 12\) with C a multiple of 4, .*got input \(1, 12, 11\)"),
    (fn.Upsample((3, 4)), (1, 2, 5), r"expected input \(N, C, H, W\), got input \(1, 2, 5\)"),
    (fn.Upsample(3, mode="linear"), (1, 2, 5, 5), r"expected input \(N, C, L\), got input \(1, 2, 5, 5\)"),
    (fn.UpsamplingBilinear2d(3), (2, 5, 5), r"expected input \(N, C, H, W\), got input \(2, 5, 5\)"),
    (fn.Flatten(2, 3), (2, 5, 5), r"expected input with axes 2 to 3, got input \(2, 5, 5\)"),
    (fn.Unflatten(1, (2, 3)), (2, 5), r"expected input whose axis 1 splits into \(2, 3\), got input \(2, 5\)"),
]


@pytest.mark.parametrize(("net", "shape", "words"), WRONG, ids=[str(net) for net, _, _ in WRONG])
def test_wrong_inputs_are_refused_with_path_expected_and_got(net, shape, words):
    model = fn.Sequential(fn.Identity(), net)
    with pytest.raises(fn.ShapeError, match=rf"{type(net).__name__} at '1': .*{words}"):
        model({}, torch.ones(shape))


@parametrize(size=[1, 3, 4, 7, 64, 1000], length=[1, 2, 3, 17, 300], recompute=[None, True])
def test_nearest_exact_under_vmap_selects_the_elements_of_the_kernel(size, length, recompute):
    x = torch.randn(2, 1, 1, length)
    by_factor = fn.Upsample(scale_factor=size / length, mode="nearest-exact", recompute_scale_factor=recompute)
    for net in (fn.Upsample(size, mode="nearest-exact"), by_factor):
        try:
            expected = torch.stack([net({}, example) for example in x])
        except fn.ShapeError:  # the factor gives an empty output
            continue
        assert_identical(torch.vmap(lambda example, net=net: net({}, example))(x), expected)


def test_records_are_equal_whatever_the_form_of_their_sizes():
    assert fn.ZeroPad2d(1) == fn.ZeroPad2d((1, 1, 1, 1)) == fn.ZeroPad2d([1, 1, 1, 1])
    assert fn.Upsample(scale_factor=(2, 3)) == fn.Upsample(scale_factor=(2.0, 3.0))
    assert fn.Upsample([3, 4]) == fn.from_module(nn.Upsample((3, 4)))[0]
