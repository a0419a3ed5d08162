"""Configs of transformers: read as the fields of a net here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from funcnet._errors import ConversionError, bullet_list
from funcnet.checkpoint.internals import ConfigLike, read_settings
from funcnet.models._bert import Bert
from funcnet.models._gpt2 import GPT2
from funcnet.models._llama import Llama
from funcnet.models._rotary import ROPE_TYPES
from funcnet.models._transformer_model import ACTIVATIONS

ARCHITECTURES: dict[str, tuple[str, str | None]] = {
    "GPT2LMHeadModel": ("gpt2", "lm"),
    "GPT2Model": ("gpt2", None),
    "LlamaForCausalLM": ("llama", "lm"),
    "LlamaModel": ("llama", None),
    "BertForMaskedLM": ("bert", "masked_lm"),
    "BertForSequenceClassification": ("bert", "classes"),
    "BertModel": ("bert", None),
}
"""Classes of transformers that have a net here -> the type of the model, and its head."""
_DEFAULT_ARCHITECTURES = {"gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM", "bert": "BertForMaskedLM"}


@dataclass(frozen=True)
class ModelConfig:
    """A config that was understood.

    Attributes:
        model_type: "gpt2", "llama" or "bert".
        head: what is on top: "lm", "masked_lm", "classes" or None.
        fields: arguments of the net.
        architecture: the class in transformers.
    """

    model_type: str
    head: str | None
    fields: dict[str, Any]
    architecture: str

    def make_net(self, fused_qkv: bool, stacked: bool) -> GPT2 | Llama | Bert:
        """The net that the config describes."""
        net_classes: dict[str, type[GPT2 | Llama | Bert]] = {"gpt2": GPT2, "llama": Llama, "bert": Bert}
        return net_classes[self.model_type](**self.fields, fused_qkv=fused_qkv, stacked=stacked)


def from_config(
    config: ConfigLike, *, architecture: str | None = None, fused_qkv: bool = True, stacked: bool = False
) -> GPT2 | Llama | Bert:
    """The net for a config of transformers.

    Args:
        config: a config object, its dict, or the path of a ``config.json`` or of the folder that it is in.
        architecture: the class in transformers, as "LlamaForCausalLM"; default the class that the config names, or else
            the class with a head for words.
        fused_qkv, stacked: the layout; see :class:`GPT2`.

    Raises:
        ConversionError: lists every setting of the config that no net here supports.

    >>> net = from_config({"model_type": "gpt2", "n_layer": 2, "n_embd": 8, "n_head": 2, "vocab_size": 50})
    >>> net.num_hidden_layers, net.aliases
    (2, {'head.weight': 'embed.token.weight'})
    """
    return read_config(config, architecture).make_net(fused_qkv, stacked)


def read_config(config: ConfigLike, architecture: str | None = None) -> ModelConfig:
    """The model that a config describes.

    Raises:
        ConversionError: as :func:`from_config` does.
    """
    settings = read_settings(config)
    readers = {"gpt2": _read_gpt2, "llama": _read_llama, "bert": _read_bert}
    model_type = settings.get("model_type")
    if model_type not in readers:
        raise ConversionError(
            f"the config is of the model type {model_type!r}; there are nets for {', '.join(readers)}."
        )
    name = architecture or next(iter(settings.get("architectures") or ()), None) or _DEFAULT_ARCHITECTURES[model_type]
    supported = [class_name for class_name, (net_type, _) in ARCHITECTURES.items() if net_type == model_type]
    if name not in supported:
        raise ConversionError(
            f"there is no net for {name!r}; of this type there are {', '.join(supported)}. "
            f"Say architecture= to take the part of the checkpoint that one of these has."
        )
    head = ARCHITECTURES[name][1]
    fields, problems = readers[model_type](settings, head)
    if fields["activation"] not in ACTIVATIONS:
        problems.append(f"activation {fields['activation']!r}; there are {', '.join(ACTIVATIONS)}")
    if problems:
        raise ConversionError(f"no net here does what the config of this {name} asks for:{bullet_list(problems)}")
    return ModelConfig(model_type, head, fields, name)


def _find_unsupported(settings: Mapping[str, Any], **supported: object) -> list[str]:
    """The settings that are present and have another value than the only one that is supported."""
    return [f"{name} = {settings[name]!r}" for name, value in supported.items() if settings.get(name, value) != value]


def _rename_settings(settings: Mapping[str, Any], **setting_of_field: str) -> dict[str, Any]:
    """The fields of a net, from settings with other names; settings that are absent or None are left out."""
    return {field: settings[name] for field, name in setting_of_field.items() if settings.get(name) is not None}


def _read_gpt2(settings: Mapping[str, Any], head: str | None) -> tuple[dict[str, Any], list[str]]:
    """The fields of a GPT2, and the settings that it does not support."""
    problems = _find_unsupported(settings, add_cross_attention=False)
    fields = _rename_settings(
        settings,
        vocab_size="vocab_size",
        max_position_embeddings="n_positions",
        hidden_size="n_embd",
        num_hidden_layers="n_layer",
        num_attention_heads="n_head",
        intermediate_size="n_inner",
        layer_norm_eps="layer_norm_epsilon",
        embedding_dropout="embd_pdrop",
        attention_dropout="attn_pdrop",
        residual_dropout="resid_pdrop",
        scale_attention="scale_attn_weights",
        scale_by_layer="scale_attn_by_inverse_layer_idx",
        tie_word_embeddings="tie_word_embeddings",
    )
    return {**fields, "activation": settings.get("activation_function", "gelu_new"), "head": head is not None}, problems


def _read_llama(settings: Mapping[str, Any], head: str | None) -> tuple[dict[str, Any], list[str]]:
    """The fields of a Llama, and the settings that it does not support."""
    # older versions say rope_scaling, call its type just type, and have theta beside it
    rope: dict[str, Any] = dict(settings.get("rope_parameters") or settings.get("rope_scaling") or {})
    theta = rope.pop("rope_theta", settings.get("rope_theta", 10000.0))
    old_type = rope.pop("type", None)
    rope_type = rope.setdefault("rope_type", old_type or "default")
    problems = _find_unsupported(rope, partial_rotary_factor=1.0)
    if rope_type not in ROPE_TYPES:
        problems.append(f"rope_type {rope_type!r}; there are {', '.join(ROPE_TYPES)}")
    fields = _rename_settings(
        settings,
        vocab_size="vocab_size",
        hidden_size="hidden_size",
        intermediate_size="intermediate_size",
        num_hidden_layers="num_hidden_layers",
        num_attention_heads="num_attention_heads",
        num_key_value_heads="num_key_value_heads",
        head_dim="head_dim",
        rms_norm_eps="rms_norm_eps",
        attention_bias="attention_bias",
        mlp_bias="mlp_bias",
        attention_dropout="attention_dropout",
        padding_idx="pad_token_id",
        tie_word_embeddings="tie_word_embeddings",
    )
    numbers = ROPE_TYPES.get(rope_type, ())
    missing = [name for name in numbers if name not in rope]
    if missing:
        problems.append(f"rope_type {rope_type!r} without {', '.join(missing)}")
    scaling = tuple((name, rope[name]) for name in ("rope_type", *numbers) if name in rope)
    extra = {"activation": settings.get("hidden_act", "silu"), "head": head is not None}
    return {**fields, **extra, "rope_theta": float(theta), "rope_scaling": scaling}, problems


def _read_bert(settings: Mapping[str, Any], head: str | None) -> tuple[dict[str, Any], list[str]]:
    """The fields of a Bert, and the settings that it does not support."""
    problems = _find_unsupported(
        settings,
        is_decoder=False,
        add_cross_attention=False,
        chunk_size_feed_forward=0,
        position_embedding_type="absolute",
    )
    fields = _rename_settings(
        settings,
        vocab_size="vocab_size",
        max_position_embeddings="max_position_embeddings",
        type_vocab_size="type_vocab_size",
        hidden_size="hidden_size",
        num_hidden_layers="num_hidden_layers",
        num_attention_heads="num_attention_heads",
        intermediate_size="intermediate_size",
        layer_norm_eps="layer_norm_eps",
        hidden_dropout="hidden_dropout_prob",
        attention_dropout="attention_probs_dropout_prob",
        classifier_dropout="classifier_dropout",
        tie_word_embeddings="tie_word_embeddings",
    )
    labels = settings.get("id2label")
    return {
        **fields,
        "padding_idx": settings.get("pad_token_id", 0),
        "activation": settings.get("hidden_act", "gelu"),
        "num_labels": len(labels) if labels else settings.get("num_labels", 2),
        "head": head,
        "pooler": head != "masked_lm",
    }, problems
