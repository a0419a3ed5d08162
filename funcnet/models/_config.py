"""Configs of transformers, as nets of this room and as the rules that take its checkpoints there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from funcnet._errors import ConversionError, bullet_list
from funcnet.core import Net
from funcnet.models._bert import Bert
from funcnet.models._gpt2 import GPT2
from funcnet.models._llama import Llama
from funcnet.models._parts import ACTIVATIONS
from funcnet.models._rotary import KINDS

ARCHITECTURES: dict[str, tuple[str, str | None]] = {
    "GPT2LMHeadModel": ("gpt2", "lm"),
    "GPT2Model": ("gpt2", None),
    "LlamaForCausalLM": ("llama", "lm"),
    "LlamaModel": ("llama", None),
    "BertForMaskedLM": ("bert", "masked_lm"),
    "BertForSequenceClassification": ("bert", "classes"),
    "BertModel": ("bert", None),
}
"""Classes of transformers that have a net here: the type of the model, and its head."""


@dataclass(frozen=True)
class Described:
    """A config that was understood: the type of the model, its head, the fields of its net, and the name of its class.

    Attributes:
        kind: "gpt2", "llama" or "bert".
        head: what is on top: "lm", "masked_lm", "classes" or None.
        fields: arguments of the net.
    """

    kind: str
    head: str | None
    fields: dict[str, Any]

    def net(self, fused_qkv: bool, stacked: bool) -> Net:
        makers: dict[str, Any] = {"gpt2": GPT2, "llama": Llama, "bert": Bert}
        return makers[self.kind](**self.fields, fused_qkv=fused_qkv, stacked=stacked)


def from_config(
    config: Any, *, architecture: str | None = None, fused_qkv: bool = True, stacked: bool = False
) -> GPT2 | Llama | Bert:
    """The net for a config of transformers.

    Args:
        config: a config object, its dict, or the path of a ``config.json`` or of the folder it is in.
        architecture: the class in transformers, as "LlamaForCausalLM"; default the one that the config names, or else
            that with a head for words.
        fused_qkv, stacked: the layout; see :class:`GPT2`.

    Raises:
        ConversionError: lists all that the config asks for and no net here does.

    >>> net = from_config({"model_type": "gpt2", "n_layer": 2, "n_embd": 8, "n_head": 2, "vocab_size": 50})
    >>> net.num_hidden_layers, net.aliases
    (2, {'head.weight': 'embed.token.weight'})
    """
    return described(config, architecture).net(fused_qkv, stacked)  # type: ignore[return-value]


def described(config: Any, architecture: str | None = None) -> Described:
    """A config, read.

    Raises:
        ConversionError: as of :func:`from_config`.
    """
    given = _plain(config)
    readers = {"gpt2": _gpt2, "llama": _llama, "bert": _bert}
    kind = given.get("model_type")
    if kind not in readers:
        raise ConversionError(f"the config is of the model type {kind!r}; there are nets for {', '.join(readers)}.")
    named = architecture or next(iter(given.get("architectures") or ()), None)
    standard = {"gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM", "bert": "BertForMaskedLM"}
    of_kind = [name for name, (other, _) in ARCHITECTURES.items() if other == kind]
    named = named or standard[kind]
    if named not in of_kind:
        raise ConversionError(
            f"there is no net for {named!r}; of this type there are {', '.join(of_kind)}. "
            f"Say architecture= to take the part of the checkpoint that one of these has."
        )
    head = ARCHITECTURES[named][1]
    fields, wrong = readers[kind](given, head)
    if fields["activation"] not in ACTIVATIONS:
        wrong.append(f"activation {fields['activation']!r}; there are {', '.join(ACTIVATIONS)}")
    if wrong:
        raise ConversionError(f"no net here does what the config of this {named} asks for:{bullet_list(wrong)}")
    return Described(kind, head, fields)


def _plain(config: Any) -> Mapping[str, Any]:
    if isinstance(config, (str, os.PathLike)):
        path = Path(config)
        try:
            found = json.loads((path / "config.json" if path.is_dir() else path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConversionError(f"{str(config)!r} is no config: {error}") from None
        if not isinstance(found, dict):
            raise ConversionError(f"{str(config)!r} is no config: it holds a {type(found).__name__}, not an object.")
        return found
    return config if isinstance(config, Mapping) else config.to_dict()


def _unless(wrong: list[str], given: Mapping[str, Any], **wanted: Any) -> None:
    """Note settings that are there and not as wanted."""
    wrong += [f"{name} = {given[name]!r}" for name, value in wanted.items() if given.get(name, value) != value]


def _taken(given: Mapping[str, Any], **names: str) -> dict[str, Any]:
    """Fields from settings of other names, as far as they are there."""
    return {field: given[name] for field, name in names.items() if given.get(name) is not None}


def _gpt2(given: Mapping[str, Any], head: str | None) -> tuple[dict[str, Any], list[str]]:
    wrong: list[str] = []
    _unless(wrong, given, add_cross_attention=False)
    fields = _taken(
        given,
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
    return {**fields, "activation": given.get("activation_function", "gelu_new"), "head": head is not None}, wrong


def _llama(given: Mapping[str, Any], head: str | None) -> tuple[dict[str, Any], list[str]]:
    wrong: list[str] = []
    rope = dict(given.get("rope_parameters") or given.get("rope_scaling") or {})  # the older name came without theta
    theta = rope.pop("rope_theta", given.get("rope_theta", 10000.0))
    kind = rope.pop("type", None)
    rope.setdefault("rope_type", kind or "default")
    _unless(wrong, rope, partial_rotary_factor=1.0)
    if rope["rope_type"] not in KINDS:
        wrong.append(f"rope_type {rope['rope_type']!r}; there are {', '.join(KINDS)}")
    fields = _taken(
        given,
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
    numbers = {name: rope[name] for name in ("rope_type", *KINDS.get(rope["rope_type"], ())) if name in rope}
    missing = [name for name in KINDS.get(rope["rope_type"], ()) if name not in rope]
    wrong += [f"rope_type {rope['rope_type']!r} without {', '.join(missing)}"] * bool(missing)
    extra = {"activation": given.get("hidden_act", "silu"), "head": head is not None}
    return {**fields, **extra, "rope_theta": float(theta), "rope_scaling": tuple(numbers.items())}, wrong


def _bert(given: Mapping[str, Any], head: str | None) -> tuple[dict[str, Any], list[str]]:
    wrong: list[str] = []
    _unless(wrong, given, is_decoder=False, add_cross_attention=False, chunk_size_feed_forward=0)
    _unless(wrong, given, position_embedding_type="absolute")
    fields = _taken(
        given,
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
    labels = given.get("id2label")
    return {
        **fields,
        "padding_idx": given.get("pad_token_id", 0),
        "activation": given.get("hidden_act", "gelu"),
        "num_labels": len(labels) if labels else given.get("num_labels", 2),
        "head": head,
        "pooler": head != "masked_lm",
    }, wrong
