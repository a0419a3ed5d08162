"""Inputs of a foreign forward: it has copies of them, and a write that copies cannot show is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import funcnet as fn
from tests.helpers import assert_identical, clone


class AddsToFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x, y):
        x.add_(1.0)
        return self.fc(y)


MODULE = AddsToFirst()
NET, PARAMS, _ = fn.from_module(MODULE)
X = torch.arange(12.0).view(4, 3)


def test_a_tensor_given_twice_is_one_tensor():
    x = X.clone()
    assert_identical(NET(PARAMS, x, x).detach(), MODULE(*[X.clone()] * 2).detach())
    assert_identical(x, X)


@pytest.mark.parametrize("view", [lambda x: x[1:3], lambda x: x.view(2, 2, 3), lambda x: x[:, :]])
@pytest.mark.parametrize("in_list", [False, True])
def test_a_write_to_memory_that_another_input_shares_is_refused(view, in_list):
    class Unpacks(AddsToFirst):
        def forward(self, inputs):
            return super().forward(*inputs)

    net, inputs = (fn.from_module(Unpacks())[0], ([X, view(X)],)) if in_list else (NET, (X, view(X)))
    names = r"input 0\[0\], which shares memory with input 0\[1\]" if in_list else "input 0, which .* with input 1"
    given = clone(X)
    with pytest.raises(fn.PurityError, match=f"wrote in place to {names}"):
        net(PARAMS, *inputs)
    assert_identical(X, given)


@pytest.mark.parametrize("parts", [lambda x: (x[:2], x[2:]), lambda x: (x[::2], x[1::2]), lambda x: (x + 1, x)])
def test_parts_of_one_tensor_that_do_not_overlap_are_inputs_as_any(parts):
    assert_identical(NET(PARAMS, *parts(X)).detach(), MODULE(*map(torch.clone, parts(X))).detach())


def test_overlapping_inputs_that_nobody_writes_to_are_right():
    class Adds(AddsToFirst):
        def forward(self, x, y):
            x.relu().add_(1.0)
            return self.fc(x) + self.fc(y)

    module = Adds()
    net, params, _ = fn.from_module(module)
    assert_identical(net(params, X, X[:1]).detach(), module(X, X[:1]).detach())
