"""The roles that modules play in a network, as far as their names say: queries, norms before an MLP, embeddings."""

from __future__ import annotations

import re
from functools import lru_cache

from funcnet.checkpoint._matching._words import read_path

_ATTENTION = re.compile(r"att(n|ention)|mha|^sa$|^self$")
_CROSS = re.compile(r"cross|encoder_attn|enc_dec|encdec|encoder_decoder|multihead_attn|attn2|src_attn|inter_att")
_NORM = re.compile(r"norm|^ln|(^|_)ln$|(^|_)ln_|layrnorm|^bn\d*$|_bn$|layer_scale_norm")
_ATTENTION_PARTS = {
    "q": "q query q_proj wq to_q q_lin query_proj q_linear linear_q in_proj_q",
    "k": "k key k_proj wk to_k k_lin key_proj k_linear linear_k in_proj_k",
    "v": "v value v_proj wv to_v v_lin value_proj v_linear linear_v in_proj_v",
    "qkv": "qkv c_attn in_proj query_key_value wqkv qkv_proj w_qkv to_qkv attn_qkv qkv_linear",
    "kv": "kv kv_proj to_kv wkv key_value",
}
_PART_OF = {key: part for part, keys in _ATTENTION_PARTS.items() for key in keys.split()}
_OUT_KEYS = frozenset(
    [
        "o",
        "o_proj",
        "out_proj",
        "wo",
        "out_lin",
        "to_out",
        "out",
        "proj",
        "dense",
        "c_proj",
        "output",
        "linear_out",
        "proj_out",
    ]
)
_MLP_PARTS = {
    "gate": "gate_proj w1 wi_0 gate_linear",
    "up": "c_fc fc1 up_proj w3 linear1 dense_h_to_4h wi wi_1 lin1 fc_in intermediate_dense dense_0 w_1 pwconv1",
    "down": "fc2 down_proj w2 linear2 dense_4h_to_h wo lin2 fc_out output_dense dense_1 w_2 pwconv2 c_proj",
    "gate_up": "gate_up_proj w13 gate_up wi_fused",
}
_MLP_PART_OF = {key: part for part, keys in _MLP_PARTS.items() for key in keys.split()}
_NORMS_IN_BLOCKS = {
    "attention": (
        r"(self_attn|sa|attn|self_attention|attention)_(layer_?norm|ln|norm)|input_layer_?norm|layer_?norm_?before"
        r"|pre_(self_)?attention_(layer_?)?norm|(ln|norm|layer_?norm|layernorm)(_?1|_0)"
    ),
    "cross": (
        r"(encoder_attn|cross_attn|crossattention|cross_attention|encoder_attention|encoder_decoder_attention)"
        r"_(layer_?norm|ln|norm)|pre_cross_attention_(layer_?)?norm"
    ),
    "mlp": (
        r"post_attention_layer_?norm|layer_?norm_?after|final_layer_?norm|(mlp|ffn|ff|output|feed_forward)"
        r"_(layer_?norm|ln|norm)|pre_(mlp|feedforward|ff)_(layer_?)?norm|(ln|norm|layer_?norm)(_?2)"
    ),
}
_NORM_PATTERNS = {part: re.compile(pattern) for part, pattern in _NORMS_IN_BLOCKS.items()}
_WHOLE_PATHS = (
    (
        "norm.embedding",
        r"embed\w*\.(layer_?norm|norm|ln|batch_?norm|bn)$|emb\w*_(ln|layer_?norm|norm)|layer_?norm_embedding",
    ),
    ("norm.before", r"(ln|norm)_pre$|pre_lay(e)?r_?norm$"),
    ("pooler", r"pooler"),
    ("embedding.kind", r"embed\w*\.(kind|type|segment)$|token_type_embed|segment_embed|token_type_emb"),
    ("embedding.query", r"query_(embed|position_embed)"),
    ("embedding.class", r"(cls|class)_(token|embedding)$|(^|\.)cls$"),
    ("embedding.mask", r"mask(ed)?_(token|spec_embed|emb)"),
    ("embedding.distillation", r"dist(illation)?_token"),
    ("bias.relative", r"relative_(attention_bias|position_bias|position_bias_table)|relpos_bias|rel_embedding"),
    ("position.index", r"relative_position_index"),
    ("embedding.position", r"embed\w*\.(position|pos)s?$|(^|[._])wpe$|pos(ition)?(al)?_?emb|embed_positions|posembed"),
    ("embedding.patch", r"patch_embed|conv_proj$|patch_embedding"),
    (
        "embedding.token",
        r"embed\w*\.(token|word|tok)s?$|(^|[._])wte$|embed_tokens|word_emb|tok(en)?_emb|embed_in$|^shared$|\.shared$|token_embed",
    ),
    ("scale", r"logit_scale"),
)
_WHOLE_PATH_PATTERNS = tuple((role, re.compile(pattern)) for role, pattern in _WHOLE_PATHS)
_FINAL_NORM = re.compile(
    r"^(ln_f|final_layer_?norm|final_norm|norm|layer_?norm|encoder_norm|decoder_norm|ln_final|ln_post|post_layer_?norm|ln"
    r"|norm_f|fc_norm|ln_out|layernorm_final)$"
)
_HEAD = re.compile(
    r"^(lm_head|head|classifier|fc|embed_out|output|proj_out|logits_dense|output_projection|class_embed|predictions"
    r"|class_labels_classifier|logits|score|predictions_decoder|vocab_projector)$"
)
TABLES = frozenset({"embedding.token", "embedding.position", "embedding.kind", "embedding.query"})
"""Roles of tables of rows, which no framework transposes."""


