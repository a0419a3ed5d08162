"""Effects of models from a library: at their paths, with the library's lines."""

from __future__ import annotations

import pytest
import torch

import funcnet as fn

transformers = pytest.importorskip("transformers")

IDS = torch.randint(50, (3, 7), generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([[1] * 7, [1] * 5 + [0] * 2, [1] * 6 + [0]])


def bert():
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=50
    )
    return transformers.BertModel(config)


def gpt2():
    config = transformers.GPT2Config(
        n_embd=16, n_layer=2, n_head=2, vocab_size=50, n_positions=32, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config)


@pytest.mark.parametrize("make", [bert, gpt2])
def test_a_model_in_eval_mode_has_none(make):
    assert not fn.effects(make(), IDS)


@pytest.mark.parametrize("make", [bert, gpt2])
def test_in_training_it_draws_where_its_dropout_is(make):
    module = make()
    report = fn.effects(module, IDS, train=True)
    assert {effect.kind for effect in report} == {"draws"}
    layers = {path for path, part in module.named_modules() if isinstance(part, torch.nn.Dropout)}
    within = {effect.path for effect in report} & layers
    assert {path for path in layers - within if not path.endswith(("attn_dropout", "attention.self.dropout"))} == set()
    attention = [effect for effect in report if effect.path not in layers]
    assert [effect.detail for effect in attention] == ["scaled_dot_product_attention"] * 2
    assert all("site-packages/transformers/" in effect.file.replace("\\", "/") for effect in report)
    assert all(effect.code and effect.line for effect in report)


@pytest.mark.parametrize("make", [bert, gpt2])
def test_a_mask_that_is_looked_into_is_a_branch(make):
    report = fn.effects(make(), IDS, attention_mask=MASK).of("branches on data")
    assert report
    assert all("input 'attention_mask'" in effect.detail for effect in report)


def test_the_net_of_a_module_has_the_effects_of_the_module():
    module = bert()
    net, params, buffers = fn.from_module(module)
    kinds = [(effect.kind, effect.path, effect.code) for effect in fn.effects(module, IDS, train=True)]
    report = fn.effects(net, params, IDS, buffers=buffers, train=True)
    assert kinds == [(effect.kind, effect.path, effect.code) for effect in report]
