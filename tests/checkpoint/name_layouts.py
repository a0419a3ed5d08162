"""Names and shapes of well-known models as several libraries have them, each tensor with the role that it plays.

A layout is a function that writes rows: a role, which is the same in every layout of a model, a name, and a shape. Rows
stand in the order in which the library registers its parameters. Sizes are small, and many are equal on purpose.
"""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """A tensor: its role, its name, its shape, and whether its axes are those of Flax and TensorFlow."""

    role: str
    name: str
    shape: tuple[int, ...]
    is_turned: bool = False


LEAVES = {
    "torch": ("weight", "bias", "weight", "bias", "running_mean", "running_var"),
    "flax": ("kernel", "bias", "scale", "bias", "mean", "var"),
    "tf": ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance"),
}


class Writer:
    """Collects the rows of a layout in the style of a library."""

    def __init__(self, style: str = "torch", sign: str = ".") -> None:
        self.rows: list[Row] = []
        self.style, self.sign = style, sign
        self.kernel, self.bias, self.scale, self.shift, self.mean, self.var = LEAVES[style]

    def tensor(self, role: str, name: str, *shape: int, turned: bool = False) -> None:
        self.rows.append(Row(role, name.replace(".", self.sign), shape, turned))

    def linear(self, role: str, name: str, out: int, inputs: int, bias: bool = True, turned: bool = False) -> None:
        turned = turned or self.style != "torch"
        shape = (inputs, out) if turned else (out, inputs)
        self.tensor(f"{role}.weight", f"{name}.{self.kernel}", *shape, turned=turned)
        if bias:
            self.tensor(f"{role}.bias", f"{name}.{self.bias}", out)

    def conv(self, role: str, name: str, out: int, inputs: int, *sizes: int, bias: bool = True) -> None:
        turned = self.style != "torch"
        shape = (*sizes, inputs, out) if turned else (out, inputs, *sizes)
        self.tensor(f"{role}.weight", f"{name}.{self.kernel}", *shape, turned=turned)
        if bias:
            self.tensor(f"{role}.bias", f"{name}.{self.bias}", out)

    def norm(self, role: str, name: str, size: int, bias: bool = True) -> None:
        self.tensor(f"{role}.weight", f"{name}.{self.scale}", size)
        if bias:
            self.tensor(f"{role}.bias", f"{name}.{self.shift}", size)

    def batch_norm(self, role: str, name: str, size: int) -> None:
        self.norm(role, name, size)
        self.tensor(f"{role}.mean", f"{name}.{self.mean}", size)
        self.tensor(f"{role}.var", f"{name}.{self.var}", size)
        if self.style == "torch":
            self.tensor(f"{role}.count", f"{name}.num_batches_tracked")

    def embedding(self, role: str, name: str, rows: int, size: int) -> None:
        leaf = {"torch": ".weight", "flax": ".embedding", "tf": ""}[self.style]
        self.tensor(f"{role}.weight", f"{name}{leaf}", rows, size)


# ---- ResNet ----------------------------------------------------------------------------------------------------------

RESNET_WIDTHS = (64, 128, 256, 512)


def resnet_blocks(basic: bool, depth: int):
    """Stage, block, inputs, width, outputs, and whether there is a shortcut, of each block."""
    inputs = 64
    for stage, width in enumerate(RESNET_WIDTHS):
        for block in range(depth):
            outputs = width if basic else 4 * width
            yield stage, block, inputs, width, outputs, block == 0 and (stage > 0 or not basic)
            inputs = outputs


def resnet_convs(basic: bool, inputs: int, width: int, outputs: int):
    return [(width, inputs, 3), (width, width, 3)] if basic else [
        (width, inputs, 1), (width, width, 3), (outputs, width, 1)]  # fmt: skip


def resnet_torchvision(basic=True, depth=2, prefix="", classes=10):
    w = Writer()
    w.conv("stem", f"{prefix}conv1", 64, 3, 7, 7, bias=False)
    w.batch_norm("stem.bn", f"{prefix}bn1", 64)
    for stage, block, inputs, width, outputs, has_shortcut in resnet_blocks(basic, depth):
        name, role = f"{prefix}layer{stage + 1}.{block}", f"{stage}.{block}"
        for n, (o, i, k) in enumerate(resnet_convs(basic, inputs, width, outputs)):
            w.conv(f"{role}.{n}", f"{name}.conv{n + 1}", o, i, k, k, bias=False)
            w.batch_norm(f"{role}.{n}.bn", f"{name}.bn{n + 1}", o)
        if has_shortcut:
            w.conv(f"{role}.short", f"{name}.downsample.0", outputs, inputs, 1, 1, bias=False)
            w.batch_norm(f"{role}.short.bn", f"{name}.downsample.1", outputs)
    if classes:
        w.linear("head", f"{prefix}fc", classes, 512 if basic else 2048)
    return w.rows


