"""More names and shapes: models with an encoder and a decoder, of speech and pictures, and convolutions."""

from __future__ import annotations

from tests.checkpoint.name_layouts import FF, HEADS, D, P, Row, V, Writer, resnet_torchvision

# ---- T5 --------------------------------------------------------------------------------------------------------------


def t5(style: str = "torch", layers=2):
    """As transformers has it, in torch and in Flax."""
    w = Writer(style, "/" if style == "flax" else ".")
    w.embedding("tok", "shared", V, D)
    for stack in ("encoder", "decoder"):
        for i in range(layers):
            b = f"{stack}.block.{i}.layer"
            kinds = ["SelfAttention"] + ["EncDecAttention"] * (stack == "decoder")
            for n, kind in enumerate(kinds):
                for part in ("q", "k", "v", "o"):
                    w.linear(f"{stack}.{i}.{kind}.{part}", f"{b}.{n}.{kind}.{part}", D, D, bias=False)
                if n == i == 0:
                    w.embedding(f"{stack}.rel", f"{b}.0.SelfAttention.relative_attention_bias", 32, HEADS)
                w.norm(f"{stack}.{i}.norm{n}", f"{b}.{n}.layer_norm", D, bias=False)
            last = len(kinds)
            w.linear(f"{stack}.{i}.up", f"{b}.{last}.DenseReluDense.wi", FF, D, bias=False)
            w.linear(f"{stack}.{i}.down", f"{b}.{last}.DenseReluDense.wo", D, FF, bias=False)
            w.norm(f"{stack}.{i}.normff", f"{b}.{last}.layer_norm", D, bias=False)
        w.norm(f"{stack}.norm", f"{stack}.final_layer_norm", D, bias=False)
    return w.rows


def t5x(layers=2):
    """As T5X has it, sorted by name."""
    w = Writer("flax", "/")
    t = "target"
    w.embedding("tok", f"{t}.token_embedder", V, D)
    for stack in ("encoder", "decoder"):
        w.tensor(f"{stack}.rel.weight", f"{t}.{stack}.relpos_bias.rel_embedding", HEADS, 32, turned=True)
        w.norm(f"{stack}.norm", f"{t}.{stack}.{stack}_norm", D, bias=False)
        for i in range(layers):
            b = f"{t}.{stack}.layers_{i}"
            names = {"SelfAttention": "attention" if stack == "encoder" else "self_attention"}
            if stack == "decoder":
                names["EncDecAttention"] = "encoder_decoder_attention"
            for n, (kind, word) in enumerate(names.items()):
                for part, key in (("q", "query"), ("k", "key"), ("v", "value"), ("o", "out")):
                    w.linear(f"{stack}.{i}.{kind}.{part}", f"{b}.{word}.{key}", D, D, bias=False)
                before = {"attention": "attention", "self_attention": "self_attention"}.get(word, "cross_attention")
                w.norm(f"{stack}.{i}.norm{n}", f"{b}.pre_{before}_layer_norm", D, bias=False)
            w.linear(f"{stack}.{i}.up", f"{b}.mlp.wi", FF, D, bias=False)
            w.linear(f"{stack}.{i}.down", f"{b}.mlp.wo", D, FF, bias=False)
            w.norm(f"{stack}.{i}.normff", f"{b}.pre_mlp_layer_norm", D, bias=False)
    return sorted(w.rows, key=lambda row: row.name)


# ---- CLIP ------------------------------------------------------------------------------------------------------------

TEXT, E = 40, 24


def _openai_block(w, role, b, size):
    w.tensor(f"{role}.qkv.weight", f"{b}.attn.in_proj_weight", 3 * size, size)
    w.tensor(f"{role}.qkv.bias", f"{b}.attn.in_proj_bias", 3 * size)
    w.linear(f"{role}.out", f"{b}.attn.out_proj", size, size)
    w.norm(f"{role}.norm1", f"{b}.ln_1", size)
    w.linear(f"{role}.up", f"{b}.mlp.c_fc", 4 * size, size)
    w.linear(f"{role}.down", f"{b}.mlp.c_proj", size, 4 * size)
    w.norm(f"{role}.norm2", f"{b}.ln_2", size)


