"""trace on the models of transformers, from tiny random configurations."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch

import funcnet as fn
from tests.helpers import assert_identical, clone, global_generator_untouched, total

transformers = pytest.importorskip("transformers")

IDS = torch.arange(12).view(2, 6)
PIXELS = torch.linspace(-1, 1, 2 * 3 * 64).view(2, 3, 8, 8)
MASK = torch.ones(2, 1, 6, 6, dtype=torch.bool).tril()
LAYERS = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def gpt2(**options: Any) -> Any:
    sizes = {"vocab_size": 60, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16}
    config = transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0, use_cache=False, **options)
    return transformers.GPT2LMHeadModel(config)


def bert(**options: Any) -> Any:
    return transformers.BertModel(
        transformers.BertConfig(**LAYERS, vocab_size=60, max_position_embeddings=16, **options)
    )


def vit(**options: Any) -> Any:
    return transformers.ViTModel(transformers.ViTConfig(**LAYERS, image_size=8, patch_size=4, **options))


def llama(**options: Any) -> Any:
    config = transformers.LlamaConfig(**LAYERS, vocab_size=60, num_key_value_heads=1, use_cache=False, **options)
    return transformers.LlamaForCausalLM(config)


def t5_encoder(**options: Any) -> Any:
    sizes = {"vocab_size": 60, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    return transformers.T5EncoderModel(transformers.T5Config(**sizes, **options))


def resnet() -> Any:
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
    return transformers.ResNetForImageClassification(config)


EAGER, SDPA = {"attn_implementation": "eager"}, {"attn_implementation": "sdpa"}
CASES: dict[str, tuple[Callable[..., Any], dict[str, Any], dict[str, Any]]] = {
    "gpt2-eager": (gpt2, EAGER, {"input_ids": IDS}),
    "gpt2-sdpa": (gpt2, SDPA, {"input_ids": IDS, "labels": IDS + 1}),
    "bert-eager": (bert, EAGER, {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}),
    "bert-sdpa": (bert, SDPA, {"input_ids": IDS}),
    "vit-eager": (vit, EAGER, {"pixel_values": PIXELS}),
    "vit-sdpa": (vit, SDPA, {"pixel_values": PIXELS}),
    "llama-eager": (llama, EAGER, {"input_ids": IDS}),
    "llama-sdpa": (llama, SDPA, {"input_ids": IDS, "attention_mask": MASK}),
    "t5-encoder": (t5_encoder, {}, {"input_ids": IDS}),
    "resnet": (resnet, {}, {"pixel_values": torch.linspace(-1, 1, 6144).view(2, 3, 32, 32)}),
}


def sweep(names: Iterable[str], *in_every_run: str) -> list[Any]:
    """Names of cases as parameters of a test: the usual run has those named, the sweep has the others."""
    return [pytest.param(name, marks=[] if name in in_every_run else [pytest.mark.slow]) for name in names]


def of_size(inputs: dict[str, Any], size: int) -> dict[str, Any]:
    """The inputs for another batch."""
    return {
        name: torch.cat([value, value.flip(0)])[:size] if isinstance(value, torch.Tensor) else value
        for name, value in inputs.items()
    }


@pytest.mark.parametrize("name", sweep(CASES, "gpt2-sdpa", "resnet"))
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_a_transformers_model_is_traced_exactly(name, train):
    make, options, inputs = CASES[name]
    torch.manual_seed(0)
    module = make(**options).train(train)
    with global_generator_untouched():
        net, params, buffers = fn.trace(module, **inputs, train=train)
    for size in (2, 3, 1):
        if name == "resnet" and train and size == 1:
            continue  # one value per channel: the module refuses it
        given = of_size(inputs, size)
        held = clone((params, buffers))
        y, new = net.apply(params, buffers, **given, train=train, rng=5)

        def loss(params, given=given):
            return total(dict(net.apply(params, buffers, **given, train=train, rng=5)[0]))

        _, grads = fn.value_and_grad(loss)(params)
        assert_identical((params, buffers), held)
        before = {key: buffer.clone() for key, buffer in module.named_buffers()}
        torch.manual_seed(5)
        module.zero_grad()
        expected = module(**given)
        assert type(y) is type(expected)
        total(dict(expected)).backward()
        flat = fn.tree.flatten(grads)
        assert_identical(
            {key: flat[key] for key, param in module.named_parameters() if param.grad is not None},
            {key: param.grad for key, param in module.named_parameters() if param.grad is not None},
        )
        assert_identical(fn.tree.flatten(new), dict(module.named_buffers()))
        with torch.no_grad():  # which matmul kernel runs may depend on what requires a gradient
            for key, buffer in module.named_buffers():
                buffer.copy_(before[key])
            torch.manual_seed(5)
            expected = module(**given)
            y, _ = net.apply(params, buffers, **given, train=train, rng=5)
            assert_identical(dict(y), dict(expected))
            for key, buffer in module.named_buffers():
                buffer.copy_(before[key])
    back = fn.to_module(net, params, buffers)
    assert type(back) is type(module) and list(back.state_dict()) == list(module.state_dict())


@pytest.mark.parametrize(
    "name", sweep(["gpt2-eager", "bert-sdpa", "vit-eager", "llama-sdpa", "t5-encoder"], "gpt2-eager")
)
def test_per_sample_gradients_of_a_transformers_model(name):
    make, options, inputs = CASES[name]
    torch.manual_seed(0)
    net, params, buffers = fn.trace(make(**options), **inputs, train=True)
    tensors = {key: value for key, value in inputs.items() if isinstance(value, torch.Tensor)}
    others = {key: value for key, value in inputs.items() if key not in tensors}
    stacked = {key: torch.stack([value, value.flip(0)]) for key, value in tensors.items()}
    keys = fn.random.split(fn.random.key(0), 2)

    def loss(params, given, key):
        return total(dict(net.apply(params, buffers, **given, **others, train=True, rng=key)[0]))

    grads = torch.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(params, stacked, keys)
    for index in range(2):
        one = torch.func.grad(loss)(params, {key: value[index] for key, value in stacked.items()}, keys[index])
        mine = fn.tree.map(lambda leaf, index=index: leaf[index], grads)
        torch.testing.assert_close(mine, one, atol=1e-4, rtol=1e-3)


def test_grouped_queries_run_by_the_kernel_that_the_module_runs():
    torch.manual_seed(0)
    module = llama(**SDPA)  # it looks into positions of its own making, and not if it is compiled
    net, params, buffers = fn.trace(module, input_ids=IDS)
    assert "enable_gqa=True" in net.source and "is_causal=True" in net.source
    for size in (2, 3, 1):
        given = of_size({"input_ids": IDS}, size)["input_ids"]
        assert_identical(net.apply(params, buffers, input_ids=given)[0].logits, module(input_ids=given).logits)
    assert "enable_gqa=True" in fn.source(module, input_ids=IDS, train=True)
