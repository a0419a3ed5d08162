"""Ready rules for BERT and T5: transformers, the files of their authors, and the plain layout."""

from __future__ import annotations

from collections.abc import Mapping

from funcnet.checkpoint._dtypes import dtype_name
from funcnet.checkpoint._ready._settings import ModelFacts, rename_rules
from funcnet.checkpoint.rules import Drop, Prefix, Rename, Rule, Transpose

_BERT_EMBEDDINGS = {
    "word_embeddings.weight": "token.weight",
    "token_type_embeddings.weight": "kind.weight",
    "position_embeddings.weight": "position.weight",
    "LayerNorm.{w}": "norm.{w}",
}
_BERT_LAYER = {
    "attention.self.query.{w}": "attn.q.{w}",
    "attention.self.key.{w}": "attn.k.{w}",
    "attention.self.value.{w}": "attn.v.{w}",
    "attention.output.dense.{w}": "attn.out.{w}",
    "attention.output.LayerNorm.{w}": "norm1.{w}",
    "intermediate.dense.{w}": "mlp.up.{w}",
    "output.dense.{w}": "mlp.down.{w}",
    "output.LayerNorm.{w}": "norm2.{w}",
}


def bert_of_transformers(facts: ModelFacts, head: str | None = None) -> list[Rule]:
    """From BERT in transformers to the plain layout.

    Args:
        facts: the model.
        head: "masked_lm", "classes" or None; default what the config or the file says.
    """
    head = head or _bert_head(facts)
    prefix = "bert." if facts.has("bert.") and head != "none" else ""
    rules: list[Rule] = []
    for old, new in {"gamma": "weight", "beta": "bias"}.items():  # the names of old versions
        if facts.specs is not None and any(name.endswith(f"LayerNorm.{old}") for name in facts.specs):
            rules.append(Rename(f"{{rest**}}.LayerNorm.{old}", f"{{rest**}}.LayerNorm.{new}"))
    positions = f"{prefix}embeddings.position_ids"
    if (spec := facts.find(positions)) is not None:
        rules.append(Drop(positions, "arange", spec.shape, dtype_name(spec.dtype)))
    rules += rename_rules(f"{prefix}embeddings.", "embed.", _BERT_EMBEDDINGS)
    rules += rename_rules(f"{prefix}encoder.layer.{{i}}.", "layers.{i}.", _BERT_LAYER)
    if head != "masked_lm":
        rules.append(Rename(f"{prefix}pooler.dense.{{w}}", "pooler.{w}", optional=True))
    if head == "classes":
        rules.append(Rename("classifier.{w}", "head.{w}"))
    if head == "masked_lm":
        rules += _masked_word_head_rules(facts)
    return rules


def _bert_head(facts: ModelFacts) -> str:
    names = facts.settings.get("architectures") or ("BertForMaskedLM",)
    heads = {"BertModel": "none", "BertForSequenceClassification": "classes"}
    return heads.get(str(names[0]), "masked_lm")


def _masked_word_head_rules(facts: ModelFacts) -> list[Rule]:
    prefix = "cls.predictions."
    names = {"dense.{w}": "transform.{w}", "LayerNorm.{w}": "norm.{w}"}
    rules = rename_rules(f"{prefix}transform.", "head.", names)
    if not facts.settings.get("tie_word_embeddings", True):
        spec = facts.find(f"{prefix}bias")
        # nothing reads this bias, so it still has its first value
        unused = Drop(f"{prefix}bias", *((0.0, spec.shape, dtype_name(spec.dtype)) if spec else ()))
        return [*rules, unused, Rename(f"{prefix}decoder.{{w}}", "head.decoder.{w}")]
    rules += facts.rules_without_tie(f"{prefix}decoder.bias", f"{prefix}bias")
    rules.append(Rename(f"{prefix}bias", "head.decoder.bias"))
    tie = facts.rules_of_tie(f"{prefix}decoder.weight", "embed.token.weight")
    return [*rules, *tie, Rename(f"{prefix}decoder.weight", "head.decoder.weight")]