def clip_openai(layers=2, text=TEXT):
    w = Writer()
    w.tensor("text.pos", "positional_embedding", P, text)
    w.tensor("text.proj", "text_projection", text, E, turned=True)
    w.tensor("logit_scale", "logit_scale")
    w.tensor("vision.cls", "visual.class_embedding", D)
    w.tensor("vision.pos", "visual.positional_embedding", 17, D)
    w.tensor("vision.proj", "visual.proj", D, E, turned=True)
    w.conv("vision.patch", "visual.conv1", D, 3, 4, 4, bias=False)
    w.norm("vision.pre", "visual.ln_pre", D)
    for i in range(layers):
        _openai_block(w, f"vision.{i}", f"visual.transformer.resblocks.{i}", D)
    w.norm("vision.norm", "visual.ln_post", D)
    for i in range(layers):
        _openai_block(w, f"text.{i}", f"transformer.resblocks.{i}", text)
    w.embedding("text.tok", "token_embedding", V, text)
    w.norm("text.norm", "ln_final", text)
    return w.rows


def clip_transformers(layers=2, text=TEXT):
    w = Writer()
    w.tensor("logit_scale", "logit_scale")

    def block(role, b, size):
        for part in ("k", "v", "q"):
            w.linear(f"{role}.{part}", f"{b}.self_attn.{part}_proj", size, size)
        w.linear(f"{role}.out", f"{b}.self_attn.out_proj", size, size)
        w.norm(f"{role}.norm1", f"{b}.layer_norm1", size)
        w.linear(f"{role}.up", f"{b}.mlp.fc1", 4 * size, size)
        w.linear(f"{role}.down", f"{b}.mlp.fc2", size, 4 * size)
        w.norm(f"{role}.norm2", f"{b}.layer_norm2", size)

    w.tensor("text.tok.weight", "text_model.embeddings.token_embedding.weight", V, text)
    w.tensor("text.pos", "text_model.embeddings.position_embedding.weight", P, text)
    for i in range(layers):
        block(f"text.{i}", f"text_model.encoder.layers.{i}", text)
    w.norm("text.norm", "text_model.final_layer_norm", text)
    w.tensor("vision.cls", "vision_model.embeddings.class_embedding", D)
    w.conv("vision.patch", "vision_model.embeddings.patch_embedding", D, 3, 4, 4, bias=False)
    w.tensor("vision.pos", "vision_model.embeddings.position_embedding.weight", 17, D)
    w.norm("vision.pre", "vision_model.pre_layrnorm", D)
    for i in range(layers):
        block(f"vision.{i}", f"vision_model.encoder.layers.{i}", D)
    w.norm("vision.norm", "vision_model.post_layernorm", D)
    w.tensor("vision.proj", "visual_projection.weight", E, D)
    w.tensor("text.proj", "text_projection.weight", E, text)
    return w.rows


# ---- Whisper ---------------------------------------------------------------------------------------------------------


def whisper(style: str, layers=2):
    """As OpenAI or transformers has it. Keys have no bias."""
    w = Writer()
    is_openai = style == "openai"
    for stack in ("encoder", "decoder"):
        top = stack if is_openai else f"model.{stack}"
        if stack == "encoder":
            if is_openai:
                w.tensor("enc.pos", "encoder.positional_embedding", 2 * P, D)
            w.conv("enc.conv1", f"{top}.conv1", D, 8, 3)
            w.conv("enc.conv2", f"{top}.conv2", D, D, 3)
            if not is_openai:
                w.tensor("enc.pos", "model.encoder.embed_positions.weight", 2 * P, D)
        elif is_openai:
            w.tensor("dec.pos", "decoder.positional_embedding", P, D)
            w.tensor("dec.tok", "decoder.token_embedding.weight", V, D)
        else:
            w.tensor("dec.tok", "model.decoder.embed_tokens.weight", V, D)
            w.tensor("dec.pos", "model.decoder.embed_positions.weight", P, D)
        for i in range(layers):
            b = f"{top}.{'blocks' if is_openai else 'layers'}.{i}"
            attns = [("self", "attn" if is_openai else "self_attn", "attn_ln" if is_openai else "self_attn_layer_norm")]
            if stack == "decoder":
                attns.append(
                    ("cross", "cross_attn", "cross_attn_ln") if is_openai
                    else ("cross", "encoder_attn", "encoder_attn_layer_norm")
                )  # fmt: skip
            for kind, attn, norm in attns:
                role = f"{stack}.{i}.{kind}"
                words = {"k": "k_proj", "v": "v_proj", "q": "q_proj", "out": "out_proj"}
                if is_openai:
                    words = {"q": "query", "k": "key", "v": "value", "out": "out"}
                for part, word in words.items():
                    w.linear(f"{role}.{part}", f"{b}.{attn}.{word}", D, D, bias=part != "k")
                w.norm(f"{role}.norm", f"{b}.{norm}", D)
            w.linear(f"{stack}.{i}.up", f"{b}.{'mlp.0' if is_openai else 'fc1'}", FF, D)
            w.linear(f"{stack}.{i}.down", f"{b}.{'mlp.2' if is_openai else 'fc2'}", D, FF)
            w.norm(f"{stack}.{i}.norm", f"{b}.{'mlp_ln' if is_openai else 'final_layer_norm'}", D)
        final = ("ln_post" if stack == "encoder" else "ln") if is_openai else "layer_norm"
        w.norm(f"{stack}.norm", f"{top}.{final}", D)
    return w.rows


