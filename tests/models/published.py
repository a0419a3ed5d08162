"""Models of transformers from small configs, each a class and the settings that a net here has to follow."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

_TEXT = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}
_LLAMA = {**_TEXT, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2}
_GPT2 = {"vocab_size": 60, "n_embd": 48, "n_layer": 3, "n_head": 2, "n_positions": 32}
_GPT2 |= {"bos_token_id": 0, "eos_token_id": 0}
_LONG = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}

IDS = torch.tensor([[5, 9, 1, 30, 7, 2], [8, 8, 40, 3, 59, 2]])
PADDED = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])


@dataclass(frozen=True)
class Published:
    """One class of transformers and the config of one model of it."""

    name: str
    model: str
    config: str
    settings: dict[str, Any] = field(default_factory=dict)

    def module(self) -> Any:
        """The model, with numbers from a seed in every parameter, biases and norms too."""
        import transformers

        module = getattr(transformers, self.model)(getattr(transformers, self.config)(**self.settings))
        generator = torch.Generator().manual_seed(0)
        unread = set() if self.settings.get("tie_word_embeddings", True) else {"cls.predictions.bias"}
        with torch.no_grad():
            for name, param in module.named_parameters():
                if name not in unread:
                    param.normal_(0.0, 0.3, generator=generator)
        return module.eval()

    def load(self, folder: Any) -> Any:
        """The model from a folder, and what was missing in it or too much."""
        import transformers

        module, loading_info = getattr(transformers, self.model).from_pretrained(folder, output_loading_info=True)
        return module.eval(), {key: value for key, value in loading_info.items() if value}


PUBLISHED = [
    Published("GPT-2", "GPT2LMHeadModel", "GPT2Config", _GPT2),
    Published("GPT-2, untied", "GPT2LMHeadModel", "GPT2Config", {**_GPT2, "tie_word_embeddings": False, "n_inner": 40}),
    Published("GPT-2 without a head", "GPT2Model", "GPT2Config", {**_GPT2, "scale_attn_weights": False}),
    Published("Llama, grouped", "LlamaForCausalLM", "LlamaConfig", _LLAMA),
    Published("Llama, grouped, tied", "LlamaForCausalLM", "LlamaConfig", {**_LLAMA, "tie_word_embeddings": True}),
    Published("Llama, one group", "LlamaForCausalLM", "LlamaConfig", {
        **_LLAMA, "num_key_value_heads": 1, "attention_bias": True, "attention_dropout": 0.3}),
    Published("Llama 3", "LlamaForCausalLM", "LlamaConfig", {
        **_LLAMA, "num_key_value_heads": 4, "head_dim": 6, "mlp_bias": True,
        "rope_parameters": {"rope_type": "llama3", "rope_theta": 500.0, **_LONG}}),
    Published("Llama without a head", "LlamaModel", "LlamaConfig", {
        **_LLAMA, "hidden_act": "gelu",
        "rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0}}),
    Published("BERT, masked words", "BertForMaskedLM", "BertConfig", _TEXT),
    Published("BERT, masked words, untied", "BertForMaskedLM", "BertConfig", {**_TEXT, "tie_word_embeddings": False}),
    Published("BERT, classes", "BertForSequenceClassification", "BertConfig", {**_TEXT, "num_labels": 3}),
    Published("BERT without a head", "BertModel", "BertConfig", {**_TEXT, "hidden_act": "gelu_new"}),
]  # fmt: skip
FORMS = [(fused, stacked) for fused in (True, False) for stacked in (False, True)]