@lru_cache(1 << 16)
def find_role(path: str) -> str | None:
    """The role of a module; None where its name does not say it.

    >>> find_role("transformer.h.3.attn.c_attn"), find_role("bert.encoder.layer.0.output.dense"), find_role("fc7")
    ('attention.qkv', 'mlp.down', None)
    """
    keys = read_path(path).keys
    named = [key for key in keys if key != "#"]
    if not named:
        return None
    text, last = ".".join(keys), named[-1]
    in_block = "#" in keys[:-1]
    is_attention = any(_ATTENTION.search(key) for key in named)
    attention = "cross" if any(_CROSS.search(key) for key in named) else "attention"
    if last in ("q_norm", "k_norm", "q_layernorm", "k_layernorm", "query_norm", "key_norm", "q_ln", "k_ln"):
        return f"{attention}.{last[0]}.norm"
    for role, pattern in _WHOLE_PATH_PATTERNS:
        if pattern.search(text) and not (role == "embedding.position" and _NORM.search(last)):
            return role
    if _NORM.search(last):
        return _find_norm_role(text, last, in_block, is_attention, attention)
    if last in _PART_OF and (is_attention or in_block):
        return f"{attention}.{_PART_OF[last]}"
    if is_attention and last in _OUT_KEYS:
        return f"{attention}.out"
    if in_block:
        return _find_mlp_role(text, named, keys, path)
    return "head" if _HEAD.search(last) or text.endswith(("predictions.decoder", "heads.head", "head.fc")) else None


def _find_norm_role(text: str, last: str, in_block: bool, is_attention: bool, attention: str) -> str | None:
    if not in_block:
        return "norm.final" if _FINAL_NORM.search(last) else None
    for part in ("cross", "mlp", "attention"):
        if _NORM_PATTERNS[part].fullmatch(last):
            return f"{part}.norm"
    if text.endswith("output.layer_norm"):
        return f"{attention}.norm" if is_attention else "mlp.norm"
    return f"{attention}.norm" if is_attention else None


def _find_mlp_role(text: str, named: list[str], keys: tuple[str, ...], path: str) -> str | None:
    last = named[-1]
    if last in ("gate", "router") and not re.search(r"gate_proj", text):
        return "router"
    if last in _MLP_PART_OF:
        return f"mlp.{_MLP_PART_OF[last]}"
    if text.endswith("intermediate.dense"):
        return "mlp.up"
    if text.endswith("output.dense"):
        return "mlp.down"
    if re.search(r"(mlp|ffn|ff|feed_forward|net)\.#(\.proj)?$", text):
        return "mlp.up" if read_path(path).numbers[-1] < 2 else "mlp.down"
    return None


def find_attention_part(key: str) -> str | None:
    """Which part of an attention a key names: "q", "k", "v", "qkv", "kv", "out"; None for others."""
    return "out" if key in _OUT_KEYS else _PART_OF.get(key)