def resnet_transformers(basic=True, depth=2, classes=10):
    w = Writer()
    w.conv("stem", "resnet.embedder.embedder.convolution", 64, 3, 7, 7, bias=False)
    w.batch_norm("stem.bn", "resnet.embedder.embedder.normalization", 64)
    for stage, block, inputs, width, outputs, has_shortcut in resnet_blocks(basic, depth):
        name, role = f"resnet.encoder.stages.{stage}.layers.{block}", f"{stage}.{block}"
        if has_shortcut:
            w.conv(f"{role}.short", f"{name}.shortcut.convolution", outputs, inputs, 1, 1, bias=False)
            w.batch_norm(f"{role}.short.bn", f"{name}.shortcut.normalization", outputs)
        for n, (o, i, k) in enumerate(resnet_convs(basic, inputs, width, outputs)):
            w.conv(f"{role}.{n}", f"{name}.layer.{n}.convolution", o, i, k, k, bias=False)
            w.batch_norm(f"{role}.{n}.bn", f"{name}.layer.{n}.normalization", o)
    if classes:
        w.linear("head", "classifier.1", classes, 512 if basic else 2048)
    return w.rows


def resnet_flax(basic=True, depth=2, classes=10):
    w = Writer("flax", "/")
    w.conv("stem", "params.conv_init", 64, 3, 7, 7, bias=False)
    w.rows = _flax_batch_norm(w, "stem.bn", "bn_init", 64)
    kind = "ResNetBlock" if basic else "BottleneckResNetBlock"
    for number, row in enumerate(resnet_blocks(basic, depth)):
        stage, block, inputs, width, outputs, has_shortcut = row
        name, role = f"{kind}_{number}", f"{stage}.{block}"
        for n, (o, i, k) in enumerate(resnet_convs(basic, inputs, width, outputs)):
            w.conv(f"{role}.{n}", f"params.{name}.Conv_{n}", o, i, k, k, bias=False)
            w.rows = _flax_batch_norm(w, f"{role}.{n}.bn", f"{name}.BatchNorm_{n}", o)
        if has_shortcut:
            w.conv(f"{role}.short", f"params.{name}.conv_proj", outputs, inputs, 1, 1, bias=False)
            w.rows = _flax_batch_norm(w, f"{role}.short.bn", f"{name}.norm_proj", outputs)
    w.linear("head", "params.Dense_0", classes, 512 if basic else 2048)
    return w.rows


def _flax_batch_norm(w, role, name, size):
    w.norm(role, f"params.{name}", size)
    w.tensor(f"{role}.mean", f"batch_stats.{name}.mean", size)
    w.tensor(f"{role}.var", f"batch_stats.{name}.var", size)
    return w.rows


# ---- ViT -------------------------------------------------------------------------------------------------------------

D, FF, HEADS = 48, 192, 4


def vit_timm(layers=3, classes=10):
    w = Writer()
    w.tensor("cls", "cls_token", 1, 1, D)
    w.tensor("pos", "pos_embed", 1, 17, D)
    w.conv("patch", "patch_embed.proj", D, 3, 4, 4)
    for i in range(layers):
        w.norm(f"{i}.norm1", f"blocks.{i}.norm1", D)
        w.linear(f"{i}.qkv", f"blocks.{i}.attn.qkv", 3 * D, D)
        w.linear(f"{i}.out", f"blocks.{i}.attn.proj", D, D)
        w.norm(f"{i}.norm2", f"blocks.{i}.norm2", D)
        w.linear(f"{i}.up", f"blocks.{i}.mlp.fc1", FF, D)
        w.linear(f"{i}.down", f"blocks.{i}.mlp.fc2", D, FF)
    w.norm("norm", "norm", D)
    w.linear("head", "head", classes, D)
    return w.rows


