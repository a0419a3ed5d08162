"""Encoders and models of images and sound as their authors wrote them, over the names of their files: minimal."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tests.checkpoint.reference_decoders import linear


def kernel(w, name, x):
    """An affine map of TensorFlow or Flax, (in, out)."""
    y = x @ w[f"{name}.kernel"]
    return y + w[f"{name}.bias"] if f"{name}.bias" in w else y


def attend_heads(q, k, v, heads, scale=None, is_causal=False):
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    y = F.scaled_dot_product_attention(q, k, v, is_causal=is_causal, scale=scale)
    return y.transpose(1, 2).flatten(2)


def google_bert(w, c, tokens):
    """Logits of masked words, over the names that TensorFlow wrote (with dots)."""

    def norm(name, x):
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.gamma"], w[f"{name}.beta"], 1e-12)

    p = "bert.embeddings."
    x = w[f"{p}word_embeddings"][tokens] + w[f"{p}token_type_embeddings"][0]
    x = norm(f"{p}LayerNorm", x + w[f"{p}position_embeddings"][: tokens.shape[1]])
    for i in range(c.num_hidden_layers):
        p = f"bert.encoder.layer_{i}."
        q, k, v = (kernel(w, f"{p}attention.self.{n}", x) for n in ("query", "key", "value"))
        h = kernel(w, f"{p}attention.output.dense", attend_heads(q, k, v, c.num_attention_heads))
        x = norm(f"{p}attention.output.LayerNorm", x + h)
        h = kernel(w, f"{p}output.dense", F.gelu(kernel(w, f"{p}intermediate.dense", x)))
        x = norm(f"{p}output.LayerNorm", x + h)
    p = "cls.predictions."
    x = norm(f"{p}transform.LayerNorm", F.gelu(kernel(w, f"{p}transform.dense", x)))
    return x @ w["bert.embeddings.word_embeddings"].T + w[f"{p}output_bias"]


def t5x(w, c, tokens, target_tokens, bucket_of):
    """Logits over the names of T5X (with dots)."""

    def norm(name, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + c.layer_norm_epsilon) * w[f"{name}.scale"]

    def attend(p, x, memory, bias):
        q, k, v = kernel(w, f"{p}query", x), kernel(w, f"{p}key", memory), kernel(w, f"{p}value", memory)
        q, k, v = (y.unflatten(-1, (c.num_heads, -1)) for y in (q, k, v))
        weights = (torch.einsum("nqhe,nkhe->nhqk", q, k) + bias).softmax(-1)
        return kernel(w, f"{p}out", torch.einsum("nhqk,nkhe->nqhe", weights, v).flatten(2))

    def mlp(p, x):
        if f"{p}wi.kernel" in w:
            return kernel(w, f"{p}wo", kernel(w, f"{p}wi", x).relu())
        return kernel(w, f"{p}wo", F.gelu(kernel(w, f"{p}wi_0", x), approximate="tanh") * kernel(w, f"{p}wi_1", x))

    def position_bias(side, length, is_causal):
        steps = torch.arange(length)[None] - torch.arange(length)[:, None]
        buckets = bucket_of(steps, not is_causal, c.relative_attention_num_buckets, c.relative_attention_max_distance)
        bias = w[f"{side}.relpos_bias.rel_embedding"][:, buckets]
        return bias.masked_fill(steps > 0, -torch.inf) if is_causal else bias

    x = w["token_embedder.embedding"][tokens]
    bias = position_bias("encoder", tokens.shape[1], False)
    for i in range(c.num_layers):
        p = f"encoder.layers_{i}."
        h = norm(f"{p}pre_attention_layer_norm", x)
        x = x + attend(f"{p}attention.", h, h, bias)
        x = x + mlp(f"{p}mlp.", norm(f"{p}pre_mlp_layer_norm", x))
    memory = norm("encoder.encoder_norm", x)
    x = w["token_embedder.embedding"][target_tokens]
    bias = position_bias("decoder", target_tokens.shape[1], True)
    for i in range(c.num_decoder_layers):
        p = f"decoder.layers_{i}."
        h = norm(f"{p}pre_self_attention_layer_norm", x)
        x = x + attend(f"{p}self_attention.", h, h, bias)
        x = x + attend(f"{p}encoder_decoder_attention.", norm(f"{p}pre_cross_attention_layer_norm", x), memory, 0.0)
        x = x + mlp(f"{p}mlp.", norm(f"{p}pre_mlp_layer_norm", x))
    x = norm("decoder.decoder_norm", x)
    if "decoder.logits_dense.kernel" in w:
        return kernel(w, "decoder.logits_dense", x)
    return (x * c.d_model**-0.5) @ w["token_embedder.embedding"].T


def vit_block(w, c, x, names):
    """A layer with norms before, over the names of a library."""

    def norm(name, x):
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], c.layer_norm_eps)

    h = norm(names["norm1"], x)
    q, k, v = F.linear(h, w[names["qkv_weight"]], w[names["qkv_bias"]]).chunk(3, -1)
    x = x + linear(w, names["proj"], attend_heads(q, k, v, c.num_attention_heads))
    return x + linear(w, names["fc2"], F.gelu(linear(w, names["fc1"], norm(names["norm2"], x))))


def timm_vit(w, c, images):
    x = F.conv2d(images, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], c.patch_size).flatten(2).mT
    x = torch.cat([w["cls_token"].expand(len(x), -1, -1), x], 1) + w["pos_embed"]
    for i in range(c.num_hidden_layers):
        p = f"blocks.{i}."
        names = {"qkv_weight": f"{p}attn.qkv.weight", "qkv_bias": f"{p}attn.qkv.bias", "proj": f"{p}attn.proj"}
        names |= {name: p + name for name in ("norm1", "norm2")} | {name: f"{p}mlp.{name}" for name in ("fc1", "fc2")}
        x = vit_block(w, c, x, names)
    x = F.layer_norm(x, x.shape[-1:], w["norm.weight"], w["norm.bias"], c.layer_norm_eps)
    return linear(w, "head", x[:, 0])


def torchvision_vit(w, c, images):
    x = F.conv2d(images, w["conv_proj.weight"], w["conv_proj.bias"], c.patch_size).flatten(2).mT
    x = torch.cat([w["class_token"].expand(len(x), -1, -1), x], 1) + w["encoder.pos_embedding"]
    for i in range(c.num_hidden_layers):
        p = f"encoder.layers.encoder_layer_{i}."
        a = f"{p}self_attention."
        names = {"qkv_weight": f"{a}in_proj_weight", "qkv_bias": f"{a}in_proj_bias", "proj": f"{a}out_proj"}
        names |= {"norm1": f"{p}ln_1", "norm2": f"{p}ln_2", "fc1": f"{p}mlp.0", "fc2": f"{p}mlp.3"}
        x = vit_block(w, c, x, names)
    x = F.layer_norm(x, x.shape[-1:], w["encoder.ln.weight"], w["encoder.ln.bias"], c.layer_norm_eps)
    return linear(w, "heads.head", x[:, 0])


def torchvision_resnet(w, c, images):
    def conv(conv_name, norm_name, x, stride=1):
        weight = w[f"{conv_name}.weight"]
        x = F.conv2d(x, weight, None, stride, weight.shape[-1] // 2)
        stats = (w[f"{norm_name}.running_mean"], w[f"{norm_name}.running_var"])
        return F.batch_norm(x, *stats, w[f"{norm_name}.weight"], w[f"{norm_name}.bias"])

    x = F.max_pool2d(conv("conv1", "bn1", images, 2).relu(), 3, 2, 1)
    is_basic = c.layer_type == "basic"
    for stage, depth in enumerate(c.depths, 1):
        for block in range(depth):
            p = f"layer{stage}.{block}."
            stride = 2 if stage > 1 and block == 0 else 1
            strides = [stride, 1] if is_basic else [1, stride, 1]
            h = x
            for number, step in enumerate(strides, 1):
                h = conv(f"{p}conv{number}", f"{p}bn{number}", h, step)
                h = h.relu() if number < len(strides) else h
            if f"{p}downsample.0.weight" in w:
                x = conv(f"{p}downsample.0", f"{p}downsample.1", x, stride)
            x = (h + x).relu()
    return linear(w, "fc", x.mean((2, 3)))


def openai_clip(w, c, tokens, images):
    """Logits of images and texts."""

    def norm(name, x):
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])

    def blocks(prefix, x, heads, is_causal):
        for i in range(1):
            p = f"{prefix}transformer.resblocks.{i}."
            h = F.linear(norm(f"{p}ln_1", x), w[f"{p}attn.in_proj_weight"], w[f"{p}attn.in_proj_bias"])
            x = x + linear(w, f"{p}attn.out_proj", attend_heads(*h.chunk(3, -1), heads, is_causal=is_causal))
            h = linear(w, f"{p}mlp.c_fc", norm(f"{p}ln_2", x))
            x = x + linear(w, f"{p}mlp.c_proj", h * torch.sigmoid(1.702 * h))
        return x

    x = F.conv2d(images, w["visual.conv1.weight"], None, c.vision_config.patch_size).flatten(2).mT
    x = torch.cat([w["visual.class_embedding"].expand(len(x), 1, -1), x], 1) + w["visual.positional_embedding"]
    x = blocks("visual.", norm("visual.ln_pre", x), c.vision_config.num_attention_heads, False)
    image = norm("visual.ln_post", x[:, 0]) @ w["visual.proj"]
    x = w["token_embedding.weight"][tokens] + w["positional_embedding"][: tokens.shape[1]]
    x = norm("ln_final", blocks("", x, c.text_config.num_attention_heads, True))
    text = x[torch.arange(len(x)), tokens.argmax(-1)] @ w["text_projection"]
    image, text = (y / y.norm(dim=-1, keepdim=True) for y in (image, text))
    return w["logit_scale"].exp() * image @ text.T


def openai_whisper(w, c, sound, tokens):
    """Logits of tokens."""

    def norm(name, x):
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])

    def attention(p, x, memory, is_causal):
        q, k, v = linear(w, f"{p}.query", x), linear(w, f"{p}.key", memory), linear(w, f"{p}.value", memory)
        return linear(w, f"{p}.out", attend_heads(q, k, v, c.encoder_attention_heads, is_causal=is_causal))

    x = F.gelu(F.conv1d(sound, w["encoder.conv1.weight"], w["encoder.conv1.bias"], padding=1))
    x = F.gelu(F.conv1d(x, w["encoder.conv2.weight"], w["encoder.conv2.bias"], 2, 1)).mT
    x = x + w["encoder.positional_embedding"]
    for side, count in (("encoder", c.encoder_layers), ("decoder", c.decoder_layers)):
        if side == "decoder":
            memory = norm("encoder.ln_post", x)
            x = w["decoder.token_embedding.weight"][tokens] + w["decoder.positional_embedding"][: tokens.shape[1]]
        for i in range(count):
            p = f"{side}.blocks.{i}."
            h = norm(f"{p}attn_ln", x)
            x = x + attention(f"{p}attn", h, h, side == "decoder")
            if side == "decoder":
                x = x + attention(f"{p}cross_attn", norm(f"{p}cross_attn_ln", x), memory, False)
            x = x + linear(w, f"{p}mlp.2", F.gelu(linear(w, f"{p}mlp.0", norm(f"{p}mlp_ln", x))))
    return norm("decoder.ln", x) @ w["decoder.token_embedding.weight"].T
