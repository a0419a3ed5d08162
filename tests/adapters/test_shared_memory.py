"""Tensors that share memory without being one object are named when a module is converted."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import funcnet as fn
from tests.helpers import assert_identical


class Shares(nn.Module):
    def __init__(self, share):
        super().__init__()
        self.emb, self.head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
        self.register_buffer("mask", torch.ones(6))
        share(self)

    def forward(self, ids):
        return self.head(self.emb(ids))


def tie_data(module):
    module.head.weight.data = module.emb.weight.data


def view_as_parameter(module):
    module.head.weight = nn.Parameter(module.emb.weight.data[1:])


def view_as_buffer(module):
    module.register_buffer("first", module.emb.weight.data[0])


def detach_as_buffer(module):
    module.register_buffer("same", module.emb.weight.detach())


def interleave(module):
    memory = torch.arange(40.0)  # whose products are exact in every kernel: which one is taken depends on the layout
    module.emb.weight = nn.Parameter(memory[::2].view(5, 4))
    module.head.weight = nn.Parameter(memory.view(20, 2)[:, 1].view(5, 4))


REFUSED = {
    tie_data: "the parameter 'head.weight' is the same memory as the parameter 'emb.weight'",
    view_as_parameter: "the parameter 'head.weight' overlaps the parameter 'emb.weight'",
    view_as_buffer: "the buffer 'first' overlaps the parameter 'emb.weight'",
    detach_as_buffer: "the buffer 'same' is the same memory as the parameter 'emb.weight'",
}


@pytest.mark.parametrize("share", REFUSED)
def test_params_that_share_memory_without_being_one_object_are_refused(share):
    with pytest.raises(fn.ConversionError, match=REFUSED[share]):
        fn.from_module(Shares(share))


def keep_data(module):
    module.kept = [module.emb.weight.data]


def view_of_buffer(module):
    module.register_buffer("start", module.mask[:3])


@pytest.mark.parametrize(
    ("share", "message"),
    [
        (keep_data, "the attribute 'kept' is the same memory as the parameter 'emb.weight'"),
        (view_of_buffer, "the buffer 'start' overlaps the buffer 'mask'"),
    ],
)
def test_other_tensors_that_share_memory_are_named_in_a_warning(share, message):
    with pytest.warns(UserWarning, match=message):
        fn.from_module(Shares(share))


def tie_objects(module):
    module.head.weight = module.emb.weight


def share_storage_apart(module):
    memory = torch.randn(40)
    module.emb.weight, module.head.weight = (nn.Parameter(part.view(5, 4)) for part in memory.split(20))


@pytest.mark.parametrize("share", [tie_objects, share_storage_apart, interleave])
def test_ties_and_parts_of_one_storage_convert_as_before(share):
    module = Shares(share)
    net, params, buffers = fn.from_module(module)
    assert_identical(net.apply(params, buffers, torch.arange(5))[0], module(torch.arange(5)).detach())


def test_what_the_old_spectral_norm_keeps_is_computed_anew_and_no_fault():
    module = nn.utils.spectral_norm(nn.Linear(3, 3)).eval()
    net, params, buffers = fn.from_module(module)
    assert_identical(net.apply(params, buffers, torch.ones(2, 3))[0], module(torch.ones(2, 3)).detach())