# ---- DETR ------------------------------------------------------------------------------------------------------------


def detr(style: str, layers=2):
    w = Writer()
    is_original = style == "original"

    def attention(role, b, word):
        if is_original:
            w.tensor(f"{role}.qkv.weight", f"{b}.{word}.in_proj_weight", 3 * D, D)
            w.tensor(f"{role}.qkv.bias", f"{b}.{word}.in_proj_bias", 3 * D)
        else:
            for part in ("k", "v", "q"):
                w.linear(f"{role}.{part}", f"{b}.{word}.{part}_proj", D, D)
        w.linear(f"{role}.out", f"{b}.{word}.out_proj", D, D)

    def layer(stack, i):
        b, role = f"{'transformer' if is_original else 'model'}.{stack}.layers.{i}", f"{stack}.{i}"
        attention(f"{role}.self", b, "self_attn")
        if not is_original:
            w.norm(f"{role}.norm1", f"{b}.self_attn_layer_norm", D)
        if stack == "decoder":
            attention(f"{role}.cross", b, "multihead_attn" if is_original else "encoder_attn")
            if not is_original:
                w.norm(f"{role}.norm_cross", f"{b}.encoder_attn_layer_norm", D)
        w.linear(f"{role}.up", f"{b}.{'linear1' if is_original else 'fc1'}", FF, D)
        w.linear(f"{role}.down", f"{b}.{'linear2' if is_original else 'fc2'}", D, FF)
        if is_original:
            w.norm(f"{role}.norm1", f"{b}.norm1", D)
            if stack == "decoder":
                w.norm(f"{role}.norm_cross", f"{b}.norm2", D)
            w.norm(f"{role}.norm_ff", f"{b}.{'norm3' if stack == 'decoder' else 'norm2'}", D)
        else:
            w.norm(f"{role}.norm_ff", f"{b}.final_layer_norm", D)

    def backbone(prefix):
        w.rows += [Row(f"backbone.{row.role}", *row[1:]) for row in resnet_torchvision(False, 1, prefix, 0)]

    def heads():
        w.linear("class", "class_embed" if is_original else "class_labels_classifier", 11, D)
        for n, (o, i) in enumerate(((D, D), (D, D), (4, D))):
            w.linear(f"box.{n}", f"{'bbox_embed' if is_original else 'bbox_predictor'}.layers.{n}", o, i)

    if not is_original:
        backbone("model.backbone.conv_encoder.model.")
        w.conv("input", "model.input_projection", D, 2048, 1, 1)
        w.tensor("queries", "model.query_position_embeddings.weight", 7, D)
    for stack in ("encoder", "decoder"):
        for i in range(layers):
            layer(stack, i)
        if stack == "decoder":
            w.norm("norm", "transformer.decoder.norm" if is_original else "model.decoder.layernorm", D)
    heads()
    if is_original:
        w.tensor("queries", "query_embed.weight", 7, D)
        w.conv("input", "input_proj", D, 2048, 1, 1)
        backbone("backbone.0.body.")
    return w.rows


# ---- wav2vec 2.0 -----------------------------------------------------------------------------------------------------


