"""Ready rules for models of images: ViT and ResNet of transformers, timm and torchvision, and CLIP."""

from __future__ import annotations

from collections.abc import Sequence

from funcnet.checkpoint._dtypes import dtype_name
from funcnet.checkpoint._ready._settings import ModelFacts, rename_rules
from funcnet.checkpoint.rules import Drop, Prefix, Rename, Rule, Split, Transpose

_QKV = ("query", "key", "value")
_VIT_PARTS = {
    "attention.output.dense": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
}


def vit_of_transformers(facts: ModelFacts) -> list[Rule]:
    """The files of ViT in transformers, with the prefix of the base model."""
    return [] if facts.has("vit.") else [Prefix(add="vit.")]


def vit_of_modules(facts: ModelFacts) -> list[Rule]:
    """From the modules of transformers 5 to the names of its files."""
    rules = vit_of_transformers(facts)
    names = {
        **{f"attention.{new[0]}_proj.{{w}}": f"attention.attention.{new}.{{w}}" for new in _QKV},
        "attention.o_proj.{w}": "attention.output.dense.{w}",
        "mlp.fc1.{w}": "intermediate.dense.{w}",
        "mlp.fc2.{w}": "output.dense.{w}",
        "layernorm_before.{w}": "layernorm_before.{w}",
        "layernorm_after.{w}": "layernorm_after.{w}",
    }
    return [*rules, *rename_rules("vit.layers.{i}.", "vit.encoder.layer.{i}.", names)]


def vit_of_timm(facts: ModelFacts) -> list[Rule]:
    """From timm to transformers."""
    layer = "vit.encoder.layer.{i}."
    rules: list[Rule] = [
        Rename("cls_token", "vit.embeddings.cls_token"),
        Rename("pos_embed", "vit.embeddings.position_embeddings"),
        Rename("patch_embed.proj.{w}", "vit.embeddings.patch_embeddings.projection.{w}"),
        _split_vit("blocks.{i}.attn.qkv.{w}", [f"{layer}attention.attention.{name}.{{w}}" for name in _QKV], facts),
    ]
    rules += rename_rules("blocks.{i}.", layer, {f"{new}.{{w}}": f"{old}.{{w}}" for old, new in _VIT_PARTS.items()})
    rules.append(Rename("norm.{w}", "vit.layernorm.{w}"))
    return [*rules, Rename("head.{w}", "classifier.{w}", optional=True)]


def vit_of_torchvision(facts: ModelFacts) -> list[Rule]:
    """From torchvision, whose attention is nn.MultiheadAttention, to transformers."""
    layer, block = "vit.encoder.layer.{i}.", "encoder.layers.encoder_layer_{i}."
    rules: list[Rule] = [
        Rename("class_token", "vit.embeddings.cls_token"),
        Rename("encoder.pos_embedding", "vit.embeddings.position_embeddings"),
        Rename("conv_proj.{w}", "vit.embeddings.patch_embeddings.projection.{w}"),
    ]
    for name in ("weight", "bias"):
        parts = [f"{layer}attention.attention.{part}.{name}" for part in _QKV]
        rules.append(_split_vit(f"{block}self_attention.in_proj_{name}", parts, facts))
    rules += rename_rules(block, layer, {
        "self_attention.out_proj.{w}": "attention.output.dense.{w}",
        "mlp.0.{w}": "intermediate.dense.{w}",
        "mlp.3.{w}": "output.dense.{w}",
        "ln_1.{w}": "layernorm_before.{w}",
        "ln_2.{w}": "layernorm_after.{w}",
    })  # fmt: skip
    rules.append(Rename("encoder.ln.{w}", "vit.layernorm.{w}"))
    return [*rules, Rename("heads.head.{w}", "classifier.{w}", optional=True)]


def _split_vit(source: str, parts: Sequence[str], facts: ModelFacts) -> Rule:
    size = facts.number("hidden_size", "embed_dim", default=768)
    return Split(source, tuple(parts), (size, size, size))


