"""How similar two names are, by their words, many of which are synonyms."""

from __future__ import annotations

import difflib
import re
from functools import lru_cache

_SYNONYMS = {
    "token": "wte embed_tokens word_embeddings tok_embeddings token_embedding tok token word shared",
    "position": "wpe position_embeddings embed_positions pos_embed position pos",
    "kind": "token_type_embeddings segment_embeddings token_type kind segment",
    "layers": "h layer layers block blocks encoderblock resblocks",
    "attn": "attn attention self_attn self_attention selfattention mha multiheadattention multiheaddotproductattention",
    "qkv": "qkv c_attn in_proj query_key_value wqkv qkv_proj",
    "q": "q query q_proj wq to_q q_lin",
    "k": "k key k_proj wk to_k k_lin",
    "v": "v value v_proj wv to_v v_lin",
    "out": "out o o_proj out_proj wo to_out out_lin",
    "norm1": "norm1 ln_1 ln1 layernorm1 layer_norm1 input_layernorm attention_norm layernorm_before layernorm_0",
    "norm2": "norm2 ln_2 ln2 layernorm2 layer_norm2 post_attention_layernorm ffn_norm layernorm_after layernorm_1",
    "norm": "norm ln ln_f layernorm layer_norm final_layer_norm rmsnorm batchnorm bn",
    "mlp": "mlp ffn feed_forward feedforward ff mlpblock",
    "up": "up c_fc fc1 up_proj w3 intermediate linear1 dense_h_to_4h wi dense_0 lin1",
    "down": "down fc2 down_proj w2 linear2 dense_4h_to_h wo_mlp dense_1 lin2",
    "gate": "gate gate_proj w1",
    "head": "head lm_head output_projection classifier embed_out logits",
    "weight": "weight kernel scale gamma w embedding",
    "bias": "bias beta b",
    "running_mean": "running_mean mean moving_mean",
    "running_var": "running_var var moving_variance",
}
_WORD_OF = {synonym: word for word, synonyms in _SYNONYMS.items() for synonym in synonyms.split()}


@lru_cache(1 << 14)
def split_words(name: str) -> tuple[str, ...]:
    """The keys of a name, each as the word that stands for all its synonyms; holes and numbers are left out.

    >>> split_words("transformer.h.{i}.attn.c_attn.weight")
    ('transformer', 'layers', 'attn', 'qkv', 'weight')
    """
    keys = re.sub(r"[_]?\{\w+\}", "", name).replace("/", ".").lower().split(".")
    return tuple(_WORD_OF.get(key, key) for key in keys if key and not key.isdecimal())


def name_similarity(left: str, right: str) -> float:
    """How similar two names are, from 0 to 1.

    >>> similarity_to = lambda name: name_similarity(name, "layers.{i}.norm1.bias")
    >>> similarity_to("h.{i}.ln_1.bias") > similarity_to("h.{i}.ln_2.bias")
    True
    """
    return _word_similarity(split_words(left), split_words(right))


@lru_cache(1 << 16)
def _word_similarity(left: tuple[str, ...], right: tuple[str, ...]) -> float:
    shared = len(set(left) & set(right)) / (len(set(left) | set(right)) or 1)
    same_last = bool(left and right and left[-1] == right[-1])
    return 0.65 * shared + 0.15 * same_last + 0.2 * difflib.SequenceMatcher(None, left, right).ratio()
