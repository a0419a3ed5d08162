"""Decoders as their authors wrote them, over the names of their files: minimal, in the words of this project."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def rms_norm(x, weight, eps, is_gemma):
    x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    return x * (1 + weight) if is_gemma else x * weight


def rotate_pairs(x, theta):
    """Rotary embedding of neighbouring pairs, by complex numbers; x is (N, L, H, E)."""
    length, size = x.shape[1], x.shape[-1]
    frequencies = 1.0 / theta ** (torch.arange(0, size, 2, dtype=x.dtype) / size)
    angles = torch.outer(torch.arange(length, dtype=x.dtype), frequencies)
    turns = torch.polar(torch.ones_like(angles), angles)
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2).contiguous())
    return torch.view_as_real(pairs * turns[:, None]).flatten(-2)


def attend(q, k, v, scale, softcap=None):
    """Causal attention over (N, L, H, E), in which several heads of queries share one of keys and values."""
    groups = q.shape[2] // k.shape[2]
    k, v = (x.repeat_interleave(groups, 2) for x in (k, v))
    scores = torch.einsum("nqhe,nkhe->nhqk", q, k) * scale
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
    return torch.einsum("nhqk,nkhe->nqhe", weights, v).flatten(2)


def linear(w, name, x):
    return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))


def run_experts(w, prefix, x, c):
    """The experts of Mixtral and of Qwen, one tensor for each."""
    flat = x.flatten(0, 1)
    probabilities = F.linear(flat, w[f"{prefix}gate.weight"]).softmax(-1)
    weights, chosen = probabilities.topk(c.num_experts_per_tok, -1)
    if c.model_type == "mixtral" or c.norm_topk_prob:
        weights = weights / weights.sum(-1, keepdim=True)
    result = torch.zeros_like(flat)
    for expert in range(probabilities.shape[-1]):
        share = (weights * (chosen == expert)).sum(-1, keepdim=True)
        p = f"{prefix}experts.{expert}."
        result += share * linear(w, f"{p}w2", F.silu(linear(w, f"{p}w1", flat)) * linear(w, f"{p}w3", flat))
    if f"{prefix}shared_expert.w1.weight" in w:
        p = f"{prefix}shared_expert."
        shared = linear(w, f"{p}w2", F.silu(linear(w, f"{p}w1", flat)) * linear(w, f"{p}w3", flat))
        result += torch.sigmoid(F.linear(flat, w[f"{prefix}shared_expert_gate.weight"])) * shared
    return result.view_as(x)


def meta_decoder(w, c, tokens):
    """Logits from weights with the names of Meta's files; ``c`` is a config of transformers."""
    is_gemma = c.model_type == "gemma2"
    heads, key_heads, size = c.num_attention_heads, c.num_key_value_heads, c.hidden_size
    width = getattr(c, "head_dim", None) or size // heads
    eps, theta = c.rms_norm_eps, c.rope_parameters["rope_theta"]
    scale = c.query_pre_attn_scalar**-0.5 if is_gemma else width**-0.5
    x = F.embedding(tokens, w["tok_embeddings.weight"])
    x = x * size**0.5 if is_gemma else x
    for i in range(c.num_hidden_layers):
        p = f"layers.{i}."
        h = rms_norm(x, w[f"{p}attention_norm.weight"], eps, is_gemma)
        q, k, v = (linear(w, f"{p}attention.w{n}", h).unflatten(-1, (-1, width)) for n in "qkv")
        assert q.shape[2] == heads and k.shape[2] == key_heads
        if f"{p}attention.q_norm.weight" in w:
            q, k = (rms_norm(y, w[f"{p}attention.{n}_norm.weight"], eps, False) for n, y in (("q", q), ("k", k)))
        softcap = c.attn_logit_softcapping if is_gemma else None
        h = linear(w, f"{p}attention.wo", attend(rotate_pairs(q, theta), rotate_pairs(k, theta), v, scale, softcap))
        if is_gemma:
            h = rms_norm(h, w[f"{p}post_attention_norm.weight"], eps, True)
        x = x + h
        h = rms_norm(x, w[f"{p}ffn_norm.weight"], eps, is_gemma)
        f = f"{p}feed_forward."
        if f"{f}w1.weight" in w:
            gate = linear(w, f"{f}w1", h)
            gate = F.gelu(gate, approximate="tanh") if is_gemma else F.silu(gate)
            h = linear(w, f"{f}w2", gate * linear(w, f"{f}w3", h))
        else:
            h = run_experts(w, f, h, c)
        if is_gemma:
            h = rms_norm(h, w[f"{p}post_ffn_norm.weight"], eps, True)
        x = x + h
    x = rms_norm(x, w["norm.weight"], eps, is_gemma)
    logits = F.linear(x, w["output.weight"])
    return 30.0 * torch.tanh(logits / 30.0) if is_gemma else logits


def nanogpt(w, c, tokens):
    """Logits from weights with the names of nanoGPT."""
    x = w["transformer.wte.weight"][tokens] + w["transformer.wpe.weight"][: tokens.shape[1]]
    size = x.shape[-1]
    for i in range(c.n_layer):
        p = f"transformer.h.{i}."
        h = F.layer_norm(x, (size,), w[f"{p}ln_1.weight"], w[f"{p}ln_1.bias"])
        q, k, v = linear(w, f"{p}attn.c_attn", h).split(size, -1)
        q, k, v = (y.unflatten(-1, (c.n_head, -1)).transpose(1, 2) for y in (q, k, v))
        h = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + linear(w, f"{p}attn.c_proj", h)
        h = F.layer_norm(x, (size,), w[f"{p}ln_2.weight"], w[f"{p}ln_2.bias"])
        x = x + linear(w, f"{p}mlp.c_proj", F.gelu(linear(w, f"{p}mlp.c_fc", h)))
    x = F.layer_norm(x, (size,), w["transformer.ln_f.weight"], w["transformer.ln_f.bias"])
    return linear(w, "lm_head", x)