def wav2vec2(style: str, layers=2):
    w = Writer()
    is_fairseq = style == "fairseq"
    w.tensor("mask", "mask_emb" if is_fairseq else "masked_spec_embed", D)
    for n, k in enumerate((10, 3, 3)):
        b = f"feature_extractor.conv_layers.{n}"
        w.conv(f"conv.{n}", f"{b}.{'0' if is_fairseq else 'conv'}", 32, 32 if n else 1, k, bias=False)
        if n == 0:
            w.norm("conv.norm", f"{b}.{'2' if is_fairseq else 'layer_norm'}", 32)

    def projection():
        w.linear("proj", "post_extract_proj" if is_fairseq else "feature_projection.projection", D, 32)

    def first_norm():
        w.norm("proj.norm", "layer_norm" if is_fairseq else "feature_projection.layer_norm", 32)

    if is_fairseq:
        projection()
    else:
        first_norm()
        projection()
    pos = "encoder.pos_conv.0" if is_fairseq else "encoder.pos_conv_embed.conv"
    w.tensor("pos.bias", f"{pos}.bias", D)
    g, v = ("weight_g", "weight_v") if is_fairseq else (
        "parametrizations.weight.original0", "parametrizations.weight.original1")  # fmt: skip
    w.tensor("pos.g", f"{pos}.{g}", 1, 1, 8)
    w.tensor("pos.v", f"{pos}.{v}", D, 12, 8)
    if not is_fairseq:
        w.norm("norm", "encoder.layer_norm", D)
    for i in range(layers):
        b = f"encoder.layers.{i}"
        for part in ("k", "v", "q"):
            w.linear(f"{i}.{part}", f"{b}.{'self_attn' if is_fairseq else 'attention'}.{part}_proj", D, D)
        w.linear(f"{i}.out", f"{b}.{'self_attn' if is_fairseq else 'attention'}.out_proj", D, D)
        w.norm(f"{i}.norm1", f"{b}.{'self_attn_layer_norm' if is_fairseq else 'layer_norm'}", D)
        w.linear(f"{i}.up", f"{b}.{'fc1' if is_fairseq else 'feed_forward.intermediate_dense'}", FF, D)
        w.linear(f"{i}.down", f"{b}.{'fc2' if is_fairseq else 'feed_forward.output_dense'}", D, FF)
        w.norm(f"{i}.norm2", f"{b}.final_layer_norm", D)
    if is_fairseq:
        w.norm("norm", "encoder.layer_norm", D)
        first_norm()
    return w.rows


# ---- Convolutions ----------------------------------------------------------------------------------------------------


def convnext(style: str, widths=(16, 32, 64), depth=2, classes=10):
    w = Writer()
    stem = {"timm": ("stem.0", "stem.1"), "torchvision": ("features.0.0", "features.0.1")}.get(
        style, ("convnext.embeddings.patch_embeddings", "convnext.embeddings.layernorm")
    )
    w.conv("stem", stem[0], widths[0], 3, 4, 4)
    w.norm("stem.norm", stem[1], widths[0])
    for s, size in enumerate(widths):
        down = {"timm": f"stages.{s}.downsample", "torchvision": f"features.{2 * s}"}.get(
            style, f"convnext.encoder.stages.{s}.downsampling_layer"
        )
        if s:
            w.norm(f"{s}.down.norm", f"{down}.0", widths[s - 1])
            w.conv(f"{s}.down", f"{down}.1", size, widths[s - 1], 2, 2)
        for n in range(depth):
            role = f"{s}.{n}"
            if style == "timm":
                b, names = f"stages.{s}.blocks.{n}", ("gamma", "conv_dw", "norm", "mlp.fc1", "mlp.fc2")
            elif style == "torchvision":
                b, names = f"features.{2 * s + 1}.{n}", ("layer_scale", "block.0", "block.2", "block.3", "block.5")
            else:
                b = f"convnext.encoder.stages.{s}.layers.{n}"
                names = ("layer_scale_parameter", "dwconv", "layernorm", "pwconv1", "pwconv2")
            w.tensor(f"{role}.scale", f"{b}.{names[0]}", *((size, 1, 1) if style == "torchvision" else (size,)))
            w.conv(f"{role}.dw", f"{b}.{names[1]}", size, 1, 7, 7)
            w.norm(f"{role}.norm", f"{b}.{names[2]}", size)
            w.linear(f"{role}.up", f"{b}.{names[3]}", 4 * size, size)
            w.linear(f"{role}.down", f"{b}.{names[4]}", size, 4 * size)
    last = {
        "timm": ("head.norm", "head.fc"), "torchvision": ("classifier.0", "classifier.2")
    }.get(style, ("convnext.layernorm", "classifier"))  # fmt: skip
    w.norm("norm", last[0], widths[-1])
    w.linear("head", last[1], classes, widths[-1])
    return w.rows


