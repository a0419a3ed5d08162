"""Ready rules for well-known models: outputs in both layouts are compared, and the way back byte by byte."""

from __future__ import annotations

import pytest
import torch

import funcnet as fn
from funcnet import checkpoint
from funcnet.checkpoint import RuleError, from_toml, list_layouts, load, ready_rules, to_toml
from tests.checkpoint import reference_decoders, reference_models
from tests.helpers import assert_identical

transformers = pytest.importorskip("transformers")

TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 8]])
SIZES = {
    "vocab_size": 60,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {"moe_intermediate_size": 8, "num_experts": 3, "num_experts_per_tok": 2}
DECODERS = {
    "llama": {},
    "llama, tied": {"tie_word_embeddings": True},
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": {"head_dim": 6},
    "gemma2": {"head_dim": 6, "query_pre_attn_scalar": 6, "sliding_window": 32},
    "phi3": {},
    "mixtral": {"num_local_experts": 3},
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 12},
    "qwen3_moe": {**EXPERTS, "head_dim": 6},
}


def make_module(config, cls=None):
    """A model with values that are not those of an untrained one, in double precision."""
    torch.manual_seed(0)
    module = (
        cls(config)
        if cls
        else transformers.AutoModelForCausalLM.from_config(
            config, attn_implementation="eager", experts_implementation="eager"
        )
    )
    with torch.no_grad():
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if tensor.is_floating_point() and name in module.state_dict():
                tensor.copy_(torch.rand_like(tensor) + 0.5 if "var" in name else torch.randn_like(tensor) * 0.3)
    return module.double().eval()


def decoder_config(name):
    return transformers.AutoConfig.for_model(name.partition(",")[0], **{**SIZES, **DECODERS[name]})


def convert_and_return(module, tmp_path, target, weights=None):
    """The weights of a module in another layout, by name, after the way back has been checked byte by byte."""
    module.save_pretrained(tmp_path / "theirs")
    theirs = load(tmp_path / "theirs" / "model.safetensors") if weights is None else weights
    rules = ready_rules(module.config, "transformers", target, weights=theirs)
    assert from_toml(to_toml(rules)) == rules
    record = checkpoint.convert(theirs.path, tmp_path / "ours.safetensors", rules)
    assert record.plan.proof.bijection
    checkpoint.convert(tmp_path / "ours.safetensors", tmp_path / "back.safetensors", rules, inverse=True)
    assert checkpoint.differences(theirs, load(tmp_path / "back.safetensors")) == []
    # without the file at hand the rules lead to files that transformers writes
    plain = ready_rules(module.config, target, "transformers", weights=load(tmp_path / "ours.safetensors"))
    checkpoint.convert(tmp_path / "ours.safetensors", tmp_path / "again.safetensors", plain)
    assert checkpoint.differences(theirs, load(tmp_path / "again.safetensors")) == []
    return dict(load(tmp_path / "ours.safetensors"))


def sorted_by_name(tensors):
    return dict(sorted(tensors.items()))


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def assert_nearly_close(actual, expected):
    """As close as a model gets whose norms and angles are in single precision, wherever the rest is."""
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", DECODERS)
def test_decoders_of_transformers_in_metas_layout(name, tmp_path):
    module = make_module(decoder_config(name))
    weights = convert_and_return(module, tmp_path, "meta")
    with torch.no_grad():
        expected = module(TOKENS, use_cache=False).logits
        assert_nearly_close(reference_decoders.meta_decoder(weights, module.config, TOKENS), expected)


@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe", "qwen3_moe"])
def test_experts_are_stacked_as_the_modules_have_them(name, tmp_path):
    module = make_module(decoder_config(name))
    weights = convert_and_return(module, tmp_path, "transformers5")
    assert_identical(sorted_by_name(weights), sorted_by_name(module.state_dict()))


