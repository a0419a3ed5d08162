"""Modules whose tensors have other dtypes than their class gives them, integers above all."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import funcnet as fn
from funcnet import checkpoint
from tests.helpers import assert_identical


class Own(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


def with_tensors(module, **tensors):
    for name, tensor in tensors.items():
        setattr(module, name, nn.Parameter(tensor, False) if name in module._parameters else tensor)
    return module


def int8(*shape):
    return (torch.arange(torch.Size(shape).numel()) % 7 - 3).view(shape).to(torch.int8)


MODULES = {
    "Embedding": (lambda: nn.Embedding.from_pretrained(int8(3, 2).to(torch.int16)), torch.tensor([0, 2])),
    "Linear": (lambda: with_tensors(nn.Linear(3, 2), weight=int8(2, 3), bias=int8(2)), int8(4, 3)),
    "Conv1d": (lambda: with_tensors(nn.Conv1d(3, 2, 2, bias=False), weight=int8(2, 3, 2).long()), int8(1, 3, 5).long()),
    "a counter": (lambda: with_tensors(nn.BatchNorm1d(3), num_batches_tracked=torch.tensor(2.0)), torch.randn(4, 3)),
    "a small counter": (
        lambda: with_tensors(nn.BatchNorm1d(3), num_batches_tracked=torch.tensor(2, dtype=torch.int32)),
        torch.randn(4, 3),
    ),
    "ParameterDict": (lambda: nn.ParameterDict({"a": nn.Parameter(int8(3), False)}), None),
    "Body": (
        lambda: fn.to_module(fn.compose(w=fn.Param(3, 1, torch.int8))(lambda p, x: p.w * x), {"w": int8(3)}),
        torch.ones(3),
    ),
}


@pytest.mark.parametrize("around", [lambda module: module, nn.Sequential, Own], ids=["alone", "Sequential", "Own"])
@pytest.mark.parametrize(("build", "x"), MODULES.values(), ids=MODULES)
def test_a_module_of_another_dtype_goes_both_ways(build, x, around, tmp_path):
    module = around(build())
    net, params, buffers = fn.from_module(module)
    state = fn.to_state_dict(net, params, buffers)
    back = fn.to_module(net, params, buffers)
    for other in (state, back.state_dict()):
        assert_identical(dict(other), dict(module.state_dict()))
    assert [p.requires_grad for p in back.parameters()] == [p.requires_grad for p in module.parameters()]
    checkpoint.save(tmp_path / "a.safetensors", state)
    assert_identical(fn.from_state_dict(net, checkpoint.load(tmp_path / "a.safetensors")), (params, buffers))
    assert repr(net) == repr(module)
    if x is None:
        return
    for train in (False, True):
        output, new = net.apply(params, buffers, x, train=train, rng=0)
        called = copy.deepcopy(module).train(train)
        assert_identical(output, called(x))
        assert_identical(fn.to_state_dict(net, params, new), dict(called.state_dict()))


def test_a_wrong_dtype_is_still_a_misfit():
    net, params, _ = fn.from_module(nn.Embedding.from_pretrained(int8(3, 2)))
    with pytest.raises(fn.TreeError, match=r"mis-typed   params\['weight'\]: expected torch.int8, got torch.int64"):
        net(fn.tree.map(torch.Tensor.long, params), torch.tensor([0]))


def test_integers_have_no_first_values():
    net, _, _ = fn.from_module(nn.Sequential(with_tensors(nn.Linear(3, 2), weight=int8(2, 3))))
    with pytest.raises(fn.InitError, match=r"'0\.weight' is of torch.int8.*Take them from"):
        net.init(0)