def bert_of_google(facts: ModelFacts) -> list[Rule]:
    """From the files of BERT's authors, which TensorFlow wrote: ``bert/encoder/layer_0/.../kernel``."""
    sign = _separator(facts)
    rules: list[Rule] = []
    if sign == "/":
        rules += _dots_for_slashes(facts)
    rules += rename_rules("bert.embeddings.", "embed.", {
        "word_embeddings": "token.weight",
        "token_type_embeddings": "kind.weight",
        "position_embeddings": "position.weight",
        **_gamma_beta("LayerNorm", "norm"),
    })  # fmt: skip
    names: dict[str, str] = {}
    for old, new in _BERT_LAYER.items():
        old, new = old.removesuffix(".{w}"), new.removesuffix(".{w}")
        names |= _gamma_beta(old, new) if old.endswith("LayerNorm") else _kernel_bias(old, new)
    rules += rename_rules("bert.encoder.layer_{i}.", "layers.{i}.", names)
    rules += [Transpose(f"layers.{{i}}.{name}.weight") for name in ("attn.q", "attn.k", "attn.v", "attn.out")]
    rules += [Transpose(f"layers.{{i}}.mlp.{name}.weight") for name in ("up", "down")]
    head = _bert_head(facts)
    if head != "masked_lm":
        rules += rename_rules(
            "bert.pooler.", "pooler.", {"dense.kernel": "weight", "dense.bias": "bias"}, optional=True
        )
        rules.append(Transpose("pooler.weight", optional=True))
    if head == "masked_lm":
        rules += rename_rules("cls.predictions.", "head.", {
            **_kernel_bias("transform.dense", "transform"),
            **_gamma_beta("transform.LayerNorm", "norm"),
            "output_bias": "decoder.bias",
        })  # fmt: skip
        rules.append(Transpose("head.transform.weight"))
        rules += facts.rules_of_tie("head.decoder.weight", "embed.token.weight")
    return rules


def _gamma_beta(old: str, new: str) -> dict[str, str]:
    return {f"{old}.gamma": f"{new}.weight", f"{old}.beta": f"{new}.bias"}


def _kernel_bias(old: str, new: str) -> dict[str, str]:
    return {f"{old}.kernel": f"{new}.weight", f"{old}.bias": f"{new}.bias"}


def _separator(facts: ModelFacts) -> str:
    return "/" if facts.specs is not None and any("/" in name for name in facts.specs) else "."


def _dots_for_slashes(facts: ModelFacts) -> list[Rule]:
    """Rules that write the names of a file with dots, one for each number of keys."""
    assert facts.specs is not None
    counts = sorted({name.count("/") for name in facts.specs if "/" in name})
    holes = [[f"{{k{number}}}" for number in range(count + 1)] for count in counts]
    return [Rename("/".join(keys), ".".join(keys)) for keys in holes]


def t5_of_transformers(facts: ModelFacts) -> list[Rule]:
    """T5 in transformers without the names that are ties."""
    rules: list[Rule] = []
    for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"):
        rules += facts.rules_without_tie(name, "shared.weight")
    settings = facts.settings
    # version 5 says of every T5 that it is tied, and of those that are not that they do not scale
    if settings.get("scale_decoder_outputs", settings.get("tie_word_embeddings", True)):
        rules += facts.rules_without_tie("lm_head.weight", "shared.weight")
    return rules


_T5_ATTENTION = {"query": "q", "key": "k", "value": "v", "out": "o"}


def t5_of_t5x(facts: ModelFacts) -> list[Rule]:
    """From T5X, the files of T5's authors in Flax, to transformers; maps are (in, out) there."""
    rules: list[Rule] = _dots_for_slashes(facts) if _separator(facts) == "/" else []
    if facts.specs is not None and facts.has("target"):
        rules.append(Prefix(remove="target."))
    kernels: dict[str, str] = {}
    norms: dict[str, str] = {
        "encoder.encoder_norm.scale": "encoder.final_layer_norm.weight",
        "decoder.decoder_norm.scale": "decoder.final_layer_norm.weight",
    }
    blocks: Mapping[str, tuple[tuple[str, str, str], ...]] = {
        "encoder": (
            ("attention", "SelfAttention", "pre_attention_layer_norm"),
            ("mlp", "DenseReluDense", "pre_mlp_layer_norm"),
        ),
        "decoder": (
            ("self_attention", "SelfAttention", "pre_self_attention_layer_norm"),
            ("encoder_decoder_attention", "EncDecAttention", "pre_cross_attention_layer_norm"),
            ("mlp", "DenseReluDense", "pre_mlp_layer_norm"),
        ),
    }
    for side, parts in blocks.items():
        for number, (old, new, norm) in enumerate(parts):
            target = f"{side}.block.{{i}}.layer.{number}"
            inner = {name: name for name in ("wi", "wi_0", "wi_1", "wo")} if old == "mlp" else _T5_ATTENTION
            for old_name, new_name in inner.items():
                kernels[f"{side}.layers_{{i}}.{old}.{old_name}.kernel"] = f"{target}.{new}.{new_name}.weight"
            norms[f"{side}.layers_{{i}}.{norm}.scale"] = f"{target}.layer_norm.weight"
        bias = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        kernels[f"{side}.relpos_bias.rel_embedding"] = bias
    kernels["decoder.logits_dense.kernel"] = "lm_head.weight"
    rules.append(Rename("token_embedder.embedding", "shared.weight"))
    rules += rename_rules("", "", norms)
    for old, new in kernels.items():
        optional = ".mlp.wi" in old or old.startswith("decoder.logits")
        rules += [Rename(old, new, optional), Transpose(new, optional=optional)]
    return rules
