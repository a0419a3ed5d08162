"""Ready rules for well-known models, by the type of the model and the names of two layouts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from funcnet.checkpoint._errors import RuleError
from funcnet.checkpoint._ready import _decoders, _encoders, _experts, _images, _speech
from funcnet.checkpoint._ready._settings import ConfigLike, ModelFacts, WeightsLike, read_settings
from funcnet.checkpoint.rules import Rule, inverse

_RulesOfLayout: TypeAlias = Callable[[ModelFacts], list[Rule]]

_LLAMA: Mapping[str, _RulesOfLayout] = {
    "transformers": _decoders.llama_of_transformers,
    "meta": _decoders.llama_of_meta,
    "plain": _images.same_names,
}
_GEMMA = {**_LLAMA, "google": _decoders.llama_of_google}
_EXPERTS: Mapping[str, _RulesOfLayout] = {
    "transformers": _experts.experts_of_transformers,
    "transformers5": _experts.experts_of_modules,
    "meta": _experts.experts_of_meta,
}
# Each layout with the function that gives the rules from it to one layout that all of a family are led to.
_FAMILIES: Mapping[str, Mapping[str, _RulesOfLayout]] = {
    "gpt2": {
        "transformers": _decoders.gpt2_of_transformers,
        "nanogpt": _decoders.gpt2_of_nanogpt,
        "plain": _decoders.gpt2_of_plain,
    },
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "phi3"), _LLAMA),
    **dict.fromkeys(("gemma", "gemma2"), _GEMMA),
    **dict.fromkeys(("mixtral", "qwen2_moe", "qwen3_moe"), _EXPERTS),
    "bert": {
        "transformers": _encoders.bert_of_transformers,
        "google": _encoders.bert_of_google,
        "plain": _images.same_names,
    },
    "t5": {"transformers": _encoders.t5_of_transformers, "t5x": _encoders.t5_of_t5x},
    "vit": {
        "transformers": _images.vit_of_transformers,
        "transformers5": _images.vit_of_modules,
        "timm": _images.vit_of_timm,
        "torchvision": _images.vit_of_torchvision,
    },
    "resnet": {
        "transformers": _images.resnet_of_transformers,
        "timm": _images.same_names,
        "torchvision": _images.same_names,
    },
    "clip": {"transformers": _images.clip_of_transformers, "openai": _images.clip_of_openai},
    "whisper": {"transformers": _speech.whisper_of_transformers, "openai": _speech.whisper_of_openai},
}


def list_layouts() -> dict[str, tuple[str, ...]]:
    """The layouts that :func:`ready_rules` knows, by the type of the model.

    >>> list_layouts()["gpt2"]
    ('transformers', 'nanogpt', 'plain')
    """
    return {model_type: tuple(layouts) for model_type, layouts in _FAMILIES.items()}


def ready_rules(
    config: ConfigLike, source: str = "transformers", target: str = "plain", *, weights: WeightsLike | None = None
) -> tuple[Rule, ...]:
    """The rules from one layout of a well-known model to another; their inverse leads back.

    "transformers" is the layout of the files that ``save_pretrained`` writes, and "transformers5" that of modules of
    version 5 where it differs. "meta" has the names and the rotary order of Meta's files, "plain" is the layout of
    ``funcnet.models`` with queries, keys and values apart. "google", "openai" and "t5x" are those of the authors.

    Args:
        config: a config of transformers as an object, a dict, or the path of its ``config.json``. A dict with
            ``model_type`` and the sizes that the rules need will do.
        source, target: names of layouts; :func:`list_layouts` has them all.
        weights: the file to convert, if it is at hand. Files differ in whether a tied head is stored, whether names
            have the prefix of a base model, and what older versions saved besides weights.

    Raises:
        RuleError: if there are no rules for such a model or layout; tells those there are.
        ConversionError: if the file of the config is none.

    >>> config = {"model_type": "llama", "num_attention_heads": 4, "hidden_size": 32}
    >>> [rule for rule in ready_rules(config, "transformers", "meta") if type(rule).__name__ == "Interleave"]
    ... # doctest: +ELLIPSIS
    [Interleave(names='layers.{i}.attn.k.{w}', size=8, ...), Interleave(names='layers.{i}.attn.q.{w}', size=8, ...)]
    """
    settings = read_settings(config)
    model_type = str(settings.get("model_type"))
    if model_type not in _FAMILIES:
        known = ", ".join(_FAMILIES)
        raise RuleError(f"there are no ready rules for the model type {model_type!r}; there are for {known}.")
    layouts = _FAMILIES[model_type]
    unknown = [repr(name) for name in (source, target) if name not in layouts]
    if unknown:
        raise RuleError(f"{model_type} has no layout {' or '.join(unknown)}; there are {', '.join(layouts)}.")
    there = layouts[source](ModelFacts.of(settings, weights))
    return join_rules(there, inverse(layouts[target](ModelFacts.of(settings, None))))


def join_rules(first: Sequence[Rule], second: Sequence[Rule]) -> tuple[Rule, ...]:
    """Rules one after the other, without those in between that undo each other.

    >>> from funcnet.checkpoint import Prefix, Rename, Transpose
    >>> join_rules([Transpose("w"), Rename("w", "v")], [Rename("v", "w"), Prefix("model.")])
    (Transpose(names='w', dims=(0, 1), optional=False), Prefix(add='model.', remove='', optional=False))
    """
    count = 0
    while count < min(len(first), len(second)) and second[count] == first[-1 - count].inverse():
        count += 1
    return (*first[: len(first) - count], *second[count:])
