"""Ready rules for GPT-2 and for the family of Llama: to the plain layout of ``funcnet.models``.

The plain layout has ``embed``, ``layers`` with ``norm1``, ``attn``, ``norm2`` and ``mlp``, ``norm`` and ``head``. Its
weights are (out, in), and rotary pairs are halves of a head apart, as in transformers.
"""

from __future__ import annotations

from funcnet.checkpoint._dtypes import dtype_name
from funcnet.checkpoint._ready._settings import ModelFacts, rename_rules
from funcnet.checkpoint.rules import Drop, Fuse, Interleave, Rename, Rule, Split, Transpose

QKV = tuple(f"layers.{{i}}.attn.{name}.{{w}}" for name in "qkv")
_FUSED_QKV = "layers.{i}.attn.qkv.{w}"
_GPT2_LAYER = {
    "ln_1.{w}": "norm1.{w}",
    "attn.c_attn.{w}": "attn.qkv.{w}",
    "attn.c_proj.{w}": "attn.out.{w}",
    "ln_2.{w}": "norm2.{w}",
    "mlp.c_fc.{w}": "mlp.up.{w}",
    "mlp.c_proj.{w}": "mlp.down.{w}",
}
_GPT2_MAPS = ("attn.qkv", "attn.out", "mlp.up", "mlp.down")


def gpt2_of_transformers(facts: ModelFacts) -> list[Rule]:
    """From GPT-2 in transformers, whose maps are (in, out), to the plain layout with queries, keys and values fused."""
    return [*_gpt2_rules(facts, is_stored=False), *(Transpose(f"layers.{{i}}.{name}.weight") for name in _GPT2_MAPS)]


def gpt2_of_nanogpt(facts: ModelFacts) -> list[Rule]:
    """From nanoGPT, which has the names of transformers and maps (out, in)."""
    return _gpt2_rules(facts, is_stored=True)


def gpt2_of_plain(facts: ModelFacts) -> list[Rule]:
    """From the plain layout, where queries, keys and values are apart."""
    size = facts.number("n_embd", "hidden_size")
    return [Fuse(QKV, _FUSED_QKV, (size, size, size))]


def _gpt2_rules(facts: ModelFacts, is_stored: bool) -> list[Rule]:
    prefix = "transformer." if facts.has("transformer.") and has_head(facts) else ""
    rules: list[Rule] = []
    masks: dict[str, float | str] = {"bias": "tril", "masked_bias": -10000.0}  # older versions saved them
    for name, value in masks.items():
        spec = facts.find(f"{prefix}h.0.attn.{name}")
        if spec is not None:
            neighbour = f"{prefix}h.{{i}}.attn.c_attn.weight"
            rules.append(Drop(f"{prefix}h.{{i}}.attn.{name}", value, spec.shape, dtype_name(spec.dtype), neighbour))
    rules += rename_rules(prefix, "", {"wte.weight": "embed.token.weight", "wpe.weight": "embed.position.weight"})
    rules += rename_rules(f"{prefix}h.{{i}}.", "layers.{i}.", _GPT2_LAYER)
    rules.append(Rename(f"{prefix}ln_f.{{w}}", "norm.{w}"))
    return rules + head_rules(facts, "lm_head.weight", is_tied=True, is_stored=is_stored)


def has_head(facts: ModelFacts) -> bool:
    """Whether a model for words has a head: not if the config names the base class, or the file has its names."""
    names = facts.settings.get("architectures") or ()
    return not names or not str(names[0]).endswith("Model") or str(names[0]).endswith("LMHeadModel")


def head_rules(facts: ModelFacts, stored_name: str, *, is_tied: bool, is_stored: bool) -> list[Rule]:
    """Rules for the head, which may be the embedding.

    Args:
        facts: the model.
        stored_name: the name of the head in the layout.
        is_tied: whether it is the embedding, where the config does not say.
        is_stored: whether files of the layout have its name then too.
    """
    if not has_head(facts):
        return []
    rename = Rename(stored_name, "head.weight")
    if not facts.settings.get("tie_word_embeddings", is_tied):
        return [rename]
    return [*facts.rules_of_tie(stored_name, "embed.token.weight", is_stored), rename]


_LLAMA_LAYER = {
    "input_layernorm.weight": "norm1.weight",
    "self_attn.q_proj.{w}": "attn.q.{w}",
    "self_attn.k_proj.{w}": "attn.k.{w}",
    "self_attn.v_proj.{w}": "attn.v.{w}",
    "self_attn.o_proj.{w}": "attn.out.{w}",
    "post_attention_layernorm.weight": "norm2.weight",
}
_MLP = {"mlp.gate_proj.{w}": "mlp.gate.{w}", "mlp.up_proj.{w}": "mlp.up.{w}", "mlp.down_proj.{w}": "mlp.down.{w}"}
_HEAD_NORMS = {"self_attn.q_norm.weight": "attn.q_norm.weight", "self_attn.k_norm.weight": "attn.k_norm.weight"}
_GEMMA2_NORMS = {
    "input_layernorm.weight": "norm1.weight",
    "post_attention_layernorm.weight": "norm1_out.weight",
    "pre_feedforward_layernorm.weight": "norm2.weight",
    "post_feedforward_layernorm.weight": "norm2_out.weight",
}