MOBILE = ((1, 16, 1), (6, 24, 2), (6, 32, 2))  # times to expand, outputs, blocks


def mobilenet_v2(style: str, classes=10):
    w = Writer()
    is_timm = style == "timm"
    w.conv("stem", "conv_stem" if is_timm else "features.0.0", 32, 3, 3, 3, bias=False)
    w.batch_norm("stem.bn", "bn1" if is_timm else "features.0.1", 32)
    inputs, number = 32, 1
    for s, (times, outputs, count) in enumerate(MOBILE):
        for n in range(count):
            role, hidden = f"{s}.{n}", inputs * times
            steps = [("expand", hidden, inputs, 1)] * (times > 1) + [
                ("dw", hidden, 1, 3),
                ("project", outputs, hidden, 1),
            ]
            for m, (step, o, i, k) in enumerate(steps):
                if is_timm:
                    words = ("conv_pw", "conv_dw", "conv_pwl") if times > 1 else ("conv_dw", "conv_pw")
                    names = f"blocks.{s}.{n}.{words[m]}", f"blocks.{s}.{n}.bn{m + 1}"
                else:
                    b = f"features.{number}.conv"
                    names = (f"{b}.{m}", f"{b}.{m + 1}") if step == "project" else (f"{b}.{m}.0", f"{b}.{m}.1")
                w.conv(f"{role}.{step}", names[0], o, i, k, k, bias=False)
                w.batch_norm(f"{role}.{step}.bn", names[1], o)
            inputs, number = outputs, number + 1
    w.conv("last", "conv_head" if is_timm else f"features.{number}.0", 128, inputs, 1, 1, bias=False)
    w.batch_norm("last.bn", "bn2" if is_timm else f"features.{number}.1", 128)
    w.linear("head", "classifier" if is_timm else "classifier.1", classes, 128)
    return w.rows


def efficientnet(style: str, classes=10):
    w = Writer()
    is_timm = style == "timm"
    top = "efficientnet."
    w.conv("stem", "conv_stem" if is_timm else f"{top}embeddings.convolution", 32, 3, 3, 3, bias=False)
    w.batch_norm("stem.bn", "bn1" if is_timm else f"{top}embeddings.batchnorm", 32)
    inputs, number = 32, 0
    for s, (times, outputs, count) in enumerate(MOBILE):
        for n in range(count):
            role, hidden, squeezed = f"{s}.{n}", inputs * times, inputs // 4
            b = f"blocks.{s}.{n}" if is_timm else f"{top}encoder.blocks.{number}"
            step = 1
            if times > 1:
                w.conv(
                    f"{role}.expand",
                    f"{b}.{'conv_pw' if is_timm else 'expansion.expand_conv'}",
                    hidden,
                    inputs,
                    1,
                    1,
                    bias=False,
                )
                w.batch_norm(f"{role}.expand.bn", f"{b}.{'bn1' if is_timm else 'expansion.expand_bn'}", hidden)
                step = 2
            w.conv(
                f"{role}.dw",
                f"{b}.{'conv_dw' if is_timm else 'depthwise_conv.depthwise_conv'}",
                hidden,
                1,
                3,
                3,
                bias=False,
            )
            w.batch_norm(f"{role}.dw.bn", f"{b}.{f'bn{step}' if is_timm else 'depthwise_conv.depthwise_norm'}", hidden)
            se = ("se.conv_reduce", "se.conv_expand") if is_timm else ("squeeze_excite.reduce", "squeeze_excite.expand")
            w.conv(f"{role}.reduce", f"{b}.{se[0]}", squeezed, hidden, 1, 1)
            w.conv(f"{role}.excite", f"{b}.{se[1]}", hidden, squeezed, 1, 1)
            word = ("conv_pwl" if times > 1 else "conv_pw") if is_timm else "projection.project_conv"
            w.conv(f"{role}.project", f"{b}.{word}", outputs, hidden, 1, 1, bias=False)
            w.batch_norm(
                f"{role}.project.bn", f"{b}.{f'bn{step + 1}' if is_timm else 'projection.project_bn'}", outputs
            )
            inputs, number = outputs, number + 1
    w.conv("last", "conv_head" if is_timm else f"{top}encoder.top_conv", 128, inputs, 1, 1, bias=False)
    w.batch_norm("last.bn", "bn2" if is_timm else f"{top}encoder.top_bn", 128)
    w.linear("head", "classifier", classes, 128)
    return w.rows