def vit_torchvision(layers=3, classes=10):
    w = Writer()
    w.tensor("cls", "class_token", 1, 1, D)
    w.conv("patch", "conv_proj", D, 3, 4, 4)
    w.tensor("pos", "encoder.pos_embedding", 1, 17, D)
    for i in range(layers):
        name = f"encoder.layers.encoder_layer_{i}"
        w.norm(f"{i}.norm1", f"{name}.ln_1", D)
        w.tensor(f"{i}.qkv.weight", f"{name}.self_attention.in_proj_weight", 3 * D, D)
        w.tensor(f"{i}.qkv.bias", f"{name}.self_attention.in_proj_bias", 3 * D)
        w.linear(f"{i}.out", f"{name}.self_attention.out_proj", D, D)
        w.norm(f"{i}.norm2", f"{name}.ln_2", D)
        w.linear(f"{i}.up", f"{name}.mlp.0", FF, D)
        w.linear(f"{i}.down", f"{name}.mlp.3", D, FF)
    w.norm("norm", "encoder.ln", D)
    w.linear("head", "heads.head", classes, D)
    return w.rows


def vit_transformers(layers=3, classes=10):
    w = Writer()
    w.tensor("cls", "vit.embeddings.cls_token", 1, 1, D)
    w.tensor("pos", "vit.embeddings.position_embeddings", 1, 17, D)
    w.conv("patch", "vit.embeddings.patch_embeddings.projection", D, 3, 4, 4)
    for i in range(layers):
        name = f"vit.encoder.layer.{i}"
        for part, word in zip("qkv", ("query", "key", "value"), strict=True):
            w.linear(f"{i}.{part}", f"{name}.attention.attention.{word}", D, D)
        w.linear(f"{i}.out", f"{name}.attention.output.dense", D, D)
        w.linear(f"{i}.up", f"{name}.intermediate.dense", FF, D)
        w.linear(f"{i}.down", f"{name}.output.dense", D, FF)
        w.norm(f"{i}.norm1", f"{name}.layernorm_before", D)
        w.norm(f"{i}.norm2", f"{name}.layernorm_after", D)
    w.norm("norm", "vit.layernorm", D)
    w.linear("head", "classifier", classes, D)
    return w.rows


