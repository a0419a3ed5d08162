"""Rules between the checkpoints of transformers and the layouts of the nets here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from funcnet.checkpoint import Checkpoint, Drop, Fuse, Rename, Rule, Split, Stack, Tie, Transpose, Untie
from funcnet.checkpoint.internals import dtype_name
from funcnet.models._config import Described, described

_QKV = tuple(f"layers.{{i}}.attn.{name}.{{w}}" for name in "qkv")


def rules(
    config: Any,
    *,
    architecture: str | None = None,
    fused_qkv: bool = True,
    stacked: bool = False,
    source: Checkpoint | None = None,
) -> tuple[Rule, ...]:
    """The rules that take a checkpoint of transformers to the layout of ``from_config`` with the same arguments.

    ``funcnet.checkpoint.inverse`` of them leads back to a checkpoint that ``from_pretrained`` loads.

    Args:
        config, architecture, fused_qkv, stacked: as of :func:`from_config`.
        source: the checkpoint, where it is at hand: files differ in whether a tied head is stored, in whether the names
            have the prefix of the base model, and in what older versions saved beside weights.

    Raises:
        ConversionError: lists all that the config asks for and no net here does.

    >>> made = rules({"model_type": "llama", "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 8})
    >>> made[-1]  # doctest: +ELLIPSIS
    Fuse(sources=('layers.{i}.attn.q.{w}', ...), target='layers.{i}.attn.qkv.{w}', sizes=(8, 4, 4), dim=0, ...)
    """
    found = described(config, architecture)
    makers = {"gpt2": _gpt2, "llama": _llama, "bert": _bert}
    made = makers[found.kind](found, fused_qkv, source)
    if stacked:
        made.append(Stack("layers.{i}.{rest**}", "layers.{rest**}"))
    return tuple(made)


def _prefix(name: str, there: bool, source: Checkpoint | None) -> str:
    """Where the base model lies; older checkpoints have it at the top even if there is a head."""
    if not there or (source is not None and not any(key.startswith(name) for key in source)):
        return ""
    return name


def _renamed(before: str, after: str, names: Mapping[str, str]) -> list[Rule]:
    return [Rename(before + old, after + new) for old, new in names.items()]


def _tied(theirs: str, alias: str, owner: str, source: Checkpoint | None) -> list[Rule]:
    """Rules for a head that is the embedding: it is not stored, or is a tie, or is stored twice."""
    if source is None or theirs not in source:
        return [Tie(alias, owner, stored=False)]
    return [Rename(theirs, alias), *([Tie(alias, owner)] if theirs in source.entries else [])]


def _gpt2(found: Described, fused_qkv: bool, source: Checkpoint | None) -> list[Rule]:
    fields, base = found.fields, _prefix("transformer.", found.head is not None, source)
    made = _masks(f"{base}h.{{i}}.attn.", source)
    made += _renamed(base, "", {"wte.weight": "embed.token.weight", "wpe.weight": "embed.position.weight"})
    made += _renamed(f"{base}h.{{i}}.", "layers.{i}.", {
        "ln_1.{w}": "norm1.{w}",
        "attn.c_attn.{w}": "attn.qkv.{w}",
        "attn.c_proj.{w}": "attn.out.{w}",
        "ln_2.{w}": "norm2.{w}",
        "mlp.c_fc.{w}": "mlp.up.{w}",
        "mlp.c_proj.{w}": "mlp.down.{w}",
    })  # fmt: skip
    made += _renamed(base, "", {"ln_f.{w}": "norm.{w}"})
    made += _head("lm_head.weight", found, source)
    made += [
        Transpose(f"layers.{{i}}.{name}.weight") for name in ("attn.qkv", "attn.out", "mlp.up", "mlp.down")
    ]  # Conv1D
    if not fused_qkv:
        size = fields.get("hidden_size", 768)
        made.append(Split("layers.{i}.attn.qkv.{w}", _QKV, (size, size, size)))
    return made


def _masks(attention: str, source: Checkpoint | None) -> list[Rule]:
    """Rules that leave out the causal masks that older versions saved."""
    first = {name: attention.format(i=0) + name for name in ("bias", "masked_bias")}
    specs = {} if source is None else source.specs
    made: list[Rule] = []
    beside = f"{attention}c_attn.weight"
    if (spec := specs.get(first["bias"])) is not None:
        made.append(Drop(f"{attention}bias", "tril", spec.shape, dtype_name(spec.dtype), beside))
    if (spec := specs.get(first["masked_bias"])) is not None:
        made.append(Drop(f"{attention}masked_bias", -10000.0, spec.shape, dtype_name(spec.dtype), beside))
    return made


def _head(theirs: str, found: Described, source: Checkpoint | None) -> list[Rule]:
    if found.head is None:
        return []
    if found.fields.get("tie_word_embeddings", found.kind == "gpt2"):
        return _tied(theirs, "head.weight", "embed.token.weight", source)
    return [Rename(theirs, "head.weight")]


def _llama(found: Described, fused_qkv: bool, source: Checkpoint | None) -> list[Rule]:
    fields, base = found.fields, _prefix("model.", found.head is not None, source)
    made: list[Rule] = [Rename(f"{base}embed_tokens.weight", "embed.token.weight")]
    made += _renamed(f"{base}layers.{{i}}.", "layers.{i}.", {
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
    if f"{base}layers.0.self_attn.rotary_emb.inv_freq" in (source or ()):
        made.append(Drop(f"{base}layers.{{i}}.self_attn.rotary_emb.inv_freq"))  # computed from the config
    made += [Rename(f"{base}norm.weight", "norm.weight")] if base else []
    made += _head("lm_head.weight", found, source)
    if fused_qkv:
        heads = fields.get("num_attention_heads", 32)
        width = fields.get("head_dim") or fields.get("hidden_size", 4096) // heads
        shared = (fields.get("num_key_value_heads") or heads) * width
        made.append(Fuse(_QKV, "layers.{i}.attn.qkv.{w}", (heads * width, shared, shared)))
    return made


def _bert(found: Described, fused_qkv: bool, source: Checkpoint | None) -> list[Rule]:
    fields, base = found.fields, _prefix("bert.", found.head is not None, source)
    made: list[Rule] = []
    positions = f"{base}embeddings.position_ids"
    if source is not None and (spec := source.specs.get(positions)) is not None:
        made.append(Drop(positions, "arange", spec.shape, dtype_name(spec.dtype)))
    made += _renamed(f"{base}embeddings.", "embed.", {
        "word_embeddings.weight": "token.weight",
        "token_type_embeddings.weight": "kind.weight",
        "position_embeddings.weight": "position.weight",
        "LayerNorm.{w}": "norm.{w}",
    })  # fmt: skip
    made += _renamed(f"{base}encoder.layer.{{i}}.", "layers.{i}.", {
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
        made.append(Rename(f"{base}pooler.dense.{{w}}", "pooler.{w}"))
    if found.head == "classes":
        made.append(Rename("classifier.{w}", "head.{w}"))
    if found.head == "masked_lm":
        made += _masked_head(fields, source)
    if fused_qkv:
        size = fields.get("hidden_size", 768)
        made.append(Fuse(_QKV, "layers.{i}.attn.qkv.{w}", (size, size, size)))
    return made


def _masked_head(fields: Mapping[str, Any], source: Checkpoint | None) -> list[Rule]:
    theirs = "cls.predictions."
    made = _renamed(f"{theirs}transform.", "head.", {"dense.{w}": "transform.{w}", "LayerNorm.{w}": "norm.{w}"})
    if not fields.get("tie_word_embeddings", True):
        spec = None if source is None else source.specs.get(f"{theirs}bias")
        # nothing reads it, so nothing has ever changed it
        unused = Drop(f"{theirs}bias", *((0.0, spec.shape, dtype_name(spec.dtype)) if spec else ()))
        return [*made, unused, Rename(f"{theirs}decoder.{{w}}", "head.decoder.{w}")]
    if source is not None and f"{theirs}decoder.bias" in source.aliases:
        made.append(Untie(f"{theirs}decoder.bias", f"{theirs}bias", stored=False))
    elif source is not None and f"{theirs}decoder.bias" in source.entries:
        made.append(Tie(f"{theirs}decoder.bias", f"{theirs}bias"))
        made.append(Untie(f"{theirs}decoder.bias", f"{theirs}bias", stored=False))
    made.append(Rename(f"{theirs}bias", "head.decoder.bias"))
    return made + _tied(f"{theirs}decoder.weight", "head.decoder.weight", "embed.token.weight", source)
