"""Rules between the checkpoints of transformers and the layouts of the nets here, for each type of model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from funcnet.checkpoint import Checkpoint, Drop, Fuse, Rename, Rule, Split, Stack, Tie, Transpose, Untie
from funcnet.checkpoint.internals import dtype_name
from funcnet.models._transformers_config import ConfigLike, ModelConfig, read_config

_QKV = tuple(f"layers.{{i}}.attn.{name}.{{w}}" for name in "qkv")


def rules(
    config: ConfigLike,
    *,
    architecture: str | None = None,
    fused_qkv: bool = True,
    stacked: bool = False,
    source: Checkpoint | None = None,
) -> tuple[Rule, ...]:
    """The rules that take a checkpoint of transformers to the layout of ``from_config`` with the same arguments.

    ``funcnet.checkpoint.inverse`` of them leads back to a checkpoint that ``from_pretrained`` loads.

    Args:
        config, architecture, fused_qkv, stacked: as in :func:`from_config`.
        source: the checkpoint, if there is one. Files differ in whether a tied head is stored, in whether the names
            have the prefix of the base model, and in what older versions saved besides weights.

    Raises:
        ConversionError: lists every setting of the config that no net here supports.

    >>> fused = rules({"model_type": "llama", "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 8})
    >>> fused[-1]  # doctest: +ELLIPSIS
    Fuse(sources=('layers.{i}.attn.q.{w}', ...), target='layers.{i}.attn.qkv.{w}', sizes=(8, 4, 4), dim=0, ...)
    """
    model = read_config(config, architecture)
    rule_makers = {"gpt2": _gpt2_rules, "llama": _llama_rules, "bert": _bert_rules}
    all_rules = rule_makers[model.model_type](model, fused_qkv, source)
    if stacked:
        all_rules.append(Stack("layers.{i}.{rest**}", "layers.{rest**}"))
    return tuple(all_rules)


def _base_prefix(prefix: str, has_head: bool, source: Checkpoint | None) -> str:
    """The prefix of the base model; older checkpoints have none even if there is a head."""
    if not has_head or (source is not None and not any(name.startswith(prefix) for name in source)):
        return ""
    return prefix


def _rename_rules(old_prefix: str, new_prefix: str, names: Mapping[str, str]) -> list[Rule]:
    return [Rename(old_prefix + old, new_prefix + new) for old, new in names.items()]


def _tied_head_rules(stored_name: str, alias: str, owner: str, source: Checkpoint | None) -> list[Rule]:
    """Rules for a head that is the embedding: the file may lack it, store it as a tie, or store it a second time."""
    if source is None or stored_name not in source:
        return [Tie(alias, owner, stored=False)]
    return [Rename(stored_name, alias), *([Tie(alias, owner)] if stored_name in source.entries else [])]


def _gpt2_rules(model: ModelConfig, fused_qkv: bool, source: Checkpoint | None) -> list[Rule]:
    fields, base_prefix = model.fields, _base_prefix("transformer.", model.head is not None, source)
    result = _mask_rules(f"{base_prefix}h.{{i}}.attn.", source)
    result += _rename_rules(
        base_prefix, "", {"wte.weight": "embed.token.weight", "wpe.weight": "embed.position.weight"}
    )
    result += _rename_rules(f"{base_prefix}h.{{i}}.", "layers.{i}.", {
        "ln_1.{w}": "norm1.{w}",
        "attn.c_attn.{w}": "attn.qkv.{w}",
        "attn.c_proj.{w}": "attn.out.{w}",
        "ln_2.{w}": "norm2.{w}",
        "mlp.c_fc.{w}": "mlp.up.{w}",
        "mlp.c_proj.{w}": "mlp.down.{w}",
    })  # fmt: skip
    result += _rename_rules(base_prefix, "", {"ln_f.{w}": "norm.{w}"})
    result += _head_rules("lm_head.weight", model, source)
    conv1d_names = ("attn.qkv", "attn.out", "mlp.up", "mlp.down")  # their weights are (in, out)
    result += [Transpose(f"layers.{{i}}.{name}.weight") for name in conv1d_names]
    if not fused_qkv:
        size = fields.get("hidden_size", 768)
        result.append(Split("layers.{i}.attn.qkv.{w}", _QKV, (size, size, size)))
    return result


def _mask_rules(attention_prefix: str, source: Checkpoint | None) -> list[Rule]:
    """Rules that leave out the causal masks that older versions saved."""
    specs = {} if source is None else source.specs
    result: list[Rule] = []
    masks: dict[str, float | str] = {"bias": "tril", "masked_bias": -10000.0}
    for name, value in masks.items():
        spec = specs.get(attention_prefix.format(i=0) + name)  # that of the first layer
        if spec is not None:
            weight_name = f"{attention_prefix}c_attn.weight"
            result.append(Drop(attention_prefix + name, value, spec.shape, dtype_name(spec.dtype), weight_name))
    return result


def _head_rules(stored_name: str, model: ModelConfig, source: Checkpoint | None) -> list[Rule]:
    if model.head is None:
        return []
    if model.fields.get("tie_word_embeddings", model.model_type == "gpt2"):
        return _tied_head_rules(stored_name, "head.weight", "embed.token.weight", source)
    return [Rename(stored_name, "head.weight")]


def _llama_rules(model: ModelConfig, fused_qkv: bool, source: Checkpoint | None) -> list[Rule]:
    fields, base_prefix = model.fields, _base_prefix("model.", model.head is not None, source)
    result: list[Rule] = [Rename(f"{base_prefix}embed_tokens.weight", "embed.token.weight")]
    result += _rename_rules(f"{base_prefix}layers.{{i}}.", "layers.{i}.", {
        "input_layernorm.weight": "norm1.weight",
        "self_attn.q_proj.{w}": "attn.q.{w}",
        "self_attn.k_proj.{w}": "attn.k.{w}",
        "self_attn.v_proj.{w}": "attn.v.{w}",
        "self_attn.o_proj.{w}": "attn.out.{w}",
        "post_attention_layernorm.weight": "norm2.weight",
        "mlp.gate_proj.{w}": "mlp.gate.{w}",
        "mlp.up_proj.{w}": "mlp.up.{w}",
        "mlp.down_proj.{w}": "mlp.down.{w}",
    })  # fmt: skip
    if f"{base_prefix}layers.0.self_attn.rotary_emb.inv_freq" in (source or ()):
        result.append(Drop(f"{base_prefix}layers.{{i}}.self_attn.rotary_emb.inv_freq"))  # computed from the config
    result += [Rename(f"{base_prefix}norm.weight", "norm.weight")] if base_prefix else []
    result += _head_rules("lm_head.weight", model, source)
    if fused_qkv:
        heads = fields.get("num_attention_heads", 32)
        width = fields.get("head_dim") or fields.get("hidden_size", 4096) // heads
        kv_size = (fields.get("num_key_value_heads") or heads) * width
        result.append(Fuse(_QKV, "layers.{i}.attn.qkv.{w}", (heads * width, kv_size, kv_size)))
    return result


def _bert_rules(model: ModelConfig, fused_qkv: bool, source: Checkpoint | None) -> list[Rule]:
    fields, base_prefix = model.fields, _base_prefix("bert.", model.head is not None, source)
    result: list[Rule] = []
    positions = f"{base_prefix}embeddings.position_ids"
    if source is not None and (spec := source.specs.get(positions)) is not None:
        result.append(Drop(positions, "arange", spec.shape, dtype_name(spec.dtype)))
    result += _rename_rules(f"{base_prefix}embeddings.", "embed.", {
        "word_embeddings.weight": "token.weight",
        "token_type_embeddings.weight": "kind.weight",
        "position_embeddings.weight": "position.weight",
        "LayerNorm.{w}": "norm.{w}",
    })  # fmt: skip
    result += _rename_rules(f"{base_prefix}encoder.layer.{{i}}.", "layers.{i}.", {
        "attention.self.query.{w}": "attn.q.{w}",
        "attention.self.key.{w}": "attn.k.{w}",
        "attention.self.value.{w}": "attn.v.{w}",
        "attention.output.dense.{w}": "attn.out.{w}",
        "attention.output.LayerNorm.{w}": "norm1.{w}",
        "intermediate.dense.{w}": "mlp.up.{w}",
        "output.dense.{w}": "mlp.down.{w}",
        "output.LayerNorm.{w}": "norm2.{w}",
    })  # fmt: skip
    if fields["pooler"]:
        result.append(Rename(f"{base_prefix}pooler.dense.{{w}}", "pooler.{w}"))
    if model.head == "classes":
        result.append(Rename("classifier.{w}", "head.{w}"))
    if model.head == "masked_lm":
        result += _masked_word_head_rules(fields, source)
    if fused_qkv:
        size = fields.get("hidden_size", 768)
        result.append(Fuse(_QKV, "layers.{i}.attn.qkv.{w}", (size, size, size)))
    return result


def _masked_word_head_rules(fields: Mapping[str, Any], source: Checkpoint | None) -> list[Rule]:
    base_prefix = "cls.predictions."
    result = _rename_rules(
        f"{base_prefix}transform.", "head.", {"dense.{w}": "transform.{w}", "LayerNorm.{w}": "norm.{w}"}
    )
    if not fields.get("tie_word_embeddings", True):
        spec = None if source is None else source.specs.get(f"{base_prefix}bias")
        # nothing reads this bias, so it still has its first value
        unused = Drop(f"{base_prefix}bias", *((0.0, spec.shape, dtype_name(spec.dtype)) if spec else ()))
        return [*result, unused, Rename(f"{base_prefix}decoder.{{w}}", "head.decoder.{w}")]
    if source is not None and f"{base_prefix}decoder.bias" in source.aliases:
        result.append(Untie(f"{base_prefix}decoder.bias", f"{base_prefix}bias", stored=False))
    elif source is not None and f"{base_prefix}decoder.bias" in source.entries:
        result.append(Tie(f"{base_prefix}decoder.bias", f"{base_prefix}bias"))
        result.append(Untie(f"{base_prefix}decoder.bias", f"{base_prefix}bias", stored=False))
    result.append(Rename(f"{base_prefix}bias", "head.decoder.bias"))
    return result + _tied_head_rules(
        f"{base_prefix}decoder.weight", "head.decoder.weight", "embed.token.weight", source
    )