def cnn(style: str):
    """A small network of three square convolutions and two matrices, one of them square."""
    w = Writer(style, "/" if style == "flax" else ".")
    names = {
        "torch": ("conv1 conv2 conv3", "bn1 bn2 bn3", "fc1 fc2"),
        "flax": ("params.Conv_0 params.Conv_1 params.Conv_2", "", "params.Dense_0 params.Dense_1"),
        "tf": (
            "conv2d conv2d_1 conv2d_2",
            "batch_normalization batch_normalization_1 batch_normalization_2",
            "dense dense_1",
        ),
    }[style]
    convs, norms, dense = (words.split() for words in names)
    for n, name in enumerate(convs):
        w.conv(f"{n}", name, 3, 3, 3, 3)
        if norms:
            w.batch_norm(f"{n}.bn", norms[n], 3)
        else:
            w.norm(f"{n}.bn", f"params.BatchNorm_{n}", 3)
            w.tensor(f"{n}.bn.mean", f"batch_stats.BatchNorm_{n}.mean", 3)
            w.tensor(f"{n}.bn.var", f"batch_stats.BatchNorm_{n}.var", 3)
    w.linear("fc", dense[0], 12, 12)
    w.linear("head", dense[1], 5, 12)
    return w.rows


# ---- U-Net of Stable Diffusion (VAE encoder part) --------------------------------------------------------------------


def vae_encoder(style: str, widths=(8, 16, 16)):
    w = Writer()
    is_diffusers = style == "diffusers"
    w.conv("in", "encoder.conv_in", widths[0], 3, 3, 3)

    def resnet(role, b, i, o):
        w.norm(f"{role}.norm1", f"{b}.norm1", i)
        w.conv(f"{role}.conv1", f"{b}.conv1", o, i, 3, 3)
        w.norm(f"{role}.norm2", f"{b}.norm2", o)
        w.conv(f"{role}.conv2", f"{b}.conv2", o, o, 3, 3)
        if i != o:
            w.conv(f"{role}.short", f"{b}.{'conv_shortcut' if is_diffusers else 'nin_shortcut'}", o, i, 1, 1)

    inputs = widths[0]
    for s, size in enumerate(widths):
        for n in range(2):
            b = f"encoder.down_blocks.{s}.resnets.{n}" if is_diffusers else f"encoder.down.{s}.block.{n}"
            resnet(f"{s}.{n}", b, inputs, size)
            inputs = size
        if s + 1 < len(widths):
            b = f"encoder.down_blocks.{s}.downsamplers.0.conv" if is_diffusers else f"encoder.down.{s}.downsample.conv"
            w.conv(f"{s}.down", b, size, size, 3, 3)
    if is_diffusers:
        b = "encoder.mid_block.attentions.0"
        w.norm("mid.norm", f"{b}.group_norm", inputs)
        for part in "qkv":
            w.linear(f"mid.{part}", f"{b}.to_{part}", inputs, inputs)
        w.linear("mid.out", f"{b}.to_out.0", inputs, inputs)
        resnet("mid.0", "encoder.mid_block.resnets.0", inputs, inputs)
        resnet("mid.1", "encoder.mid_block.resnets.1", inputs, inputs)
    else:
        resnet("mid.0", "encoder.mid.block_1", inputs, inputs)
        w.norm("mid.norm", "encoder.mid.attn_1.norm", inputs)
        for part in "qkv":
            w.conv(f"mid.{part}", f"encoder.mid.attn_1.{part}", inputs, inputs, 1, 1)
        w.conv("mid.out", "encoder.mid.attn_1.proj_out", inputs, inputs, 1, 1)
        resnet("mid.1", "encoder.mid.block_2", inputs, inputs)
    w.norm("norm", "encoder.conv_norm_out" if is_diffusers else "encoder.norm_out", inputs)
    w.conv("last", "encoder.conv_out", 8, inputs, 3, 3)
    return w.rows