def resnet_of_transformers(facts: ModelFacts) -> list[Rule]:
    """From ResNet in transformers to the names of torchvision, which timm has too."""
    prefix = "resnet." if facts.has("resnet.") else ""
    count = 2 if facts.settings.get("layer_type", "bottleneck") == "basic" else 3
    rules = rename_rules(
        f"{prefix}embedder.embedder.", "", {"convolution.{w}": "conv1.{w}", "normalization.{w}": "bn1.{w}"}
    )
    for stage in range(len(facts.settings.get("depths") or (3, 4, 6, 3))):
        block = f"{prefix}encoder.stages.{stage}.layers.{{j}}."
        names = {"shortcut.convolution.{w}": "downsample.0.{w}", "shortcut.normalization.{w}": "downsample.1.{w}"}
        rules += rename_rules(block, f"layer{stage + 1}.{{j}}.", names, optional=True)
        for number in range(count):
            names = {
                f"layer.{number}.convolution.{{w}}": f"conv{number + 1}.{{w}}",
                f"layer.{number}.normalization.{{w}}": f"bn{number + 1}.{{w}}",
            }
            rules += rename_rules(block, f"layer{stage + 1}.{{j}}.", names)
    return [*rules, Rename("classifier.1.{w}", "fc.{w}", optional=True)]


def same_names(facts: ModelFacts) -> list[Rule]:
    """The layout to which the others are led."""
    return []


def clip_of_transformers(facts: ModelFacts) -> list[Rule]:
    """The files of CLIP in transformers without the positions that older versions saved."""
    names = [f"{side}_model.embeddings.position_ids" for side in ("text", "vision")]
    return [
        Drop(name, "arange", spec.shape, dtype_name(spec.dtype))
        for name in names
        if (spec := facts.find(name)) is not None
    ]


def clip_of_openai(facts: ModelFacts) -> list[Rule]:
    """From the files of CLIP's authors to transformers."""
    # the archives of TorchScript that they published hold these numbers as tensors
    constants = [name for name in ("input_resolution", "context_length", "vocab_size") if facts.find(name) is not None]
    rules: list[Rule] = [Drop(name) for name in constants]
    rules += rename_rules("", "text_model.", {
        "token_embedding.weight": "embeddings.token_embedding.weight",
        "positional_embedding": "embeddings.position_embedding.weight",
        "ln_final.{w}": "final_layer_norm.{w}",
    })  # fmt: skip
    rules += rename_rules("visual.", "vision_model.", {
        "class_embedding": "embeddings.class_embedding",
        "positional_embedding": "embeddings.position_embedding.weight",
        "conv1.weight": "embeddings.patch_embedding.weight",
        "ln_pre.{w}": "pre_layrnorm.{w}",
        "ln_post.{w}": "post_layernorm.{w}",
    })  # fmt: skip
    rules += [Rename("visual.proj", "visual_projection.weight"), Transpose("visual_projection.weight")]
    rules += [Rename("text_projection", "text_projection.weight"), Transpose("text_projection.weight")]
    sides = {"text": ("", 512), "vision": ("visual.", 768)}
    for side, (prefix, default) in sides.items():
        size = facts.number(f"{side}_config.hidden_size", default=default)
        block, layer = f"{prefix}transformer.resblocks.{{i}}.", f"{side}_model.encoder.layers.{{i}}."
        for name in ("weight", "bias"):
            parts = tuple(f"{layer}self_attn.{part}_proj.{name}" for part in "qkv")
            rules.append(Split(f"{block}attn.in_proj_{name}", parts, (size, size, size)))
        rules += rename_rules(block, layer, {
            "attn.out_proj.{w}": "self_attn.out_proj.{w}",
            "ln_1.{w}": "layer_norm1.{w}",
            "mlp.c_fc.{w}": "mlp.fc1.{w}",
            "mlp.c_proj.{w}": "mlp.fc2.{w}",
            "ln_2.{w}": "layer_norm2.{w}",
        })  # fmt: skip
    return rules