def test_gpt2_is_nanogpt(tmp_path):
    config = transformers.GPT2Config(vocab_size=60, n_positions=16, n_embd=8, n_layer=2, n_head=2)
    config.activation_function = "gelu"
    module = make_module(config, transformers.GPT2LMHeadModel)
    weights = convert_and_return(module, tmp_path, "nanogpt")
    with torch.no_grad():  # nanoGPT multiplies by linear where transformers takes addmm, of other bits in torch 2.14
        expected = module(TOKENS, use_cache=False).logits
        assert_nearly_close(reference_decoders.nanogpt(weights, config, TOKENS), expected)


def test_a_file_of_nanogpt_with_masks_becomes_one_of_transformers(tmp_path):
    config = {"model_type": "gpt2", "n_embd": 8, "n_layer": 1}
    module = make_module(transformers.GPT2Config(vocab_size=60, n_positions=16, n_embd=8, n_layer=1, n_head=2))
    weights = convert_and_return(module, tmp_path, "nanogpt")
    weights["transformer.h.0.attn.bias"] = torch.ones(16, 16, dtype=torch.float64).tril().view(1, 1, 16, 16)
    checkpoint.save(tmp_path / "nano.pt", {"model": weights, "iter_num": 7})
    rules = ready_rules(config, "nanogpt", "transformers", weights=load(tmp_path / "nano.pt", "model"))
    checkpoint.convert(tmp_path / "nano.pt", tmp_path / "theirs.safetensors", rules, part="model")
    ckpt = load(tmp_path / "theirs.safetensors")
    assert checkpoint.differences(load(tmp_path / "theirs" / "model.safetensors"), ckpt) == []


def test_gemma_of_google_has_one_map_for_queries_keys_and_values(tmp_path):
    weights = convert_and_return(make_module(decoder_config("gemma2")), tmp_path, "google")
    assert weights["model.layers.1.self_attn.qkv_proj.weight"].shape == (48, 16)
    assert "embedder.weight" in weights


def test_bert_in_the_words_of_its_authors(tmp_path):
    sizes = {key: SIZES[key] for key in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")}
    config = transformers.BertConfig(**sizes, intermediate_size=24, max_position_embeddings=16)
    module = make_module(config, transformers.BertForMaskedLM)
    weights = convert_and_return(module, tmp_path, "google")
    with torch.no_grad():
        assert_close(reference_models.google_bert(weights, config, TOKENS), module(TOKENS).logits)
    slashes = {name.replace(".", "/"): tensor for name, tensor in weights.items()}
    checkpoint.save(tmp_path / "tf.npz", slashes)
    rules = ready_rules(config, "google", "transformers", weights=load(tmp_path / "tf.npz"))
    checkpoint.convert(tmp_path / "tf.npz", tmp_path / "bert.safetensors", rules)
    assert (
        checkpoint.differences(load(tmp_path / "theirs" / "model.safetensors"), load(tmp_path / "bert.safetensors"))
        == []
    )


@pytest.mark.parametrize("kind", ["relu", "gated-gelu"])
def test_t5_in_t5x(kind, tmp_path):
    config = transformers.T5Config(
        vocab_size=60,
        d_model=16,
        d_kv=4,
        d_ff=24,
        num_layers=2,
        num_heads=4,
        feed_forward_proj=kind,
        tie_word_embeddings=kind == "relu",
    )
    module = make_module(config, transformers.T5ForConditionalGeneration)
    if kind != "relu":
        module.lm_head.weight = torch.nn.Parameter(torch.randn(60, 16, dtype=torch.float64))
    weights = convert_and_return(module, tmp_path, "t5x")
    bucket_of = transformers.models.t5.modeling_t5.T5Attention._relative_position_bucket
    with torch.no_grad():
        expected = module(TOKENS, decoder_input_ids=TOKENS[:, :4]).logits
        assert_nearly_close(reference_models.t5x(weights, config, TOKENS, TOKENS[:, :4], bucket_of), expected)


VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}


