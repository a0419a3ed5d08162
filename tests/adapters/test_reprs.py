"""The text of a module, and the kinds of its arguments, on both ways."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

import funcnet as fn

MODULES = [
    nn.MaxPool2d([3, 3], stride=(2, 2), padding=[1, 1]),
    nn.MaxPool2d(torch.Size([3, 3])),
    nn.MaxPool1d([3]),
    nn.AvgPool3d([1, 2, 3]),
    nn.AdaptiveAvgPool2d([2, None]),
    nn.LPPool2d(2, [2, 2]),
    nn.FractionalMaxPool2d([2, 2], output_size=[2, 2]),
    nn.MaxUnpool2d([2, 2]),
    nn.Upsample([4, 4]),
    nn.Upsample(torch.Size([4, 4])),
    nn.Fold([4, 4], [2, 2]),
    nn.Unfold([2, 2], padding=[1, 1]),
    nn.Unflatten(1, [2, 3]),
    nn.ZeroPad2d([1, 2, 3, 4]),
    nn.Conv2d(1, 2, [3, 3], padding=[1, 1]),
    nn.LayerNorm([3, 4]),
    nn.Dropout(1),
]


@pytest.mark.parametrize("around", [lambda module: module, nn.Sequential], ids=["alone", "Sequential"])
@pytest.mark.parametrize("module", MODULES, ids=repr)
def test_lists_stay_lists_and_tuples_tuples(module, around):
    module = around(module)
    net, params, buffers = fn.from_module(module)
    back = fn.to_module(net, params, buffers)
    again = fn.from_module(back)[0]
    assert {repr(net), repr(back), repr(again), repr(pickle.loads(pickle.dumps(net)))} == {repr(module)}
    assert again == net


def test_a_list_makes_the_record_that_a_tuple_makes():
    assert fn.MaxPool2d([3, 3]) == fn.MaxPool2d((3, 3))
    assert hash(fn.MaxPool2d([3, 3])) == hash(fn.MaxPool2d((3, 3)))
    assert repr(fn.MaxPool2d([3, 3])) == repr(nn.MaxPool2d([3, 3]))
    assert fn.MaxPool2d([3, 3]).kernel_size == (3, 3)
