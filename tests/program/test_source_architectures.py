"""source on the models of transformers, from tiny random configurations."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.utils._pytree import tree_map_only

import funcnet as fn
from tests.adapters.architectures import sweep
from tests.helpers import assert_identical, buffers_of
from tests.program.test_source import forward_of
from tests.program.test_stateful import made

transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("architecture", sweep("GPT2", "T5", "ResNet", "Bloom"))
def test_the_source_of_an_architecture_has_its_bits(architecture, train):
    module = architecture.module()
    given = {**architecture.inputs, **architecture.call}
    text = fn.source(module, **given, train=train)
    _, params, buffers = fn.from_module(module)
    tensors = tree_map_only(torch.Tensor, torch.clone, {k: v for k, v in given.items() if isinstance(v, torch.Tensor)})
    leaves = fn.tree.map(lambda leaf: leaf.detach().requires_grad_(leaf.is_floating_point()), params)  # picks kernels
    output, new = forward_of(text)(leaves, buffers, **tensors, rng=7)
    module = copy.deepcopy(module).train(train)
    torch.manual_seed(7)
    with torch.enable_grad():
        expected = module(**given)
    assert type(output) is type(expected)
    assert_identical(dict(output), dict(expected))
    assert_identical(new, buffers_of(module))


@pytest.mark.parametrize("layers", [4, pytest.param(12, marks=pytest.mark.slow)])
@pytest.mark.parametrize("style", ["stateless", "stateful"])
def test_gpt2_with_more_layers_is_as_long_as_with_three(style, layers):
    lengths = []
    for n_layer in (3, layers):
        config = transformers.GPT2Config(vocab_size=60, n_embd=24, n_layer=n_layer, n_head=2, n_positions=32)
        module = transformers.GPT2LMHeadModel(config)
        text = fn.source(module, torch.arange(12).view(2, 6), train=True, use_cache=False, style=style)
        lengths.append(len(text.splitlines()))
    assert lengths[0] == lengths[1] < 250


@pytest.mark.parametrize("architecture", sweep("GPT2", "ResNet", "Bloom"))
def test_the_class_of_an_architecture_has_its_keys_and_bits(architecture):
    module = architecture.module()
    given = {**architecture.inputs, **architecture.call}
    twin = made(fn.source(module, **given, style="stateful"))
    assert list(twin.state_dict()) == list(module.state_dict())
    twin.load_state_dict(module.state_dict())
    tensors = {key: value for key, value in given.items() if isinstance(value, torch.Tensor)}
    for train in (False, True):
        results = []
        for one, inputs in ((twin.train(train), tensors), (copy.deepcopy(module).train(train), given)):
            torch.manual_seed(7)
            output = one(**tree_map_only(torch.Tensor, torch.clone, inputs))
            results.append((type(output), dict(output), buffers_of(one)))
        assert_identical(*results)