def vit_jax(layers=3, classes=10):
    """As google-research/vision_transformer writes it, sorted by name."""
    w = Writer("flax", "/")
    t = "Transformer"
    w.tensor("cls", "cls", 1, 1, D)
    w.conv("patch", "embedding", D, 3, 4, 4)
    w.linear("head", "head", classes, D)
    w.norm("norm", f"{t}.encoder_norm", D)
    for i in range(layers):
        b = f"{t}.encoderblock_{i}"
        w.norm(f"{i}.norm1", f"{b}.LayerNorm_0", D)
        w.norm(f"{i}.norm2", f"{b}.LayerNorm_2", D)
        w.linear(f"{i}.up", f"{b}.MlpBlock_3.Dense_0", FF, D)
        w.linear(f"{i}.down", f"{b}.MlpBlock_3.Dense_1", D, FF)
        a = f"{b}.MultiHeadDotProductAttention_1"
        for part, word in (("k", "key"), ("out", "out"), ("q", "query"), ("v", "value")):
            kernel = (HEADS, D // HEADS, D) if part == "out" else (D, HEADS, D // HEADS)
            w.tensor(f"{i}.{part}.weight", f"{a}.{word}.kernel", *kernel, turned=True)
            w.tensor(f"{i}.{part}.bias", f"{a}.{word}.bias", *((D,) if part == "out" else (HEADS, D // HEADS)))
    w.tensor("pos", f"{t}.posembed_input.pos_embedding", 1, 17, D)
    return w.rows


# ---- GPT-2 -----------------------------------------------------------------------------------------------------------

V, P = 97, 20


def gpt2(style: str, layers=3):
    """ "transformers" and "tf" have (in, out) matrices under the name weight or w; "nanogpt" has (out, in)."""
    turned = style != "nanogpt"
    w = Writer()
    top, block, leaf = ("transformer.", "transformer.h.", "weight") if style != "tf" else ("model.", "model.h", "w")

    def linear(role, name, out, inputs):
        shape = (inputs, out) if turned else (out, inputs)
        shape = (1, *shape) if style == "tf" else shape
        w.tensor(f"{role}.weight", f"{name}.{leaf}", *shape, turned=turned)
        w.tensor(f"{role}.bias", f"{name}.{'b' if style == 'tf' else 'bias'}", out)

    def norm(role, name):
        w.tensor(f"{role}.weight", f"{name}.{'g' if style == 'tf' else 'weight'}", D)
        w.tensor(f"{role}.bias", f"{name}.{'b' if style == 'tf' else 'bias'}", D)

    w.tensor("wte", f"{top}wte" + ("" if style == "tf" else ".weight"), V, D)
    w.tensor("wpe", f"{top}wpe" + ("" if style == "tf" else ".weight"), P, D)
    for i in range(layers):
        b = f"{block}{i}"
        norm(f"{i}.norm1", f"{b}.ln_1")
        linear(f"{i}.qkv", f"{b}.attn.c_attn", 3 * D, D)
        linear(f"{i}.out", f"{b}.attn.c_proj", D, D)
        norm(f"{i}.norm2", f"{b}.ln_2")
        linear(f"{i}.up", f"{b}.mlp.c_fc", FF, D)
        linear(f"{i}.down", f"{b}.mlp.c_proj", D, FF)
    norm("norm", f"{top}ln_f")
    return w.rows


# ---- BERT ------------------------------------------------------------------------------------------------------------


def bert(style: str = "torch", layers=3, root="bert", old_norms=False):
    w = Writer(style, "/" if style == "tf" else ".")
    layer = "layer_" if style == "tf" else "layer."
    if old_norms:
        w.scale, w.shift = "gamma", "beta"
    w.embedding("tok", f"{root}.embeddings.word_embeddings", V, D)
    w.embedding("pos", f"{root}.embeddings.position_embeddings", P, D)
    w.embedding("kind", f"{root}.embeddings.token_type_embeddings", 2, D)
    w.norm("norm0", f"{root}.embeddings.LayerNorm", D)
    for i in range(layers):
        b = f"{root}.encoder.{layer}{i}"
        for part, word in zip("qkv", ("query", "key", "value"), strict=True):
            w.linear(f"{i}.{part}", f"{b}.attention.self.{word}", D, D)
        w.linear(f"{i}.out", f"{b}.attention.output.dense", D, D)
        w.norm(f"{i}.norm1", f"{b}.attention.output.LayerNorm", D)
        w.linear(f"{i}.up", f"{b}.intermediate.dense", FF, D)
        w.linear(f"{i}.down", f"{b}.output.dense", D, FF)
        w.norm(f"{i}.norm2", f"{b}.output.LayerNorm", D)
    w.linear("pool", f"{root}.pooler.dense", D, D)
    return w.rows if style == "torch" else sorted(w.rows, key=lambda row: row.name)


def distilbert(layers=3):
    w = Writer()
    w.embedding("tok", "distilbert.embeddings.word_embeddings", V, D)
    w.embedding("pos", "distilbert.embeddings.position_embeddings", P, D)
    w.norm("norm0", "distilbert.embeddings.LayerNorm", D)
    for i in range(layers):
        b = f"distilbert.transformer.layer.{i}"
        for part in "qkv":
            w.linear(f"{i}.{part}", f"{b}.attention.{part}_lin", D, D)
        w.linear(f"{i}.out", f"{b}.attention.out_lin", D, D)
        w.norm(f"{i}.norm1", f"{b}.sa_layer_norm", D)
        w.linear(f"{i}.up", f"{b}.ffn.lin1", FF, D)
        w.linear(f"{i}.down", f"{b}.ffn.lin2", D, FF)
        w.norm(f"{i}.norm2", f"{b}.output_layer_norm", D)
    return w.rows


def bert_torch_encoder(layers=3):
    """torch.nn.TransformerEncoder with the embeddings of a hand-written BERT."""
    w = Writer()
    w.embedding("tok", "tok_emb", V, D)
    w.embedding("pos", "pos_emb", P, D)
    w.embedding("kind", "segment_emb", 2, D)
    w.norm("norm0", "emb_norm", D)
    for i in range(layers):
        b = f"encoder.layers.{i}"
        w.tensor(f"{i}.qkv.weight", f"{b}.self_attn.in_proj_weight", 3 * D, D)
        w.tensor(f"{i}.qkv.bias", f"{b}.self_attn.in_proj_bias", 3 * D)
        w.linear(f"{i}.out", f"{b}.self_attn.out_proj", D, D)
        w.linear(f"{i}.up", f"{b}.linear1", FF, D)
        w.linear(f"{i}.down", f"{b}.linear2", D, FF)
        w.norm(f"{i}.norm1", f"{b}.norm1", D)
        w.norm(f"{i}.norm2", f"{b}.norm2", D)
    w.linear("pool", "pooler", D, D)
    return w.rows


# ---- Llama, Mixtral --------------------------------------------------------------------------------------------------


def llama(style: str, layers=3, kv=D // 2):
    w = Writer("flax" if style == "flax" else "torch", "/" if style == "flax" else ".")
    if style == "meta":
        names = ("tok_embeddings", "layers", "attention", "wq wk wv wo", "attention_norm", "ffn_norm", "norm", "output")
        mlp = {"gate": "feed_forward.w1", "down": "feed_forward.w2", "up": "feed_forward.w3"}
    else:
        top = "params.model." if style == "flax" else "model."
        head = "params.lm_head" if style == "flax" else "lm_head"
        names = (
            *(f"{top}embed_tokens", f"{top}layers", "self_attn", "q_proj k_proj v_proj o_proj", "input_layernorm"),
            *("post_attention_layernorm", f"{top}norm", head),
        )
        mlp = {"gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}
    tok, stack, attn, parts, norm1, norm2, norm, head = names
    w.embedding("tok", tok, V, D)
    for i in range(layers):
        b = f"{stack}.{i}"
        for part, word, size in zip(("q", "k", "v", "out"), parts.split(), (D, kv, kv, D), strict=True):
            w.linear(f"{i}.{part}", f"{b}.{attn}.{word}", size, size if part == "out" else D, bias=False)
        for part, word in mlp.items():
            w.linear(f"{i}.{part}", f"{b}.{word}", *((D, FF) if part == "down" else (FF, D)), bias=False)
        w.norm(f"{i}.norm1", f"{b}.{norm1}", D, bias=False)
        w.norm(f"{i}.norm2", f"{b}.{norm2}", D, bias=False)
    w.norm("norm", norm, D, bias=False)
    w.linear("head", head, V, D, bias=False)
    return w.rows


def phi3(layers=3, kv=D // 2):
    w = Writer()
    w.embedding("tok", "model.embed_tokens", V, D)
    for i in range(layers):
        b = f"model.layers.{i}"
        w.linear(f"{i}.out", f"{b}.self_attn.o_proj", D, D, bias=False)
        w.linear(f"{i}.qkv", f"{b}.self_attn.qkv_proj", D + 2 * kv, D, bias=False)
        w.linear(f"{i}.gate_up", f"{b}.mlp.gate_up_proj", 2 * FF, D, bias=False)
        w.linear(f"{i}.down", f"{b}.mlp.down_proj", D, FF, bias=False)
        w.norm(f"{i}.norm1", f"{b}.input_layernorm", D, bias=False)
        w.norm(f"{i}.norm2", f"{b}.post_attention_layernorm", D, bias=False)
    w.norm("norm", "model.norm", D, bias=False)
    w.linear("head", "lm_head", V, D, bias=False)
    return w.rows


def mixtral(style: str, layers=2, experts=4, kv=D // 2):
    w = Writer()
    is_meta = style == "meta"
    w.embedding("tok", "tok_embeddings" if is_meta else "model.embed_tokens", V, D)
    for i in range(layers):
        b = f"layers.{i}" if is_meta else f"model.layers.{i}"
        words = "wq wk wv wo" if is_meta else "q_proj k_proj v_proj o_proj"
        attn = "attention" if is_meta else "self_attn"
        for part, word, size in zip(("q", "k", "v", "out"), words.split(), (D, kv, kv, D), strict=True):
            w.linear(f"{i}.{part}", f"{b}.{attn}.{word}", size, D, bias=False)
        moe = f"{b}.feed_forward" if is_meta else f"{b}.block_sparse_moe"
        w.linear(f"{i}.router", f"{moe}.gate", experts, D, bias=False)
        for e in range(experts):
            for part, word in (("gate", "w1"), ("down", "w2"), ("up", "w3")):
                w.linear(
                    f"{i}.{e}.{part}", f"{moe}.experts.{e}.{word}", *((D, FF) if word == "w2" else (FF, D)), bias=False
                )
        w.norm(f"{i}.norm1", f"{b}.{'attention_norm' if is_meta else 'input_layernorm'}", D, bias=False)
        w.norm(f"{i}.norm2", f"{b}.{'ffn_norm' if is_meta else 'post_attention_layernorm'}", D, bias=False)
    w.norm("norm", "norm" if is_meta else "model.norm", D, bias=False)
    w.linear("head", "output" if is_meta else "lm_head", V, D, bias=False)
    return w.rows
