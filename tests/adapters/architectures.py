"""Models nobody made for funcnet: a table of transformers architectures from small random configs.

Sizes are the smallest a config takes; weights are random, so that no two parts agree by being zero.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 60,
    "max_position_embeddings": 32,
}
GROUPED = {**SMALL, "num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
IMAGE = {"image_size": 16, "patch_size": 8, "num_channels": 3}
IDS = {"input_ids": torch.tensor([[5, 9, 1, 30, 7, 2], [8, 8, 40, 3, 59, 2]])}
MASKED = {**IDS, "attention_mask": torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])}
PIXELS = {"pixel_values": torch.linspace(-1, 1, 2 * 3 * 16 * 16).view(2, 3, 16, 16).sin()}
LABELS = {"labels": IDS["input_ids"]}


@dataclass(frozen=True)
class Architecture:
    """One model: its class, the config it is made from, and a call of it."""

    name: str
    config: str
    model: str
    sizes: dict[str, Any]
    inputs: dict[str, Any]
    call: dict[str, Any] = field(default_factory=lambda: {"use_cache": False})
    slow: bool = False

    def module(self) -> Any:
        """The model, from a seed."""
        import transformers

        config = getattr(transformers, self.config)(**self.sizes)
        torch.manual_seed(0)
        return getattr(transformers, self.model)(config)


def text(name: str, head: str = "ForCausalLM", sizes: Any = GROUPED, slow: bool = False, **more: Any) -> Architecture:
    """A decoder with labels."""
    return Architecture(name, f"{name}Config", name + head, {**sizes, **more}, {**MASKED, **LABELS}, slow=slow)


def encoder(name: str, head: str, inputs: Any = MASKED, slow: bool = False, **more: Any) -> Architecture:
    """An encoder, which knows no cache."""
    return Architecture(name, f"{name}Config", name + head, {**SMALL, **more}, inputs, {}, slow)


def vision(name: str, sizes: Any = None, head: str = "Model", slow: bool = False, **more: Any) -> Architecture:
    """A model of images."""
    sizes = {**SMALL, **IMAGE} if sizes is None else sizes
    sizes = {key: value for key, value in sizes.items() if key not in ("vocab_size", "max_position_embeddings")}
    return Architecture(name, f"{name}Config", name + head, {**sizes, **more}, PIXELS, {}, slow)


BART = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "vocab_size": 60,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "vocab_size": 60, "pad_token_id": 0}
GPT2 = {"vocab_size": 60, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "bos_token_id": 0}
SOUND: dict[str, Any] = {
    **{key: value for key, value in SMALL.items() if key != "max_position_embeddings"},
    "conv_dim": (8, 8),
    "conv_stride": (5, 2),
    "conv_kernel": (10, 3),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "mask_time_prob": 0.0,
    "layerdrop": 0.0,
}
WAVE = {"input_values": torch.linspace(0, 30, 800).sin().view(2, 400)}
MEL = {"input_features": torch.linspace(0, 30, 2 * 8 * 16).sin().view(2, 8, 16)}

ARCHITECTURES = [
    Architecture(
        "GPT2", "GPT2Config", "GPT2LMHeadModel", {**GPT2, "eos_token_id": 0}, {**IDS, **LABELS}
    ),
    text("Llama"),
    text("Mistral"),
    text("Qwen2"),
    text("Qwen3"),
    text("Gemma", pad_token_id=0),
    text("Gemma2", slow=True),
    text("Phi"),
    text("GPTNeoX"),
    text("OPT", ffn_dim=24, word_embed_proj_dim=16, dropout=0.2),
    text("Bloom", n_layer=2, n_head=2),
    text("StableLm", slow=True),
    text("Olmo", slow=True),
    text("Mixtral", num_local_experts=4, num_experts_per_tok=2),
    text("Qwen2Moe", moe_intermediate_size=8, num_experts=4, shared_expert_intermediate_size=8, slow=True),
    text("Mamba", sizes={"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 60, "state_size": 4}),
    encoder("Bert", "ForSequenceClassification", {**MASKED, "labels": torch.tensor([0, 1])}),
    encoder("Roberta", "ForMaskedLM", {**MASKED, **LABELS}, pad_token_id=1),
    encoder("Electra", "Model", embedding_size=8),
    encoder("Albert", "Model", embedding_size=8),
    encoder("DebertaV2", "Model", relative_attention=True, pos_att_type=["p2c", "c2p"]),
    encoder("MobileBert", "Model", slow=True, embedding_size=8, intra_bottleneck_size=8, true_hidden_size=8),
    Architecture("DistilBert", "DistilBertConfig", "DistilBertModel", {"dim": 16, "n_layers": 2, "n_heads": 2,
                 "hidden_dim": 24, "vocab_size": 60, "max_position_embeddings": 32}, MASKED, {}),
    Architecture("T5", "T5Config", "T5ForConditionalGeneration", {**T5, "decoder_start_token_id": 0},
                 {**MASKED, **LABELS}),
    Architecture("Bart", "BartConfig", "BartForConditionalGeneration", BART, {**MASKED, **LABELS}),
    Architecture("Marian", "MarianConfig", "MarianMTModel", BART, {**MASKED, **LABELS}, slow=True),
    vision("ViT", head="ForImageClassification"),
    vision("DeiT"),
    vision("Beit", slow=True),
    vision("Dinov2", slow=True),
    vision("ConvNext", {"num_channels": 3, "hidden_sizes": [4, 8], "depths": [1, 1], "num_stages": 2,
                        "drop_path_rate": 0.3}),
    vision("ResNet", {"num_channels": 3, "embedding_size": 4, "hidden_sizes": [8, 8], "depths": [1, 1],
                      "layer_type": "basic"}),
    vision("Swin", {"image_size": 16, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2],
                    "window_size": 2}),
    vision("MobileNetV2", {"num_channels": 3, "image_size": 16, "depth_multiplier": 0.25}, slow=True),
    Architecture("Clip", "CLIPConfig", "CLIPModel", {
        "text_config": {**SMALL, "projection_dim": 8, "eos_token_id": 2}, "projection_dim": 8,
        "vision_config": {**SMALL, **IMAGE, "projection_dim": 8}}, {**MASKED, **PIXELS, "return_loss": True}, {}),
    Architecture("Wav2Vec2", "Wav2Vec2Config", "Wav2Vec2Model", SOUND, WAVE, {}),
    Architecture("Hubert", "HubertConfig", "HubertModel", SOUND, WAVE, {}, slow=True),
    Architecture("Whisper", "WhisperConfig", "WhisperForConditionalGeneration", {
        **BART, "num_mel_bins": 8, "max_source_positions": 8, "max_target_positions": 16}, {**MEL, **LABELS}),
]  # fmt: skip


def sweep(*in_every_run: str) -> list[Any]:
    """The architectures as parameters of a test: the usual run has those named, the sweep has the others."""
    return [
        pytest.param(row, id=row.name, marks=[] if row.name in in_every_run else [pytest.mark.slow])
        for row in ARCHITECTURES
    ]