def llama_of_transformers(facts: ModelFacts) -> list[Rule]:
    """From a decoder of transformers with the names of Llama: Mistral, Qwen 2 and 3, Gemma, Phi-3 too."""
    model_type = facts.settings.get("model_type")
    prefix = "model." if has_head(facts) and facts.has("model.") else ""
    layers = f"{prefix}layers.{{i}}."
    rules = fused_rules(facts, layers) if model_type == "phi3" else []
    rules.append(Rename(f"{prefix}embed_tokens.weight", "embed.token.weight"))
    rules += rename_rules(layers, "layers.{i}.", _layer_names(facts))
    if facts.find(f"{prefix}layers.0.self_attn.rotary_emb.inv_freq") is not None:
        rules.append(Drop(f"{layers}self_attn.rotary_emb.inv_freq"))  # computed from the config
    rules += [Rename(f"{prefix}norm.weight", "norm.weight")] if prefix else []
    is_tied = model_type in ("gemma", "gemma2")
    return rules + head_rules(facts, "lm_head.weight", is_tied=is_tied, is_stored=False)


def _layer_names(facts: ModelFacts) -> dict[str, str]:
    """The names in a layer of transformers, and in the plain layout."""
    names = dict(_LLAMA_LAYER) if facts.settings.get("model_type") != "gemma2" else {**_LLAMA_LAYER, **_GEMMA2_NORMS}
    if str(facts.settings.get("model_type")).startswith("qwen3"):
        names |= _HEAD_NORMS
    return names if is_sparse(facts) else {**names, **_MLP}


def is_sparse(facts: ModelFacts) -> bool:
    """Whether the layers have experts in place of one MLP."""
    return facts.settings.get("model_type") in ("mixtral", "qwen2_moe", "qwen3_moe")


def fused_rules(facts: ModelFacts, layers: str) -> list[Rule]:
    """Rules that take the fused maps of Phi-3 apart."""
    sizes = (facts.query_size, facts.key_size, facts.key_size)
    parts = tuple(f"{layers}self_attn.{name}_proj.{{w}}" for name in "qkv")
    inner = facts.number("intermediate_size")
    gate_up = tuple(f"{layers}mlp.{name}_proj.{{w}}" for name in ("gate", "up"))
    return [
        Split(f"{layers}self_attn.qkv_proj.{{w}}", parts, sizes),
        Split(f"{layers}mlp.gate_up_proj.{{w}}", gate_up, (inner, inner)),
    ]


def llama_of_meta(facts: ModelFacts) -> list[Rule]:
    """From the names of Meta's files, where rotary pairs are neighbours."""
    names = {
        "attention_norm.weight": "norm1.weight",
        "attention.wq.{w}": "attn.q.{w}",
        "attention.wk.{w}": "attn.k.{w}",
        "attention.wv.{w}": "attn.v.{w}",
        "attention.wo.{w}": "attn.out.{w}",
        "ffn_norm.weight": "norm2.weight",
    }
    rotated = ["attn.q.{w}", "attn.k.{w}"]
    if not is_sparse(facts):
        names |= {f"feed_forward.{old}.{{w}}": f"mlp.{new}.{{w}}" for old, new in META_MLP.items()}
    if facts.settings.get("model_type") == "gemma2":
        names |= {"post_attention_norm.weight": "norm1_out.weight", "post_ffn_norm.weight": "norm2_out.weight"}
    if str(facts.settings.get("model_type")).startswith("qwen3"):
        names |= {f"attention.{name}.weight": f"attn.{name}.weight" for name in ("q_norm", "k_norm")}
        rotated += ["attn.q_norm.{w}", "attn.k_norm.{w}"]
    rules: list[Rule] = [Drop("rope.freqs")] if facts.find("rope.freqs") is not None else []
    rules.append(Rename("tok_embeddings.weight", "embed.token.weight"))
    rules += rename_rules("layers.{i}.", "layers.{i}.", names)
    pairs_to_halves = [Interleave(f"layers.{{i}}.{name}", facts.head_size).inverse() for name in rotated]
    is_tied = facts.settings.get("model_type") in ("gemma", "gemma2")
    return [*rules, *pairs_to_halves, *head_rules(facts, "output.weight", is_tied=is_tied, is_stored=True)]


META_MLP = {"w1": "gate", "w2": "down", "w3": "up"}


def llama_of_google(facts: ModelFacts) -> list[Rule]:
    """From Google's own files of Gemma in torch: names as in transformers, with queries, keys and values fused."""
    parts = tuple(f"layers.{{i}}.self_attn.{name}_proj.{{w}}" for name in "qkv")
    sizes = (facts.query_size, facts.key_size, facts.key_size)
    rules: list[Rule] = [Drop("freqs_cis")] if facts.find("freqs_cis") is not None else []
    rules += [Rename("embedder.weight", "embed.token.weight"), Rename("model.norm.weight", "norm.weight")]
    rules += [Rename("model.layers.{i}.{rest**}", "layers.{i}.{rest**}")]
    rules.append(Split("layers.{i}.self_attn.qkv_proj.{w}", parts, sizes))
    rules += rename_rules("layers.{i}.", "layers.{i}.", _layer_names(facts))
    return rules + head_rules(facts, "lm_head.weight", is_tied=True, is_stored=False)