@pytest.mark.parametrize("target", ["timm", "torchvision", "transformers5"])
def test_vit(target, tmp_path):
    config = transformers.ViTConfig(**VIT, image_size=16, patch_size=8, layer_norm_eps=1e-6)
    module = make_module(config, transformers.ViTForImageClassification)
    weights = convert_and_return(module, tmp_path, target)
    if target == "transformers5":
        assert_identical(sorted_by_name(weights), sorted_by_name(module.state_dict()))
        return
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    run = reference_models.timm_vit if target == "timm" else reference_models.torchvision_vit
    with torch.no_grad():
        assert_close(run(weights, config, images), module(images).logits)


@pytest.mark.parametrize("layer_type", ["basic", "bottleneck"])
def test_resnet(layer_type, tmp_path):
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[2, 2], layer_type=layer_type)
    module = make_module(config, transformers.ResNetForImageClassification)
    weights = convert_and_return(module, tmp_path, "torchvision")
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        assert_close(reference_models.torchvision_resnet(weights, config, images), module(images).logits)


def test_clip_of_openai(tmp_path):
    side = {"hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 1, "projection_dim": 8}
    config = transformers.CLIPConfig(
        text_config={
            **side,
            "vocab_size": 60,
            "num_attention_heads": 2,
            "max_position_embeddings": 8,
            "eos_token_id": 2,
        },
        vision_config={**side, "num_attention_heads": 4, "image_size": 16, "patch_size": 8},
        projection_dim=8,
    )
    module = make_module(config, transformers.CLIPModel)
    weights = convert_and_return(module, tmp_path, "openai")
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        expected = module(input_ids=TOKENS, pixel_values=images).logits_per_image
        assert_close(reference_models.openai_clip(weights, config, TOKENS, images), expected)


def test_whisper_of_openai(tmp_path):
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24}
    config = transformers.WhisperConfig(
        **heads,
        **{key: SIZES[key] for key in ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")},
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        num_mel_bins=8,
        max_source_positions=10,
        max_target_positions=12,
        decoder_start_token_id=1,
    )
    module = make_module(config, transformers.WhisperForConditionalGeneration)
    weights = convert_and_return(module, tmp_path, "openai")
    sound = torch.randn(2, 8, 20, dtype=torch.float64)
    with torch.no_grad():
        expected = module(sound, decoder_input_ids=TOKENS, use_cache=False).logits
        assert_close(reference_models.openai_whisper(weights, config, sound, TOKENS), expected)


def test_ties_of_modules_are_taken_as_they_are():
    config = decoder_config("llama, tied")
    module = make_module(config)
    tied = dict(module.state_dict())
    checkpoint_like = {"lm_head.weight": "model.embed_tokens.weight"}
    rules = ready_rules(
        config, "transformers", "meta", weights={n: s for n, s in specs_of(tied).items() if "lm_head" not in n}
    )
    names = fn.tree.flatten(checkpoint.apply(rules, {n: t for n, t in tied.items() if n not in checkpoint_like}))
    assert names["output.weight"] is names["tok_embeddings.weight"]


def specs_of(tensors):
    return {name: checkpoint.Spec(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}


def test_what_is_not_known_is_told():
    assert set(list_layouts()) >= {"llama", "mixtral", "gpt2", "bert", "t5", "vit", "resnet", "whisper", "clip"}
    with pytest.raises(RuleError, match="no ready rules for the model type 'mamba'; there are for gpt2"):
        ready_rules({"model_type": "mamba"})
    with pytest.raises(RuleError, match="gpt2 has no layout 'meta'; there are transformers, nanogpt, plain"):
        ready_rules({"model_type": "gpt2"}, "transformers", "meta")
    with pytest.raises(RuleError, match="the config has no num_attention_heads or n_head"):
        ready_rules({"model_type": "llama"}, "transformers", "meta")
