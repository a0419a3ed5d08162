"""Ready rules for Whisper: transformers, and the files of its authors."""

from __future__ import annotations

from funcnet.checkpoint._ready._settings import ModelFacts, rename_rules
from funcnet.checkpoint.rules import Prefix, Rule

_ATTENTION = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "out_proj"}


def whisper_of_transformers(facts: ModelFacts) -> list[Rule]:
    """The files of Whisper in transformers, with the prefix of the base model and without the head, which is a tie."""
    rules: list[Rule] = [] if facts.has("model.") else [Prefix(add="model.")]
    return [*rules, *facts.rules_without_tie("proj_out.weight", "model.decoder.embed_tokens.weight")]


def whisper_of_openai(facts: ModelFacts) -> list[Rule]:
    """From the files of Whisper's authors to transformers."""
    rules = rename_rules("encoder.", "model.encoder.", {
        "conv1.{w}": "conv1.{w}",
        "conv2.{w}": "conv2.{w}",
        "positional_embedding": "embed_positions.weight",
        "ln_post.{w}": "layer_norm.{w}",
    })  # fmt: skip
    rules += rename_rules("decoder.", "model.decoder.", {
        "token_embedding.weight": "embed_tokens.weight",
        "positional_embedding": "embed_positions.weight",
        "ln.{w}": "layer_norm.{w}",
    })  # fmt: skip
    for side in ("encoder", "decoder"):
        names = {
            **_attention_names("attn", "self_attn"),
            "mlp_ln.{w}": "final_layer_norm.{w}",
            "mlp.0.{w}": "fc1.{w}",
            "mlp.2.{w}": "fc2.{w}",
        }
        if side == "decoder":
            names |= _attention_names("cross_attn", "encoder_attn")
        rules += rename_rules(f"{side}.blocks.{{i}}.", f"model.{side}.layers.{{i}}.", names)
    return rules


def _attention_names(old: str, new: str) -> dict[str, str]:
    names = {f"{old}.{old_name}.{{w}}": f"{new}.{new_name}.{{w}}" for old_name, new_name in _ATTENTION.items()}
    return {**names, f"{old}_ln.{{w}}": f"{new}_layer_norm.{{w}}"}
